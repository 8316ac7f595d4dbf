"""A damaged outbox: put it aside whole, and move every row that can be read to a new one."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from agent.atomic_file import sync
from agent.errors import OutboxCorruptError
from agent.log.message_ids import MessageId, fields
from agent.outbox import generation, schema
from agent.outbox.database import OUTBOX_FILE, PAGE_BYTES, SIDE_FILES, translated
from agent.outbox.recovery.damaged_file import DamagedFile, State

_log = logging.getLogger(__name__)

# The new file is built under the first name, gets the second when it is whole and on disk, and
# takes the outbox's place only then: a power cut at any moment leaves one step to do again.
_PART_FILE = "outbox.db.salvage-part"
_WHOLE_FILE = "outbox.db.salvage"


def replace(state_dir: Path, fault: OutboxCorruptError, *, last_n: int = 0) -> None:
    """Quarantine the outbox, whose connections are closed, and put what can be read in its place.

    `last_n` is the last number that was ever given out, as far as the caller knows: the new file
    goes on behind it, so that a position held elsewhere can never mean another row.
    """
    path = state_dir / OUTBOX_FILE
    with translated(path):
        with contextlib.closing(DamagedFile(state_dir)) as wreck:
            kept, lost = _build(state_dir, wreck, last_n)
        (state_dir / _PART_FILE).replace(state_dir / _WHOLE_FILE)
        sync(state_dir)
        quarantine = _swap(state_dir)
    _log.error(
        "outbox: the file was damaged (%s) and is now %s; %d swipes were moved to a new one, %d unreadable",
        fault,
        quarantine.name,
        kept,
        lost,
        extra=fields(MessageId.OUTBOX_SALVAGED, error=fault),
    )


def finish_interrupted(state_dir: Path) -> None:
    """Finish a replacement that a power cut interrupted."""
    with translated(state_dir / OUTBOX_FILE):
        (state_dir / _PART_FILE).unlink(missing_ok=True)
        if (state_dir / _WHOLE_FILE).exists():
            _swap(state_dir)


def _swap(state_dir: Path) -> Path:
    number = 1
    while (state_dir / f"{OUTBOX_FILE}.corrupt-{number}").exists():
        number += 1
    # The side files first: a new outbox must never meet the WAL of the old one.
    for side in (*SIDE_FILES, ""):
        with contextlib.suppress(FileNotFoundError):
            (state_dir / (OUTBOX_FILE + side)).replace(state_dir / f"{OUTBOX_FILE}.corrupt-{number}{side}")
    (state_dir / _WHOLE_FILE).replace(state_dir / OUTBOX_FILE)
    sync(state_dir)
    return state_dir / f"{OUTBOX_FILE}.corrupt-{number}"


# --- building the new outbox ----------------------------------------------------------------


def _build(state_dir: Path, wreck: DamagedFile, last_n: int) -> tuple[int, int]:
    """Build the new file, whole and on disk. Returns how many rows it has, and how many are missing.

    Row by row, because the file may be larger than the memory.
    """
    part = state_dir / _PART_FILE
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("PRAGMA synchronous=FULL")
        schema.migrate(connection)
        connection.execute("BEGIN IMMEDIATE")
        counted = _fill(connection, wreck, last_n)
        connection.execute("COMMIT")
    sync(part)
    return counted


def _fill(connection: sqlite3.Connection, wreck: DamagedFile, last_n: int) -> tuple[int, int]:
    connection.executemany("INSERT OR IGNORE INTO swipes VALUES (?, ?, ?, ?, ?, ?)", _with_chain(wreck))
    connection.executemany("INSERT OR IGNORE INTO boots VALUES (?, ?, ?, ?, ?, ?, ?, ?)", wreck.boots)
    connection.executemany("INSERT OR IGNORE INTO timings VALUES (?, ?, ?, ?)", wreck.timings)
    connection.executemany("INSERT OR IGNORE INTO held VALUES (?, ?, ?, ?, ?, ?)", wreck.held)
    _queue_replays(connection, wreck)
    aside = {first_n for _, kind, first_n, *_ in wreck.held if kind == "set_aside"}
    state = wreck.state or _guess(connection, wreck)
    if state is None:
        state = State("", 0, _insert_unnumbered(connection, wreck))
        connection.execute("DELETE FROM timings")  # they go by numbers that rows no longer have
    else:
        _insert_scanned(connection, wreck, state)
    (newest,) = connection.execute("SELECT max(n) FROM swipes").fetchone()
    last_n = max(last_n, wreck.last_n, newest or 0, state.committed_n)
    lost = _missing(connection, state.committed_n, last_n)
    generation.renew(connection, committed_n=state.committed_n, last_n=last_n, aside=aside)
    connection.execute(
        "UPDATE state SET unreadable = ?, machine_id = ?", (state.unreadable + lost, state.machine_id)
    )
    (kept,) = connection.execute("SELECT count(*) FROM swipes").fetchone()
    return kept, lost


def _with_chain(wreck: DamagedFile) -> Iterator[tuple[int, str, int | None, bytes, int | None, int | None]]:
    return (
        (n, json.loads(row)["chain"], trusted_us, row, boot, boot_us)
        for n, trusted_us, row, boot, boot_us in wreck.numbered()
    )


def _queue_replays(connection: sqlite3.Connection, wreck: DamagedFile) -> None:
    """What was asked for is still done; the one that was under way goes on where it stood."""
    connection.executemany("INSERT OR IGNORE INTO replays VALUES (?, ?, ?, ?)", wreck.replays)
    waiting = {replay_id for replay_id, *_ in wreck.replays}
    connection.executemany(
        "UPDATE replayed SET replay_id = ?, n = ?, chain = ?",
        [at for at in wreck.replayed if at[0] in waiting],
    )


def _guess(connection: sqlite3.Connection, wreck: DamagedFile) -> State | None:
    """The state as the rows tell it; None without a row that has its number.

    Rows that were committed, and of which nothing tells so any more, are sent again, with the same
    event_id.
    """
    newest = connection.execute("SELECT n, row FROM swipes ORDER BY n DESC LIMIT 1").fetchone()
    if newest is None:
        return None
    members = json.loads(newest[1])
    base = newest[0] - members["seq"]
    return State(members["outbox_id"], base, base + wreck.marks().get(members["outbox_id"], 0))


def _insert_scanned(connection: sqlite3.Connection, wreck: DamagedFile, state: State) -> None:
    """Rows that only their bytes are left of. Those of other ids may be copies in pages that are free."""
    connection.executemany(
        "INSERT OR IGNORE INTO swipes(n, chain, row) VALUES (?, ?, ?)",
        (
            (state.base + members["seq"], members["chain"], row)
            for members, row in wreck.scanned()
            if members["outbox_id"] == state.outbox_id
        ),
    )


def _insert_unnumbered(connection: sqlite3.Connection, wreck: DamagedFile) -> int:
    """Nothing but bytes is left: what is known to be committed first, each history in its order.

    Returns the last number of those.
    """
    marks = wreck.marks()
    connection.execute(
        """CREATE TEMP TABLE found(is_pending INTEGER, outbox_id TEXT, seq INTEGER, chain TEXT,
                                   event_id TEXT PRIMARY KEY, row BLOB) WITHOUT ROWID"""
    )
    connection.executemany(
        "INSERT OR IGNORE INTO found VALUES (?, ?, ?, ?, ?, ?)",
        (
            (
                members["seq"] > marks.get(members["outbox_id"], 0),
                *(members[name] for name in ("outbox_id", "seq", "chain", "event_id")),
                row,
            )
            for members, row in wreck.scanned()
        ),
    )
    connection.execute(
        """INSERT INTO swipes(n, chain, trusted_us, row)
           SELECT row_number() OVER (ORDER BY is_pending, outbox_id, seq), chain, NULL, row FROM found"""
    )
    (committed,) = connection.execute("SELECT count(*) FROM found WHERE NOT is_pending").fetchone()
    return int(committed)


def _missing(connection: sqlite3.Connection, committed_n: int, last_n: int) -> int:
    """Numbers behind the high-water mark, or else behind the first row, of which there is no row."""
    first, count = connection.execute(
        "SELECT min(n), count(*) FROM swipes WHERE n > ?", (committed_n,)
    ).fetchone()
    if committed_n == 0 and first is not None:
        committed_n = first - 1
    return int(max(0, last_n - committed_n - count))
