"""Replaces a damaged outbox file by a new one, to which its rows are moved afterwards.

Theory of operation

Input: an outbox file that SQLite reports as damaged, with no open connection. Output: a new, sound file
under the same name for new swipes, and the damaged one, renamed to `outbox.db.corrupt-<k>`. This takes the
time of a few small queries, and without a state record that of reading samples of each file, whatever its
size; RowMover then moves the rows in steps.

The new file is small: the state record, the generations, holds, error counts, replays and clock observations,
as far as they can be read. A new generation begins after every number that was ever given to a row:
- a running agent knows the last number and its chain;
- else it is the highest number that the file shows to have been given or left out, and as many more as the
  file can have rows. The state record shows it, or the generations, holds and replays, the last row of the
  B-tree, or rows and records in samples of the bytes;
- without a state record it is not known which quarantined files still have rows to be moved: their highest
  numbers and the rows that they can have count as well.
A number that no row was given costs nothing, as long as it is known: it is held as such. One that is held and
given later would not be sent.

The replacement is a sequence of renames, so that a power cut at any moment leaves one defined step
to repeat; finish_interrupted() runs it at every open.

    state on disk                              the next open
    outbox.db, outbox.db.salvage-part          deletes the part and its journal; the damage is found again
    outbox.db, outbox.db.salvage               completes the swap
    (no outbox.db), outbox.db.salvage          completes the swap
    outbox.db (new), outbox.db.corrupt-k       goes on moving rows: `recovering` names the quarantined file

The part is renamed to `salvage` only after it is complete and flushed. In the swap the side files
(-wal, -shm, -journal) move first: SQLite would apply the WAL of the old file to the new one.

Only RecoveringFile calls this module, under both locks of the file or before it is open.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from agent import rows
from agent.atomic_file import sync
from agent.errors import OutboxCorruptError, OutboxFailingError
from agent.log.message_ids import MessageId, fields
from agent.outbox import event_store, generation, schema
from agent.outbox.database import OUTBOX_FILE, PAGE_BYTES, SIDE_FILES
from agent.outbox.event_store import EventState
from agent.outbox.file_errors import damaged_again, translated
from agent.outbox.records import Generation, StateRecord, new_outbox_id
from agent.outbox.recovery import progress, quarantine
from agent.outbox.recovery.damaged_file import DamagedFile
from agent.outbox.recovery.progress import Recovery
from agent.outbox.recovery.record_bytes import FoundHold
from agent.outbox.state import OutboxState, write_record

_log = logging.getLogger(__name__)

# The names of the new file while it is built, and when it is complete and on disk.
_PART_FILE = "outbox.db.salvage-part"
_COMPLETE_FILE = "outbox.db.salvage"
# Boot numbers where those of the old rows cannot be read: far above them, and in two bytes.
_BOOTS_BEGIN, _BOOTS_END = 10_000, 30_000


def replace(state_dir: Path, fault: OutboxCorruptError, *, known: OutboxState | None = None) -> None:
    """Replace the outbox, whose connections must be closed, by a new file for new swipes.

    `known` is the state in memory of a running agent. Raises OutboxUnavailableError and leaves the file in
    place where the disk has no room for a small file, cannot write it, or reads no sector of the old one;
    raises OutboxError.
    """
    path = state_dir / OUTBOX_FILE
    with translated(path):
        copy = quarantine.next_name(state_dir)
        with contextlib.closing(DamagedFile(path)) as damaged:
            if not damaged.is_readable():
                raise OutboxFailingError(
                    str(fault), hint="no sector of it can be read: dmesg | grep -i 'i/o error'"
                )
            recoveries = _build_or_remove(state_dir, damaged, copy.name, known)
        (state_dir / _PART_FILE).replace(state_dir / _COMPLETE_FILE)
        sync(state_dir)
        _swap(state_dir)
        remove_copies(state_dir, recoveries)
    _log.error(
        "outbox: the file was damaged (%s) and is now %s; new swipes are stored in a new file, to which the "
        "readable rows are moved; delivery continues after that",
        fault,
        copy.name,
        extra=fields(MessageId.OUTBOX_SALVAGED, error=fault),
    )


def remove_copies(state_dir: Path, recoveries: Iterable[Recovery]) -> None:
    """Mark the copies of which nothing is to be moved any more, and delete the oldest of them.

    None while a record that may name others is lost. Raises OSError.
    """
    recoveries = tuple(recoveries)
    if all(one.part != progress.STATE for one in recoveries):
        names = [one.name for one in recoveries]
        for copy in quarantine.unfinished(state_dir):
            if copy.name not in names:
                quarantine.finish(copy)
        quarantine.remove_oldest(state_dir, in_use=names)


def finish_interrupted(state_dir: Path) -> None:
    """Complete or undo a replacement that a power cut interrupted. Raises OutboxError."""
    with translated(state_dir / OUTBOX_FILE):
        quarantine.remove(state_dir / _PART_FILE)
        if (state_dir / _COMPLETE_FILE).exists():
            _swap(state_dir)


def _swap(state_dir: Path) -> None:
    copy = quarantine.next_name(state_dir)
    for side in (*SIDE_FILES, ""):
        with contextlib.suppress(FileNotFoundError):
            (state_dir / (OUTBOX_FILE + side)).replace(copy.with_name(copy.name + side))
    (state_dir / _COMPLETE_FILE).replace(state_dir / OUTBOX_FILE)
    sync(state_dir)


# --- building the new outbox ----------------------------------------------------------------


def _build_or_remove(
    state_dir: Path, damaged: DamagedFile, name: str, known: OutboxState | None
) -> tuple[Recovery, ...]:
    """As _build(); if it fails, no partial file is left. A new file that is damaged is a failing disk."""
    part = state_dir / _PART_FILE
    try:
        with damaged_again(), translated(part):
            return _build(part, damaged, name, known)
    except BaseException:
        with contextlib.suppress(OSError):
            quarantine.remove(part)
        raise


def _build(part: Path, damaged: DamagedFile, name: str, known: OutboxState | None) -> tuple[Recovery, ...]:
    """Build the new file, complete and on disk. Returns what is to be moved to it."""
    quarantine.remove(part)
    os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("PRAGMA synchronous=FULL")
        schema.migrate(connection)
        connection.execute("BEGIN IMMEDIATE")
        recoveries = _fill(connection, damaged, part.with_name(name), known)
        connection.execute("COMMIT")
    sync(part)
    return recoveries


def _fill(
    connection: sqlite3.Connection, damaged: DamagedFile, copy: Path, known: OutboxState | None
) -> tuple[Recovery, ...]:
    _copy_small_tables(connection, damaged)
    record = known.record if known is not None else damaged.state
    old = known.generations if known is not None else damaged.generations
    last_n, end_n, chain = _last_number(damaged, copy.parent, known)
    recovery = Recovery(
        copy.name,
        part=progress.PENDING if record is not None else progress.STATE,
        begin_n=record.committed_n + 1 if record is not None else 1,
        first_n=record.committed_n + 1 if record is not None else 1,
        last_n=last_n,
        end_n=end_n,
        is_whole=record is not None,
    )
    # Without a record, rows of schemas 1-3 may have any of these numbers.
    record = record or StateRecord(0, "", "", 0, end_n, "", "", "")
    # What was still to be moved to this file; the name of a copy is used again once that is deleted.
    earlier = (one for one in progress.readable(record.recovering) if one.name != copy.name)
    recoveries = (recovery, *earlier)
    write_record(connection, record._replace(recovering=progress.written(recoveries)))
    connection.execute("DELETE FROM generation")
    new_id = new_outbox_id()
    for one in (*old, Generation(end_n + 1, new_id, chain or rows.first_link(new_id))):
        if one.first_n <= end_n + 1:
            generation.add(connection, one)
    return recoveries


def _last_number(damaged: DamagedFile, state_dir: Path, known: OutboxState | None) -> tuple[int, int, str]:
    """The last number known to have been given out, the last that can have been, and the chain after it."""
    if known is not None:
        return known.last_n, known.last_n, known.last_chain
    # A running agent that ended normally has given out no more, but damage may hide the newest rows.
    highest_n, unseen = _highest_found(damaged), damaged.capacity
    if damaged.state is None:
        for copy in quarantine.unfinished(state_dir):
            # One that cannot be opened must not keep the door from storing swipes.
            with contextlib.suppress(OSError), contextlib.closing(DamagedFile(copy)) as earlier:
                highest_n, unseen = max(highest_n, _highest_found(earlier)), unseen + earlier.capacity
    last = damaged.last_row
    last_n, chain = (last.n, last.chain) if last is not None else (0, "")
    return last_n, highest_n + unseen, chain


def _highest_found(damaged: DamagedFile) -> int:
    """The highest number that the file shows to have been given or left out; 0 for none."""
    last_n = damaged.last_row.n if damaged.last_row is not None else damaged.highest_row()
    found: list[StateRecord | Generation] = [*damaged.generations]
    if damaged.state is not None:
        found.append(damaged.state)
    if damaged.state is None or not damaged.generations:
        found += (one for one in damaged.sampled_records if not isinstance(one, FoundHold))
    return max(last_n, damaged.highest_named(), *map(_highest_in, found))


def _highest_in(record: StateRecord | Generation) -> int:
    if isinstance(record, Generation):
        return record.first_n - 1
    ends = (one.end_n for one in progress.readable(record.recovering))
    return max(record.committed_n, record.channel_first_n - 1, *ends)


def _copy_small_tables(connection: sqlite3.Connection, damaged: DamagedFile) -> None:
    _copy_events(connection, damaged)
    connection.executemany("INSERT OR IGNORE INTO boots VALUES (?, ?, ?, ?, ?, ?, ?, ?)", damaged.boots)
    if not damaged.boots:
        # The numbers of boots go on after those in the old rows.
        number = damaged.last_boot() or _BOOTS_BEGIN + secrets.randbelow(_BOOTS_END - _BOOTS_BEGIN)
        connection.execute("INSERT INTO boots VALUES (?, 'lost', 0, 0, 0, NULL, 0, '[]')", (number,))
    connection.executemany("INSERT OR IGNORE INTO timings VALUES (?, ?, ?, ?)", damaged.timings)
    connection.executemany("INSERT OR IGNORE INTO held VALUES (?, ?, ?, ?, ?, ?)", damaged.held)
    connection.executemany("INSERT OR IGNORE INTO error_counts VALUES (?, ?, ?, ?)", damaged.error_counts)
    # The requested replays; the one in progress resumes where it was.
    connection.executemany("INSERT OR IGNORE INTO replays VALUES (?, ?, ?, ?)", damaged.replays)
    waiting = {replay_id for replay_id, *_ in damaged.replays}
    connection.executemany(
        "UPDATE replayed SET replay_id = ?, n = ?, chain = ?",
        [at for at in damaged.replayed if at[0] in waiting],
    )


def _copy_events(connection: sqlite3.Connection, damaged: DamagedFile) -> None:
    """The door events that are whole. What is not known to be committed is sent again, with the same id."""
    events, state = damaged.events, damaged.event_state
    if state is None:
        before = min((event.n for event in events), default=1) - 1
        link = rows.UNKNOWN_LINK if events else ""
        state = EventState(committed_n=before, first_n=before + 1, chain_before=link)
    connection.executemany(
        f"INSERT OR IGNORE INTO door_events({event_store.STORED}) VALUES (?, ?, ?, ?, ?, ?)", events
    )
    event_store.write_state(connection, state)
