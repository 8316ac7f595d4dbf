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

Rows are found by three means, each for what the one before could not give:
1. by number through SQLite, skipping the pages that fail;
2. by their bytes, in pages that no B-tree reaches any more (their n is base + seq), without the
   sectors that the disk cannot read;
3. where not one numbered row is left, by their bytes alone: committed rows first, then by id and seq.
The state comes from its table, else from the newest row and from copies of the state record
in the bytes. What cannot be proved committed is sent again, with the same event_id.

Invariants
- A rebuilt file always starts a new generation: the old id's history is no longer known to be complete.
- Numbers go on after the last one ever given out (`last_n`), so that a position held elsewhere, and
  the holds and replays moved over, never mean another row.
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
from agent.outbox import generation, schema
from agent.outbox.database import OUTBOX_FILE, PAGE_BYTES, SIDE_FILES, translated
from agent.outbox.recovery import quarantine
from agent.outbox.recovery.damaged_file import DamagedFile, State

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
    connection.executemany("INSERT OR IGNORE INTO swipes VALUES (?, ?, ?, ?, ?, ?)", damaged.numbered())
    connection.executemany("INSERT OR IGNORE INTO boots VALUES (?, ?, ?, ?, ?, ?, ?, ?)", damaged.boots)
    connection.executemany("INSERT OR IGNORE INTO timings VALUES (?, ?, ?, ?)", damaged.timings)
    connection.executemany("INSERT OR IGNORE INTO held VALUES (?, ?, ?, ?, ?, ?)", damaged.held)
    _queue_replays(connection, damaged)
    aside = {first_n for _, kind, first_n, *_ in damaged.held if kind == "set_aside"}
    state = damaged.state or _guess(connection, damaged)
    if state is None:
        state = State("", 0, _insert_unnumbered(connection, damaged))
        connection.execute("DELETE FROM timings")  # they refer to numbers that rows no longer have
    else:
        _insert_scanned(connection, damaged, state)
    (newest,) = connection.execute("SELECT max(n) FROM swipes").fetchone()
    last_n = max(last_n, damaged.last_n, newest or 0, state.committed_n)
    lost = _missing(connection, state.committed_n, last_n)
    generation.renew(connection, committed_n=state.committed_n, last_n=last_n, aside=aside)
    connection.execute(
        "UPDATE state SET unreadable = ?, machine_id = ?", (state.unreadable + lost, state.machine_id)
    )
    (kept,) = connection.execute("SELECT count(*) FROM swipes").fetchone()
    return kept, lost


def _queue_replays(connection: sqlite3.Connection, damaged: DamagedFile) -> None:
    """Keep the requested replays; the one in progress resumes where it was."""
    connection.executemany("INSERT OR IGNORE INTO replays VALUES (?, ?, ?, ?)", damaged.replays)
    waiting = {replay_id for replay_id, *_ in damaged.replays}
    connection.executemany(
        "UPDATE replayed SET replay_id = ?, n = ?, chain = ?",
        [at for at in damaged.replayed if at[0] in waiting],
    )


def _guess(connection: sqlite3.Connection, damaged: DamagedFile) -> State | None:
    """The state as derived from the newest row; None without a numbered row.

    Committed rows that cannot be recognised as such are sent again, with the same event_id.
    """
    newest = connection.execute("SELECT n, row FROM swipes ORDER BY n DESC LIMIT 1").fetchone()
    parsed = rows.parse(newest[1]) if newest is not None else None
    if parsed is None:
        return None
    base = newest[0] - parsed.seq
    return State(parsed.outbox_id, base, base + damaged.marks().get(parsed.outbox_id, 0))


def _insert_scanned(connection: sqlite3.Connection, damaged: DamagedFile, state: State) -> None:
    """Insert rows found by their bytes only. Rows of other ids may be stale copies in free pages."""
    connection.executemany(
        "INSERT OR IGNORE INTO swipes(n, chain, row) VALUES (?, ?, ?)",
        (
            (state.base + parsed.seq, parsed.chain, row)
            for parsed, row in damaged.scanned()
            if parsed.outbox_id == state.outbox_id
        ),
    )


def _insert_unnumbered(connection: sqlite3.Connection, damaged: DamagedFile) -> int:
    """Insert rows found by their bytes where no number is left: committed ones first, then by id and seq.

    Returns the number of the last committed row.
    """
    marks = damaged.marks()
    connection.execute(
        """CREATE TEMP TABLE found(is_pending INTEGER, outbox_id TEXT, seq INTEGER, chain TEXT,
                                   event_id TEXT PRIMARY KEY, row BLOB) WITHOUT ROWID"""
    )
    connection.executemany(
        "INSERT OR IGNORE INTO found VALUES (?, ?, ?, ?, ?, ?)",
        (
            (
                parsed.seq > marks.get(parsed.outbox_id, 0),
                *(parsed.outbox_id, parsed.seq, parsed.chain, parsed.event_id),
                row,
            )
            for parsed, row in damaged.scanned()
        ),
    )
    connection.execute(
        """INSERT INTO swipes(n, chain, trusted_us, row)
           SELECT row_number() OVER (ORDER BY is_pending, outbox_id, seq), chain, NULL, row FROM found"""
    )
    (committed,) = connection.execute("SELECT count(*) FROM found WHERE NOT is_pending").fetchone()
    return int(committed)


def _missing(connection: sqlite3.Connection, committed_n: int, last_n: int) -> int:
    """How many numbers after the high-water mark, or else after the first row, have no row."""
    first, count = connection.execute(
        "SELECT min(n), count(*) FROM swipes WHERE n > ?", (committed_n,)
    ).fetchone()
    if committed_n == 0 and first is not None:
        committed_n = first - 1
    return int(max(0, last_n - committed_n - count))
