"""A damaged outbox: put it aside whole, and move every row that can be read to a new one."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import mmap
import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import rows
from agent.errors import OutboxCorruptError, OutboxError
from agent.outbox import schema
from agent.outbox.file import OUTBOX_FILE, SIDE_FILES, open_beside, sync_directory, translated

_log = logging.getLogger(__name__)

# The new file is built under the first name, gets the second when it is whole and on disk, and
# takes the outbox's place only then: a power cut at any moment leaves one step to do again.
_PART_FILE = "outbox.db.salvage-part"
_WHOLE_FILE = "outbox.db.salvage"
_CHUNK = 256
# A row as rows.seal() writes it. Rows that fit into a page lie in one piece in the file, so they
# can be found even where the B-tree around them is gone.
_ROW = re.compile(rb'\{"badge_id":[^\x00]{1,4000}?"replay":false\}')
# The record of the table `state`: outbox id, committed_n as an integer of up to eight bytes, its chain.
_STATE = re.compile(rb"([0-9a-f]{12})[\x00-\xff]{0,8}?([0-9a-f]{16})")


@dataclass(slots=True)
class _Found:
    """What a damaged file still tells. `state` is None when not even that could be read.

    `marks` are then the committed seqs by outbox id, as far as their record lies about somewhere.
    """

    state: dict[str, Any] | None = None
    marks: dict[str, int] = field(default_factory=dict)
    held: list[tuple[str, int, int, str, int]] = field(default_factory=list)
    numbered: dict[int, tuple[int | None, bytes]] = field(default_factory=dict)
    last_n: int = 0


def fault_in(state_dir: Path) -> OutboxCorruptError | None:
    """Look through the whole file, beside its writer. Returns what is wrong with it, or None."""
    path = state_dir / OUTBOX_FILE
    try:
        with translated(path), contextlib.closing(open_beside(state_dir, "ro")) as connection:
            answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except OutboxCorruptError as error:
        return error
    return None if answer == "ok" else OutboxCorruptError(f"{path}: {answer.splitlines()[-1]}")


def replace(state_dir: Path, fault: OutboxCorruptError) -> None:
    """Quarantine the outbox, whose connections are closed, and put what can be read in its place."""
    path = state_dir / OUTBOX_FILE
    with translated(path):
        found = _read(state_dir)
        scanned = [row[0] for row in _scan(state_dir, _ROW)]
        if found.state is None:
            found.marks = _scan_marks(state_dir, scanned)
        kept, lost = _write(state_dir, found, scanned)
        (state_dir / _PART_FILE).replace(state_dir / _WHOLE_FILE)
        sync_directory(state_dir)
        quarantine = _swap(state_dir)
    _log.error(
        "outbox: the file was damaged (%s) and is now %s; %d swipes were moved to a new one, %d unreadable",
        fault,
        quarantine.name,
        kept,
        lost,
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
    sync_directory(state_dir)
    return state_dir / f"{OUTBOX_FILE}.corrupt-{number}"


# --- reading what is left -------------------------------------------------------------------


def _read(state_dir: Path) -> _Found:
    found = _Found()
    # Each look on its own: one that fails says nothing about the others.
    unreadable = contextlib.suppress(sqlite3.Error)
    with contextlib.suppress(OutboxError), contextlib.closing(open_beside(state_dir, "ro")) as connection:
        with unreadable:
            found.state = _state(connection)
        with unreadable:
            found.held = connection.execute(
                "SELECT kind, first_n, last_n, reason, released FROM held"
            ).fetchall()
        with unreadable:
            found.last_n = _last_n(connection)
        found.numbered = dict(_readable(connection, found.last_n))
    return found


def _state(connection: sqlite3.Connection) -> dict[str, Any] | None:
    cursor = connection.execute("SELECT * FROM state")
    line = cursor.fetchone()
    return dict(zip((column[0] for column in cursor.description), line, strict=True)) if line else None


def _last_n(connection: sqlite3.Connection) -> int:
    counted = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'swipes'").fetchone()
    newest = connection.execute("SELECT max(n) FROM swipes").fetchone()
    return max(counted[0] if counted else 0, newest[0] or 0)


def _readable(connection: sqlite3.Connection, last_n: int) -> Iterator[tuple[int, tuple[int | None, bytes]]]:
    """Rows by number: whole chunks where the pages are sound, one by one around the others."""
    for low in range(0, last_n, _CHUNK):
        try:
            some = _between(connection, low + 1, low + _CHUNK)
        except sqlite3.Error:
            some = []
            for n in range(low + 1, min(low + _CHUNK, last_n) + 1):
                with contextlib.suppress(sqlite3.Error):
                    some += _between(connection, n, n)
        for n, trusted_us, row in some:
            if _members(row) is not None:
                yield n, (trusted_us, row)


def _between(connection: sqlite3.Connection, first: int, last: int) -> list[tuple[int, int | None, bytes]]:
    return connection.execute(
        "SELECT n, trusted_us, row FROM swipes WHERE n BETWEEN ? AND ? ORDER BY n", (first, last)
    ).fetchall()


def _scan(state_dir: Path, pattern: re.Pattern[bytes]) -> Iterator[re.Match[bytes]]:
    """Every match in the bytes of the file and of its WAL, wherever it lies."""
    for name in (OUTBOX_FILE, OUTBOX_FILE + "-wal"):
        path = state_dir / name
        if path.exists() and path.stat().st_size > 0:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                yield from pattern.finditer(content)


def _scan_marks(state_dir: Path, scanned: list[bytes]) -> dict[str, int]:
    """How far each outbox id was committed, from whatever copies of the state's record are left.

    A copy names the chain of the last committed row. Copies are of different age; the mark only
    ever rose, so the highest is the last.
    """
    seqs = {}
    for row in scanned:
        members = _members(row)
        if members is not None:
            seqs[members["outbox_id"].encode(), members["chain"].encode()] = members["seq"]
    marks: dict[str, int] = {}
    for match in _scan(state_dir, _STATE):
        seq = seqs.get((match[1], match[2]))
        if seq is not None:
            outbox_id = match[1].decode()
            marks[outbox_id] = max(seq, marks.get(outbox_id, 0))
    return marks


def _members(row: object) -> dict[str, Any] | None:
    """The row's members if it is one of ours and whole, else None."""
    try:
        members = json.loads(row) if isinstance(row, bytes) else None
    except ValueError:
        return None
    if not isinstance(members, dict):
        return None
    shapes = {"event_id": str, "outbox_id": str, "seq": int, "chain": str, "reader_id": str, "boot_id": str}
    return members if all(isinstance(members.get(name), shape) for name, shape in shapes.items()) else None


