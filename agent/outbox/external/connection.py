"""What other processes do with the outbox while the agent may be running: look, release, ask for a replay."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import AgentError, OutboxError
from agent.outbox.database import OUTBOX_FILE, open_beside, translated
from agent.outbox.holds import Kind
from agent.outbox.recovery.integrity import is_there
from agent.outbox.schema import VERSION
from agent.outbox.timing.timestamps import STORED, Stored, UsedTimings
from agent.rows import members_of

_ASIDE = "(SELECT first_n FROM held WHERE kind = 'set_aside')"


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """What `status` shows of the file. Rows set aside are neither pending nor kept."""

    outbox_id: str
    pending: int
    kept: int
    rejected: int
    set_aside: int
    last_seq: int
    committed_seq: int
    unreadable: int
    replays: int
    oldest_pending_row: bytes | None = field(repr=False)
    bytes: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Rows an operator has to deal with. Times and seqs are those of the rows at both ends."""

    id: int
    kind: Kind
    rows: int
    outbox_id: str
    first_seq: int
    last_seq: int
    reason: str


class NothingToReplayError(AgentError):
    """No kept row fits what was asked for."""


@contextlib.contextmanager
def _beside(state_dir: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """Raises OutboxError if there is no outbox, NotPermittedError if this user may not read it."""
    path = state_dir / OUTBOX_FILE
    if not is_there(state_dir):
        raise OutboxError(
            f"there is no outbox in {state_dir}",
            hint="it is made when the agent first runs; is [agent] state_dir right?",
        )
    with translated(path), contextlib.closing(open_beside(state_dir, mode)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise OutboxError(
                f"{path} has schema {version}, this program works with {VERSION}",
                hint="start the agent once: sudo systemctl restart badge-agent",
            )
        yield connection


def read_counts(state_dir: Path) -> OutboxCounts:
    """What `status` shows. Raises OutboxError if there is no outbox, NotPermittedError."""
    with _beside(state_dir, "ro") as connection:
        connection.execute("BEGIN")  # one moment for all the looks below
        outbox_id, base, committed_n, unreadable = connection.execute(
            "SELECT outbox_id, base, committed_n, unreadable FROM state"
        ).fetchone()
        last_n = max(_one(connection, "SELECT max(n) FROM swipes") or 0, committed_n)
        waiting_aside = _one(
            connection,
            "SELECT count(DISTINCT first_n) FROM held WHERE kind = 'set_aside' AND first_n > ?",
            committed_n,
        )
        oldest = connection.execute(
            """SELECT row FROM swipes WHERE n > ? AND n NOT IN
               (SELECT first_n FROM held WHERE kind = 'set_aside') ORDER BY n LIMIT 1""",
            (committed_n,),
        ).fetchone()
        aside = _one(connection, "SELECT count(*) FROM held WHERE kind = 'set_aside' AND released = 0")
        return OutboxCounts(
            outbox_id=outbox_id,
            pending=last_n - committed_n - waiting_aside,
            kept=_kept(connection, base, committed_n),
            rejected=_one(
                connection,
                "SELECT total(last_n - first_n + 1) FROM held WHERE kind = 'rejected' AND released = 0",
            ),
            set_aside=aside,
            last_seq=last_n - base,
            committed_seq=committed_n - base,
            unreadable=unreadable,
            replays=_one(connection, "SELECT count(*) FROM replays"),
            oldest_pending_row=oldest[0] if oldest else None,
            bytes=(state_dir / OUTBOX_FILE).stat().st_size,
        )


def _kept(connection: sqlite3.Connection, base: int, committed_n: int) -> int:
    """Committed rows that are still stored: those that were never purged, and the held ones before.

    Not counted one by one, which takes seconds for a million rows. Where the outbox took a new id,
    the numbers of the rows that moved to it are missing; each row's seq tells where its id began.
    """
    first = _one(
        connection,
        """SELECT n FROM swipes WHERE n <= ?1 AND NOT EXISTS
           (SELECT 1 FROM held WHERE released = 0 AND n BETWEEN first_n AND last_n) ORDER BY n LIMIT 1""",
        committed_n,
    )
    before = first or committed_n + 1
    kept = _one(
        connection,
        f"""SELECT count(DISTINCT n) FROM held JOIN swipes ON n BETWEEN first_n AND last_n
            WHERE kind = 'rejected' AND released = 0 AND n < ? AND n NOT IN {_ASIDE}""",
        before,
    )
    last, begin = committed_n, base
    while first and last >= first:
        low = max(first, begin + 1)
        kept += max(0, last - low + 1) - _one(
            connection, f"SELECT count(*) FROM swipes WHERE n IN {_ASIDE} AND n BETWEEN ? AND ?", low, last
        )
        older = connection.execute(
            f"SELECT n, row FROM swipes WHERE n <= ? AND n NOT IN {_ASIDE} ORDER BY n DESC LIMIT 1", (begin,)
        ).fetchone()
        if older is None:
            break
        last, begin = older[0], older[0] - (members_of(older[1]) or {"seq": older[0]})["seq"]
    return kept


def _one(connection: sqlite3.Connection, query: str, *values: object) -> int:
    found = connection.execute(query, values).fetchone()
    return int(found[0] or 0) if found else 0


# --- rows held for an operator --------------------------------------------------------------


def holds(state_dir: Path) -> list[Hold]:
    """Every range that waits for an operator, oldest first."""
    with _beside(state_dir, "ro") as connection:
        found = connection.execute(
            "SELECT id, kind, first_n, last_n, reason FROM held WHERE released = 0 ORDER BY id"
        ).fetchall()
        return [_hold(connection, *line) for line in found]


def _hold(
    connection: sqlite3.Connection, hold_id: int, kind: Kind, first_n: int, last_n: int, reason: str
) -> Hold:
    ends = [
        members_of(row) or {}
        for (row,) in connection.execute(
            "SELECT row FROM swipes WHERE n IN (?, ?) ORDER BY n", (first_n, last_n)
        ).fetchall()
    ]
    first, last = (ends[0], ends[-1]) if ends else ({}, {})
    return Hold(
        id=hold_id,
        kind=kind,
        rows=last_n - first_n + 1,
        outbox_id=first.get("outbox_id", ""),
        first_seq=first.get("seq", 0),
        last_seq=last.get("seq", 0),
        reason=reason,
    )


def held_rows(state_dir: Path, hold_id: int | None) -> Iterator[bytes]:
    """The rows of one hold, or of all of them, in order, as they go to the pipe."""
    with _beside(state_dir, "ro") as connection:
        timings = UsedTimings.read(connection)
        for found in connection.execute(
            f"""SELECT {STORED} FROM swipes WHERE EXISTS (
                 SELECT 1 FROM held WHERE released = 0 AND (?1 IS NULL OR id = ?1)
                 AND n BETWEEN first_n AND last_n)
               ORDER BY n""",
            (hold_id,),
        ):
            yield timings.as_sent(Stored._make(found))


def release(state_dir: Path, hold_ids: list[int] | None) -> int:
    """The operator has dealt with these holds (None: all): they may be purged. Returns how many."""
    with _beside(state_dir, "rw") as connection:
        connection.execute("BEGIN IMMEDIATE")
        chosen = [i for (i,) in connection.execute("SELECT id FROM held WHERE released = 0").fetchall()]
        chosen = chosen if hold_ids is None else [i for i in chosen if i in hold_ids]
        connection.executemany("UPDATE held SET released = 1 WHERE id = ?", [(i,) for i in chosen])
        connection.execute("COMMIT")
        return len(chosen)


# --- asking for a replay --------------------------------------------------------------------

# A row that is set aside is sent again only by a replay that is for its hold.
_SENT_AGAIN = """FROM swipes WHERE n BETWEEN ?1 AND ?2 AND n NOT IN (
  SELECT first_n FROM held WHERE kind = 'set_aside' AND released = 0 AND id IS NOT ?3)"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to send again: held rows of a kind, or a range by seq or by time (both ends included)."""

    kind: Kind | None = None
    first_seq: int | None = None
    last_seq: int | None = None
    first_us: int | None = None
    last_us: int | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """Rows to send again, by their numbers in the file, and the hold that this is for."""

    first_n: int
    last_n: int
    held_id: int | None
    rows: int


def find(state_dir: Path, wanted: Wanted) -> list[Range]:
    """The ranges of stored rows that fit. Raises NothingToReplayError if there are none."""
    with _beside(state_dir, "ro") as connection:
        ranges = _held(connection, wanted.kind) if wanted.kind else _committed(connection, wanted)
    if not ranges:
        raise NothingToReplayError(
            "no stored row fits",
            hint="badge-agent status tells how many are kept, badge-agent outbox list which are held",
        )
    return ranges


def _held(connection: sqlite3.Connection, kind: Kind) -> list[Range]:
    found = connection.execute(
        """SELECT first_n, last_n, id FROM held WHERE kind = ? AND released = 0
           AND NOT EXISTS (SELECT 1 FROM replays WHERE held_id = held.id) ORDER BY first_n""",
        (kind,),
    ).fetchall()
    counted = [
        Range(first_n, last_n, hold_id, _one(connection, f"SELECT count(*) {_SENT_AGAIN}", *ends))
        for ends in found
        for first_n, last_n, hold_id in [ends]
    ]
    return [wanted for wanted in counted if wanted.rows]


def _committed(connection: sqlite3.Connection, wanted: Wanted) -> list[Range]:
    base, committed_n = connection.execute("SELECT base, committed_n FROM state").fetchone()
    low, high = 1, committed_n
    if wanted.first_seq is not None or wanted.last_seq is not None:
        low = base + (wanted.first_seq or 1)
        high = min(high, base + wanted.last_seq) if wanted.last_seq is not None else high
    if wanted.first_us is not None or wanted.last_us is not None:
        low, high = _in_time(connection, wanted, low, high)
    count, first, last = connection.execute(
        f"SELECT count(*), min(n), max(n) {_SENT_AGAIN}",
        (low, high, None),
    ).fetchone()
    return [Range(first, last, None, count)] if count else []


def _in_time(connection: sqlite3.Connection, wanted: Wanted, low: int, high: int) -> tuple[int, int]:
    """The rows between two moments are neighbours: rows are in the order of their reading.

    Rows of which no time is known but their own word go with those around them.
    """
    connection.create_function("time_of", 4, UsedTimings.read(connection).time_of, deterministic=True)
    first, last = connection.execute(
        """SELECT min(n), max(n) FROM
             (SELECT n, time_of(n, trusted_us, boot, boot_us) AS at FROM swipes WHERE n BETWEEN ? AND ?)
           WHERE at >= coalesce(?, at) AND at <= coalesce(?, at)""",
        (low, high, wanted.first_us, wanted.last_us),
    ).fetchone()
    return (first, last) if first is not None else (1, 0)


def request(state_dir: Path, ranges: list[Range]) -> list[int]:
    """Ask for ranges to be sent again; on disk when it returns. Returns the replays' ids."""
    with _beside(state_dir, "rw") as connection:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        ids = [
            added[0]
            for wanted in ranges
            if (
                added := connection.execute(
                    # Whoever asked for the same hold in the meantime was first.
                    """INSERT INTO replays(first_n, last_n, held_id) SELECT ?1, ?2, ?3
                       WHERE NOT EXISTS (SELECT 1 FROM replays WHERE held_id = ?3) RETURNING id""",
                    (wanted.first_n, wanted.last_n, wanted.held_id),
                ).fetchone()
            )
        ]
        connection.execute("COMMIT")
        return ids


def rows_in(state_dir: Path, ranges: list[Range]) -> Iterator[bytes]:
    """The rows that a replay of ranges sends, in order, as they were the first time."""
    with _beside(state_dir, "ro") as connection:
        timings = UsedTimings.read(connection)
        for wanted in ranges:
            ends = (wanted.first_n, wanted.last_n, wanted.held_id)
            for found in connection.execute(f"SELECT {STORED} {_SENT_AGAIN} ORDER BY n", ends):
                yield timings.as_sent(Stored._make(found))


def rows_to_replay(state_dir: Path, ids: list[int]) -> int:
    """How many rows of these replays are still to be committed."""
    with _beside(state_dir, "ro") as connection:
        replay_id, n = connection.execute("SELECT replay_id, n FROM replayed").fetchone()
        return sum(
            _one(
                connection,
                """SELECT count(*) FROM replays JOIN swipes ON n BETWEEN first_n AND last_n
                   WHERE id = ?1 AND (?1 > ?2 OR n > ?3)""",
                i,
                replay_id,
                n,
            )
            for i in ids
        )
