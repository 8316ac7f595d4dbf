"""Who else uses a serial port or its name: other programs, a login, the console, a second adapter."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from agent.readers.detect.own_uart import Advice, users_of
from agent.readers.port import holders_of
from agent.readers.port_names import is_shared, stable_name_of

_PROC = Path("/proc")


def port_advice(device: str, *, own_pids: Collection[int]) -> list[Advice]:
    """What is wrong with the use of this port, which may be open in one of the agent's own processes.

    Other programs are found as far as /proc shows their descriptors: root sees all, the service none of
    other users.
    """
    return [*users_of(device), *_other_programs(device, own_pids), *_shared_name(device)]


def _other_programs(device: str, own_pids: Collection[int]) -> list[Advice]:
    found = []
    for pid in holders_of(device):
        if pid not in own_pids:
            text = f"process {pid}{_name_of(pid)} has {device} open too, and takes bytes of the reader"
            found.append(Advice(text, f"end that program: ps -p {pid}; systemctl status {pid}"))
    return found


def _name_of(pid: int) -> str:
    try:
        name = (_PROC / str(pid) / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        return ""
    return f" ({name})" if name.isprintable() else ""


def _shared_name(device: str) -> list[Advice]:
    if not is_shared(device):
        return []
    stable = stable_name_of(device)
    name = stable or "a name from: ls -l /dev/serial/by-path/"
    text = (
        f"several adapters claim the name {device}, at present it is {os.path.realpath(device)}: "
        "the swipes may be those of another door"
    )
    return [Advice(text, f"present a card at this reader; if its swipe appears, set port = {name}")]