# --- writing the new outbox -----------------------------------------------------------------


def _write(state_dir: Path, found: _Found, scanned: list[bytes]) -> tuple[int, int]:
    """Build the new file, whole and on disk. Returns how many rows it has, and how many are missing."""
    part = state_dir / _PART_FILE
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as connection:
        connection.execute("PRAGMA page_size=1024")
        connection.execute("PRAGMA synchronous=FULL")
        schema.migrate(connection)
        connection.execute("BEGIN IMMEDIATE")
        kept, lost = _fill(connection, found, scanned)
        connection.execute("COMMIT")
    fd = os.open(part, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return kept, lost


def _fill(connection: sqlite3.Connection, found: _Found, scanned: list[bytes]) -> tuple[int, int]:
    committed_n = found.state["committed_n"] if found.state else 0
    base = found.state["base"] if found.state else 0
    aside = {n for kind, n, _, _, _ in found.held if kind == "set_aside"}
    settled = {n: at for n, at in found.numbered.items() if n <= committed_n or n in aside}
    moved_to: dict[int, int] = {}
    for number, (n, (trusted_us, row)) in enumerate(sorted(settled.items()), start=1):
        moved_to[n] = number
        chain = json.loads(row)["chain"]
        connection.execute("INSERT INTO swipes VALUES (?, ?, ?, ?)", (number, chain, trusted_us, row))
    _hold(connection, found, moved_to)

    numbered = [(float(n), *at) for n, at in found.numbered.items() if n not in settled]
    pending = sorted([*numbered, *_only_scanned(found, scanned)], key=lambda placed: placed[0])
    outbox_id, new_base = schema.new_outbox_id(), len(settled)
    chain = rows.first_link(outbox_id)
    for seq, (_, trusted_us, row) in enumerate(pending, start=1):
        members = json.loads(row)
        chain, sealed = rows.seal(members, rows.Place(outbox_id, seq, members["event_id"], chain))
        connection.execute(
            "INSERT INTO swipes VALUES (?, ?, ?, ?)", (new_base + seq, chain, trusted_us, sealed)
        )

    expected = max(found.last_n - max(committed_n, base), 0)
    lost = max(expected - len(pending) - len([n for n in aside if n > committed_n]), 0)
    before = found.state["unreadable"] if found.state else 0
    connection.execute(
        "UPDATE state SET outbox_id = ?, base = ?, committed_n = ?, unreadable = ?, machine_id = ?",
        (outbox_id, new_base, new_base, before + lost, found.state["machine_id"] if found.state else ""),
    )
    return len(settled) + len(pending), lost


def _hold(connection: sqlite3.Connection, found: _Found, moved_to: dict[int, int]) -> None:
    for kind, first_n, last_n, reason, released in found.held:
        moved = [moved_to[n] for n in range(first_n, last_n + 1) if n in moved_to]
        if moved:
            connection.execute(
                "INSERT INTO held(kind, first_n, last_n, reason, released) VALUES (?, ?, ?, ?, ?)",
                (kind, min(moved), max(moved), reason, released),
            )


def _only_scanned(found: _Found, scanned: list[bytes]) -> list[tuple[float, int | None, bytes]]:
    """Rows that only the scan found and that are not known to be committed, each with its old number.

    What cannot be numbered, because nothing else of its outbox id was read, comes last.
    """
    read = [(n, json.loads(row)) for n, (_, row) in found.numbered.items()]
    known = {members["event_id"] for _, members in read}
    bases: dict[str, float] = {members["outbox_id"]: n - members["seq"] for n, members in read}
    rescued: dict[str, tuple[str, int, bytes]] = {}
    done = found.marks
    if found.state is not None:
        outbox_id, base = found.state["outbox_id"], found.state["base"]
        bases[outbox_id], done = base, {outbox_id: found.state["committed_n"] - base}
    for row in scanned:
        members = _members(row)
        if members is None or members["event_id"] in known:
            continue
        if found.state is not None and members["outbox_id"] != found.state["outbox_id"]:
            continue  # of an earlier identity, in a page that is free by now
        if members["seq"] <= done.get(members["outbox_id"], 0):
            continue
        rescued[members["event_id"]] = (members["outbox_id"], members["seq"], row)
    in_order = sorted(rescued.values(), key=lambda found_row: found_row[:2])
    return [(bases.get(outbox_id, math.inf) + seq, None, row) for outbox_id, seq, row in in_order]
