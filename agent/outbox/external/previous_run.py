"""What an outbox holds of the agent process before this one in the same boot; read before it is opened."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from agent import rows
from agent.clock.reading import ClockReading
from agent.errors import AgentError
from agent.outbox.database import OUTBOX_FILE, open_external
from agent.outbox.external.connection import is_there
from agent.outbox.file_errors import translated
from agent.outbox.timing import boot_table
from agent.swipe import LastRead

# The newest rows: more than readers send within a hold-off.
_ROWS = 100
# A process that ends reads the rest of a frame for up to a second, on one port longer than on another.
_LAST_FRAMES_US = 1_000_000


@dataclass(frozen=True, slots=True)
class LastRun:
    """`last_us`: all readers were read up to this moment of the boot-time clock; 0 if nothing is known."""

    last_us: int
    last_reads: dict[str, tuple[LastRead, ...]]  # by reader, oldest first


_NOTHING = LastRun(0, {})


def last_run(state_dir: Path, now: ClockReading) -> LastRun:
    """The last run in the boot of this clock reading; an empty one if the outbox cannot be read.

    Read a second time if the disk fails: without it, cards that are held meanwhile would be swipes again.
    """
    for _ in range(2):
        with suppress(AgentError):
            return _last_run(state_dir, now)
    return _NOTHING


def _last_run(state_dir: Path, now: ClockReading) -> LastRun:
    if not is_there(state_dir):
        return _NOTHING
    # A file of an earlier schema is read, too: after an upgrade it is not migrated yet.
    with translated(state_dir / OUTBOX_FILE), closing(open_external(state_dir, "ro")) as connection:
        boot = next((b for b in reversed(boot_table.read(connection)) if b.boot_id == now.boot_id), None)
        if boot is None:
            return _NOTHING
        newest = connection.execute(
            "SELECT row, boot_us FROM swipes WHERE boot = ? ORDER BY n DESC LIMIT ?", (boot.number, _ROWS)
        ).fetchall()
    last_reads: dict[str, tuple[LastRead, ...]] = {}
    for row, boot_us in newest:
        card = rows.card_of(row)
        if card is not None and isinstance(boot_us, int):
            reader_id, bits, raw = card
            read = LastRead(bits, raw, boot_us // 1_000)
            last_reads[reader_id] = (read, *last_reads.get(reader_id, ()))
    return LastRun(max(0, boot.last_us - _LAST_FRAMES_US), last_reads)
