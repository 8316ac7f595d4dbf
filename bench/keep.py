"""keep(): one durable swipe, next to the floor: a preallocated file and fdatasync on the same disk."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from agent.clock.system_clock import SystemClock
from agent.outbox import Outbox
from agent.outbox.swipe_queue import SwipeQueue
from agent.readers.events import raw_hex
from agent.service.write_loop import WriteLoop
from agent.swipe import CardCheck, CardRead, Swipe
from bench.figures import Figure, percentile

_SWIPES = 1_000
_ROUNDS = 3
_SECTOR_BYTES = 512
_RATIO, _DEVICE_BYTES = 1.5, 7_000
_BURST_READERS, _BURST_EACH = 8, 50
_POLL_S, _STOP_S = 0.0005, 60.0
_BURST_FLUSHES = 0.5
_IMAGE_BYTES = 256_000_000


def run() -> list[Figure]:
    """Times on the disk of the temporary directory; bytes and flushes on a disk image of its own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        ratios = [_ratio(Path(name) / str(n)) for n in range(_ROUNDS)]
        lowest, keep, ratio = sorted(ratios, key=lambda found: found[2])[_ROUNDS // 2]
        figures = [
            Figure("floor p50", f"{lowest * 1e6:.0f} us"),
            Figure("keep() p50", f"{keep * 1e6:.0f} us", f"<= {_RATIO} x floor", ratio <= _RATIO),
            Figure("keep() / floor", f"{ratio:.2f}", f"<= {_RATIO}", ratio <= _RATIO),
        ]
        return figures + _on_own_disk(Path(name))


def _ratio(directory: Path) -> tuple[float, float, float]:
    """Both in turns, so that a disk that slows down slows both."""
    directory.mkdir()
    outbox = Outbox(directory, agent_id="bench")
    floor_times, keep_times = [], []
    with floor(directory / "floor") as write:
        for number in range(_SWIPES):
            floor_times.append(_timed(write, number))
            keep_times.append(_timed(lambda n: outbox.keep(swipe(n)), number))
    outbox.close()
    lowest, keep = percentile(floor_times, 50), percentile(keep_times, 50)
    return lowest, keep, keep / lowest


@contextlib.contextmanager
def floor(path: Path) -> Iterator[Callable[[int], None]]:
    """The least that a durable write of a row's size costs: overwrite allocated space, flush."""
    size, slot = 4 << 20, 4096
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        os.pwrite(fd, bytes(size), 0)
        os.fsync(fd)

        def write(number: int) -> None:
            os.pwrite(fd, b"x" * 700, number * slot % size)
            os.fdatasync(fd)

        yield write
    finally:
        os.close(fd)


def _timed(action: Callable[[int], None], number: int) -> float:
    begun = time.perf_counter()
    action(number)
    return time.perf_counter() - begun


def swipe(number: int) -> Swipe:
    """A swipe like most: a Wiegand card of 26 bits."""
    card = CardRead(26, raw_hex(26, number), CardCheck.PARITY, "H10301", 123, number % 65_536)
    return Swipe(
        reader_id="RDR-101",
        zone_id="ZONE-LOBBY-1",
        direction="ENTRY",
        badge_id=f"123-{number}",
        user_id="USR-001",
        card=card,
        read_at=_CLOCK.now(),
    )


_CLOCK = SystemClock("always")


# --- bytes and flushes ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Io:
    """Counters of a block device: see Documentation/ABI/stable/sysfs-block in the kernel's tree."""

    sectors: int
    flushes: int


def _on_own_disk(directory: Path) -> list[Figure]:
    if os.geteuid() != 0:
        return [Figure("device bytes per swipe", "not measured", "needs root for a loop device")]
    with _disk(directory / "image", directory / "mount") as device:
        outbox = Outbox(directory / "mount" / "state", agent_id="bench")
        os.sync()
        before = _io(device)
        for number in range(_SWIPES):
            outbox.keep(swipe(number))
        os.sync()  # what is still to be written for these swipes counts, too
        after = _io(device)
        burst = _burst(outbox, device)
        outbox.close()
    device_bytes = (after.sectors - before.sectors) * _SECTOR_BYTES / _SWIPES
    flushes = (after.flushes - before.flushes) / _SWIPES
    return [
        Figure(
            "device bytes per lone swipe",
            f"{device_bytes:.0f}",
            f"<= {_DEVICE_BYTES}",
            device_bytes <= _DEVICE_BYTES,
        ),
        Figure("flushes per lone swipe", f"{flushes:.2f}", "1", flushes < 1.1),  # noqa: PLR2004 - checkpoints
        Figure(
            f"flushes per swipe, {_BURST_READERS} readers in parallel",
            f"{burst:.2f}",
            "< 0.5",
            burst < _BURST_FLUSHES,
        ),
    ]


def _burst(outbox: Outbox, device: str) -> float:
    """Readers that swipe as soon as their last swipe is on disk, through the queue and its writer."""
    before = _io(device)
    ids = [f"RDR-{number}" for number in range(_BURST_READERS)]
    queue = SwipeQueue(ids)
    loop = WriteLoop(
        queue,
        lambda swipes: outbox.keep(*swipes),
        reader_ids=ids,
        free_reserve=outbox.free_reserve,
        is_disk_short=lambda: False,
        changed=lambda: None,
    )

    def read(reader_id: str) -> None:
        for number in range(_BURST_EACH):
            queue.put(replace(swipe(number), reader_id=reader_id))
            while queue.stored(reader_id) <= number:
                time.sleep(_POLL_S)

    threads = [threading.Thread(target=read, args=[reader_id]) for reader_id in ids]
    writer = threading.Thread(target=loop.run, args=[lambda _: None])
    for thread in (writer, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    loop.stop(time.monotonic() + _STOP_S)
    writer.join()
    return (_io(device).flushes - before.flushes) / (_BURST_READERS * _BURST_EACH)


@contextlib.contextmanager
def _disk(image: Path, mount: Path) -> Iterator[str]:
    """An ext4 on a loop device: no other process writes to it."""
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", str(image)], check=True)
    device = subprocess.run(
        ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True
    ).stdout.strip()
    mount.mkdir()
    try:
        subprocess.run(["mount", device, str(mount)], check=True)
        try:
            yield Path(device).name
        finally:
            subprocess.run(["umount", str(mount)], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def _io(device: str) -> _Io:
    fields = Path(f"/sys/block/{device}/stat").read_text().split()
    return _Io(sectors=int(fields[6]), flushes=int(fields[15]))
