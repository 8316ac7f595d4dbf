"""A time server inside a machine, on UDP port 123: its boot-time clock plus an offset in seconds."""

from __future__ import annotations

import socket
import struct
import sys
import time

_FROM_1900_S = 2_208_988_800


def _ntp_time(offset_s: float) -> int:
    return int((time.clock_gettime(time.CLOCK_BOOTTIME) + offset_s + _FROM_1900_S) * 2**32)


def main() -> None:
    """Answer until it is killed."""
    offset_s = float(sys.argv[1])
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 123))
    while True:
        asked, sender = server.recvfrom(512)
        now = _ntp_time(offset_s)
        sent_at = struct.unpack("!Q", asked[40:48])[0]
        # Version 4, mode server, stratum 1, no root delay; times: reference, origin, receive, transmit.
        server.sendto(
            struct.pack("!BBbbII4sQQQQ", 0x24, 1, 4, -20, 0, 1, b"TEST", now, sent_at, now, now), sender
        )


main()
