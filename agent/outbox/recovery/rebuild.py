"""Rebuilds a damaged outbox: every readable row moves to a new file, the damaged one is quarantined.

Theory of operation

Input: an outbox file that SQLite reports as damaged, with no open connection. Output: a sound file
under the same name, and the damaged one, unchanged, as `outbox.db.corrupt-<k>`: deleted if every row of it
was read, and at most three such copies are kept (quarantine).

The replacement is a sequence of renames, so that a power cut at any moment leaves one defined step
to repeat; finish_interrupted() runs it at every open.

    state on disk                              the next open
    outbox.db, outbox.db.salvage-part          deletes the part; the damage is found again
    outbox.db, outbox.db.salvage               completes the swap
    (no outbox.db), outbox.db.salvage          completes the swap
    outbox.db (rebuilt), outbox.db.corrupt-k   nothing to do

The part is renamed to `salvage` only after it is complete and flushed. In the swap the side files
(-wal, -shm, -journal) move first: a new file must never meet the WAL of the old one.

Rows keep their numbers. They are found by three means, each for what the one before could not give:
1. by number through SQLite, skipping the pages that fail;
2. by their bytes, in pages that no B-tree reaches any more, without the sectors that the disk cannot read
   (record_bytes: the checksum contains `n` and proves it; rows of schemas 1-3: n is base + seq);
3. by their chain, where the bytes around a row are damaged: it follows a row with a number.
Rows of schemas 1-3 of which no number is left are numbered again: committed rows first, then by id and seq.
The state comes from its table if its checksum holds, else from the newest whole copy of its record in the
bytes. What cannot be proved committed is sent again, with the same event_id.

Invariants
- A rebuilt file starts a new generation after the high-water mark, as one small write: the old id's history
  is no longer known to be complete.
- Numbers are not used again: a number whose row is lost is held, and where the last rows are lost a second
  generation begins after the last number ever given out (`last_n`).
- A row is moved whole or counted in `unreadable`; its bytes are never repaired.
- The damaged file is only renamed, never written.

Only RecoveringFile calls this module, under both locks of the file or before it is open.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from pathlib import Path

from agent import rows
from agent.atomic_file import sync
from agent.errors import OutboxCorruptError, OutboxFailingError
from agent.log.message_ids import MessageId, fields
from agent.outbox import generation, holds, schema
from agent.outbox.database import OUTBOX_FILE, PAGE_BYTES, SIDE_FILES, translated
from agent.outbox.records import Generation, StateRecord, new_outbox_id
from agent.outbox.recovery import found_rows, quarantine
from agent.outbox.recovery.damaged_file import DamagedFile
from agent.outbox.recovery.found_rows import FoundRows
from agent.outbox.state import write_record

_log = logging.getLogger(__name__)

# The names of the new file while it is built, and when it is complete and on disk.
_PART_FILE = "outbox.db.salvage-part"
_COMPLETE_FILE = "outbox.db.salvage"


def replace(state_dir: Path, fault: OutboxCorruptError, *, last_n: int = 0) -> None:
    """Replace the outbox, whose connections must be closed, by a new file with every readable row.

    `last_n` is the last number ever given out, as far as the caller knows. Raises
    OutboxUnavailableError and leaves the file in place where the disk has no room for a second one,
    cannot write it, or reads no sector of the old one; raises OutboxError.
    """
    path = state_dir / OUTBOX_FILE
    with translated(path):
        with contextlib.closing(DamagedFile(state_dir)) as damaged:
            if not damaged.is_readable():
                raise OutboxFailingError(
                    str(fault), hint="no sector of it can be read: dmesg | grep -i 'i/o error'"
                )
            kept, lost = _build_or_remove(state_dir, damaged, last_n)
            unreadable = damaged.unreadable_bytes
            is_recovered = damaged.state is not None and not lost and not unreadable
        (state_dir / _PART_FILE).replace(state_dir / _COMPLETE_FILE)
        sync(state_dir)
        copy = _swap(state_dir)
        if is_recovered:
            quarantine.remove(copy)
        quarantine.remove_oldest(state_dir)
    _log.error(
        "outbox: the file was damaged (%s) and is now %s; %d swipes were moved to a new one, %d unreadable%s",
        fault,
        "deleted, as all of its rows were read" if is_recovered else copy.name,
        kept,
        lost,
        f"; the disk could not read {unreadable} bytes of it" if unreadable else "",
        extra=fields(MessageId.OUTBOX_SALVAGED, error=fault),
    )


def finish_interrupted(state_dir: Path) -> None:
    """Complete or undo a replacement that a power cut interrupted. Raises OutboxError."""
    with translated(state_dir / OUTBOX_FILE):
        (state_dir / _PART_FILE).unlink(missing_ok=True)
        if (state_dir / _COMPLETE_FILE).exists():
            _swap(state_dir)


def _swap(state_dir: Path) -> Path:
    copy = quarantine.next_name(state_dir)
    for side in (*SIDE_FILES, ""):
        with contextlib.suppress(FileNotFoundError):
            (state_dir / (OUTBOX_FILE + side)).replace(copy.with_name(copy.name + side))
    (state_dir / _COMPLETE_FILE).replace(state_dir / OUTBOX_FILE)
    sync(state_dir)
    return copy


# --- building the new outbox ----------------------------------------------------------------


def _build_or_remove(state_dir: Path, damaged: DamagedFile, last_n: int) -> tuple[int, int]:
    """As _build(); if it fails, no partial file is left. A new file that is damaged is a failing disk."""
    part = state_dir / _PART_FILE
    try:
        with translated(part):
            return _build(state_dir, damaged, last_n)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OutboxCorruptError):
            raise OutboxFailingError(
                str(error), hint="the disk damages what is written: replace it; dmesg | grep -i mmc"
            ) from error
        raise


def _build(state_dir: Path, damaged: DamagedFile, last_n: int) -> tuple[int, int]:
    """Build the new file, complete and on disk. Returns how many rows it has, and how many are missing.

    Row by row, because the file may be larger than memory.
    """
    part = state_dir / _PART_FILE
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("PRAGMA synchronous=FULL")
        schema.migrate(connection)
        connection.execute("BEGIN IMMEDIATE")
        counted = _fill(connection, damaged, last_n)
        connection.execute("COMMIT")
    sync(part)
    return counted


def _fill(connection: sqlite3.Connection, damaged: DamagedFile, last_n: int) -> tuple[int, int]:
    connection.execute("CREATE TEMP TABLE doubtful AS SELECT * FROM swipes")
    _insert_numbered(connection, damaged)
    connection.executemany("INSERT OR IGNORE INTO boots VALUES (?, ?, ?, ?, ?, ?, ?, ?)", damaged.boots)
    connection.executemany("INSERT OR IGNORE INTO timings VALUES (?, ?, ?, ?)", damaged.timings)
    connection.executemany("INSERT OR IGNORE INTO held VALUES (?, ?, ?, ?, ?, ?)", damaged.held)
    _queue_replays(connection, damaged)
    found = FoundRows(damaged, _bases(connection, damaged.generations))
    connection.executemany(found_rows.INSERT, found.numbered())
    found.link(connection)
    # Where no whole copy of a row was found. It is held when it is read to be sent.
    (newest,) = connection.execute("SELECT coalesce(max(n), 0) FROM swipes").fetchone()
    connection.execute(
        "INSERT OR IGNORE INTO swipes SELECT * FROM doubtful WHERE n <= ?", (max(newest, last_n),)
    )
    record = damaged.state or _derived_state(connection, damaged)
    (newest,) = connection.execute("SELECT coalesce(max(n), 0) FROM swipes").fetchone()
    last_n = max(last_n, damaged.last_n_within(newest), newest, record.committed_n)
    lost = _hold_lost(connection, record.committed_n, last_n)
    (legacy_n,) = connection.execute(
        "SELECT coalesce(max(n), 0) FROM swipes WHERE checksum IS NULL"
    ).fetchone()
    write_record(connection, record._replace(unreadable=record.unreadable + lost, legacy_n=legacy_n))
    _start_generations(connection, damaged.generations, record, newest, last_n)
    (kept,) = connection.execute("SELECT count(*) FROM swipes").fetchone()
    return kept, lost


def _insert_numbered(connection: sqlite3.Connection, damaged: DamagedFile) -> None:
    for stored, is_proved in damaged.numbered():
        table = "swipes" if is_proved else "doubtful"
        connection.execute(found_rows.INSERT.replace("swipes", table), stored)


def _queue_replays(connection: sqlite3.Connection, damaged: DamagedFile) -> None:
    """Keep the requested replays; the one in progress resumes where it was."""
    connection.executemany("INSERT OR IGNORE INTO replays VALUES (?, ?, ?, ?)", damaged.replays)
    waiting = {replay_id for replay_id, *_ in damaged.replays}
    connection.executemany(
        "UPDATE replayed SET replay_id = ?, n = ?, chain = ?",
        [at for at in damaged.replayed if at[0] in waiting],
    )


def _bases(connection: sqlite3.Connection, generations: tuple[Generation, ...]) -> dict[str, int]:
    """What is added to a seq of schemas 1-3 to get `n`, for the outbox ids whose rows can be pending."""
    bases = {one.outbox_id: one.first_n - 1 for one in generations}
    newest = connection.execute(
        "SELECT n, row FROM swipes WHERE checksum IS NULL ORDER BY n DESC LIMIT 1"
    ).fetchone()
    parsed = rows.parse(newest[1]) if newest is not None else None
    if parsed is not None and parsed.outbox_id is not None and parsed.seq is not None:
        bases[parsed.outbox_id] = newest[0] - parsed.seq
    return bases


def _derived_state(connection: sqlite3.Connection, damaged: DamagedFile) -> StateRecord:
    """The state where its record is damaged. The damaged one is never used: a bit in `committed_n` would
    make pending rows committed.

    What cannot be proved committed is sent again, with the same event_id. What is missing before the
    first row was purged, so it was committed.
    """
    copy = damaged.latest_state()
    if copy is not None:
        return copy
    record = StateRecord(0, "", "", 0, 0, "", "", "")
    first = connection.execute("SELECT n, row FROM swipes ORDER BY n LIMIT 1").fetchone()
    if first is None:
        connection.execute("DELETE FROM timings")  # they refer to numbers that rows no longer have
        committed_n = found_rows.insert_without_numbers(connection, damaged)
        return record._replace(committed_n=committed_n, suspect_n=0, suspect_replay_id=0, suspect_replay_n=0)
    committed_n = first[0] - 1
    bases, marks = _bases(connection, ()), damaged.marks()
    for outbox_id, base in bases.items():
        committed_n = max(committed_n, base + marks.get(outbox_id, 0))
    return record._replace(committed_n=committed_n)


def _hold_lost(connection: sqlite3.Connection, committed_n: int, last_n: int) -> int:
    """Hold the numbers after the high-water mark that have no row. Returns how many were not held before."""
    known = connection.execute("SELECT first_n, last_n FROM held WHERE kind = 'set_aside'").fetchall()
    lost = 0
    for first, last in _gaps(connection, committed_n, last_n):
        # One that an earlier rebuild has found is held already.
        if any(held_first <= first and last <= held_last for held_first, held_last in known):
            continue
        holds.hold_lost(connection, first, last, "lost: not found in the damaged file")
        lost += last - first + 1
    return lost


def _gaps(connection: sqlite3.Connection, committed_n: int, last_n: int) -> list[tuple[int, int]]:
    """The ranges of numbers after `committed_n`, up to `last_n`, that have no row."""
    return connection.execute(
        """SELECT before + 1, n - 1 FROM
             (SELECT n, lag(n, 1, ?1) OVER (ORDER BY n) AS before FROM
               (SELECT n FROM swipes WHERE n > ?1 UNION ALL SELECT ?2 + 1))
           WHERE n > before + 1""",
        (committed_n, last_n),
    ).fetchall()


def _start_generations(
    connection: sqlite3.Connection,
    old: tuple[Generation, ...],
    record: StateRecord,
    newest: int,
    last_n: int,
) -> None:
    """The generations of committed rows, a new one for pending rows, and where the last rows are lost one for
    the next swipe: their numbers are not used again.
    """
    connection.execute("DELETE FROM generation")
    first_n = record.committed_n + 1
    for one in old:
        if one.first_n < first_n:
            generation.add(connection, one)
    new_id = new_outbox_id()
    before = next((one.chain_before for one in old if one.first_n == first_n), rows.first_link(new_id))
    if record.committed_n > 0:
        before = record.committed_chain or _chain_of(connection, record.committed_n) or before
    if newest > record.committed_n or last_n == record.committed_n:
        generation.add(connection, Generation(first_n, new_id, before))
    if last_n > newest and last_n > record.committed_n:
        before = _chain_of(connection, max(newest, first_n)) or before
        generation.add(connection, Generation(last_n + 1, new_outbox_id(), before))
    _add_oldest_generation(connection)


def _add_oldest_generation(connection: sqlite3.Connection) -> None:
    """An outbox id for committed rows whose generation is damaged: a replay needs one."""
    (oldest,) = connection.execute("SELECT min(n) FROM swipes WHERE checksum IS NOT NULL").fetchone()
    (first_n,) = connection.execute("SELECT min(first_n) FROM generation").fetchone()
    if oldest is not None and oldest < first_n:
        new_id = new_outbox_id()
        generation.add(connection, Generation(oldest, new_id, rows.first_link(new_id)))


def _chain_of(connection: sqlite3.Connection, n: int) -> str:
    found = connection.execute("SELECT chain FROM swipes WHERE n = ?", (n,)).fetchone()
    return str(found[0]) if found is not None else ""
