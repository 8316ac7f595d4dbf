"""Run commands that arrive on a virtio port, inside a machine: a line of JSON each way."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

_PORT = Path("/dev/virtio-ports/door.shell")
_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
    "COLUMNS": "200",
}


def _answer(line: bytes) -> dict[str, object]:
    asked = json.loads(line)
    if "path" in asked:
        path = Path(asked["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes.fromhex(asked["hex"]))
        path.chmod(asked["mode"])
        return {"code": 0, "output": ""}
    ended = subprocess.run(
        asked["words"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_ENVIRONMENT,
        cwd="/",
        check=False,
    )
    return {"code": ended.returncode, "output": ended.stdout.decode(errors="replace")}


def main() -> None:
    """Serve until the machine is off."""
    while not _PORT.exists():
        time.sleep(0.1)
    port = os.open(_PORT, os.O_RDWR)
    buffer = b""
    while True:
        while b"\n" not in buffer:
            read = os.read(port, 65536)
            if not read:  # no one is connected
                time.sleep(0.1)
            buffer += read
        line, _, buffer = buffer.partition(b"\n")
        answer = json.dumps(_answer(line)).encode() + b"\n"
        while answer:
            answer = answer[os.write(port, answer) :]


main()
