"""Readers of the tests' own on a pseudo-terminal."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.agent_process import PtyReader
from tests.support.osdp_device import OsdpDevice


@contextmanager
def devices_on(
    line: PtyReader, *devices: OsdpDevice, baudrate: int | None = None, by_byte: bool = False
) -> Iterator[None]:
    """These readers answer on the line until the end of the block.

    With `baudrate` after the time that command and reply take on such a line, and 3 ms; `by_byte`: as with a
    USB adapter, which delivers each byte when the line has carried it.
    """
    ended = threading.Event()

    def answer() -> None:
        held = b""
        while not ended.is_set():
            if not select.select([line.fileno()], [], [], 0.02)[0]:
                continue
            held += os.read(line.fileno(), 4096)
            while (frame := _first_frame(held)) is not None:
                held = held[held.index(b"\x53") + len(frame) :]
                for device in devices:
                    if reply := device.reply(frame):
                        if baudrate is None:
                            line.write(reply)
                        else:
                            time.sleep(len(frame) * 10 / baudrate + 0.003)
                            _carry(line, reply, 10 / baudrate, by_byte=by_byte)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _carry(line: PtyReader, reply: bytes, byte_s: float, *, by_byte: bool) -> None:
    begun_s = time.monotonic()
    for end in range(1, len(reply) + 1) if by_byte else (len(reply),):
        time.sleep(max(0.0, begun_s + end * byte_s - time.monotonic()))
        line.write(reply[end - 1 : end] if by_byte else reply)


def _first_frame(held: bytes) -> bytes | None:
    start = held.find(b"\x53")
    if start < 0 or len(held) < start + 5:
        return None
    length = int.from_bytes(held[start + 2 : start + 4], "little")
    return held[start : start + length] if len(held) >= start + length else None
