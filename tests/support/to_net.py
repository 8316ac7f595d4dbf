"""One connection of a guest: join standard input, which qemu makes a socket, with a TCP port."""

from __future__ import annotations

import select
import socket
import sys


def main() -> None:
    """Copy both ways until one side ends."""
    guest = socket.socket(fileno=0)
    host = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    ends = {guest: host, host: guest}
    while True:
        for end in select.select([guest, host], [], [])[0]:
            data = end.recv(65536)
            if not data:
                return
            ends[end].sendall(data)


main()
