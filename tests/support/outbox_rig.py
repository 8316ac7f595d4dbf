"""Builds outboxes for tests, reads their content, and makes commits happen."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from agent.errors import OutboxReplacedError
from agent.outbox import ErrorCount, LiveRows, Outbox, Position, Rejected
from agent.outbox.state import OutboxState
from agent.outbox.timing.timestamps import STORED, StoredRow
from tests.support.swipes import NOON_US, instant, swipe

PLENTY = 1_000_000
_PENDING = f"SELECT {STORED} FROM swipes WHERE n > ? ORDER BY n"  # noqa: S608 - the outbox's own names
_ALL = f"SELECT {STORED} FROM swipes ORDER BY n"  # noqa: S608 - the same


def opened(state_dir: Path, *, machine_id: str = "", reserve_bytes: int = 0) -> Outbox:
    """An outbox; of a damaged file every row is moved that can be read."""
    outbox = Outbox(state_dir, agent_id="hq-lobby-1", machine_id=machine_id, reserve_bytes=reserve_bytes)
    try:
        recover(outbox)
    except BaseException:
        outbox.close()
        raise
    return outbox


def recover(outbox: Outbox) -> None:
    """Do all that the inspector does in its thread."""
    while recover_step(outbox):
        pass


def recover_step(outbox: Outbox) -> bool:
    """One step of recover(); False if there is nothing left to do."""
    with suppress(OutboxReplacedError):
        return outbox.recover_step()
    return True


def at(outbox: Outbox, seq: int) -> Position:
    """The position of the live row with a seq."""
    return (0, outbox.state.base + seq)


def rows_after(outbox: Outbox, seq: int = 0) -> list[dict[str, Any]]:
    """The rows of this history after a seq, without those set aside."""
    batch = LiveRows(outbox).after(at(outbox, seq), PLENTY, max_bytes=10**9)
    return [json.loads(row) for row in batch.rows] if batch else []


def pending_rows(outbox: Outbox) -> list[dict[str, Any]]:
    """The rows of all generations that are still to be sent, as they are sent."""
    state = outbox.state
    with outbox.file.reading() as connection:
        found = connection.execute(_PENDING, (state.committed_n,)).fetchall()
    rows = map(StoredRow._make, found)
    return [json.loads(state.as_sent(row)) for row in rows if row.n not in state.set_aside_numbers]


def stored(state_dir: Path) -> list[dict[str, Any]]:
    """Every row in the file, of whatever generation, as it is sent."""
    with closing(sqlite3.connect(state_dir / "outbox.db")) as connection:
        state = OutboxState.read(connection)
        found = connection.execute(_ALL).fetchall()
        return [json.loads(state.as_sent(StoredRow._make(columns))) for columns in found]


def looked_up(state_dir: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(state_dir / "outbox.db")) as connection:
        return connection.execute(query).fetchall()


def recomputed_chain(previous: str, m: dict[str, Any]) -> str:
    """The chain of a row as documented, from its members alone."""
    person = f"{m['person_salt']}|{m['badge_id']}|{m['user_id']}|{m['card_bits']}|{m['card_raw']}"
    text = (
        f"{previous}|{m['event_id']}|{m['agent_id']}|{m['reader_id']}|{m['zone_id']}"
        f"|{m.get('direction') or ''}"
        f"|{m.get('recorded_at') or m['event_timestamp']}|{m['boot_id']}|{m['boot_ms']}"
        f"|{hashlib.sha256(person.encode()).hexdigest()[:32]}"
    )
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def token(row: dict[str, Any]) -> str:
    """The offset token of a row."""
    return f"{row['seq']}-{row['chain']}"


def keep(outbox: Outbox, count: int) -> None:
    outbox.keep(*(swipe(value) for value in range(1, count + 1)))


def keep_read_at(outbox: Outbox, *reads: tuple[int, bool]) -> None:
    """Swipes read so many seconds after noon, under a trusted clock or another."""
    outbox.keep(*(swipe(read_at=instant(NOON_US + s * 1_000_000, trusted=trusted)) for s, trusted in reads))


def commit(outbox: Outbox, seq: int, *, rejected: tuple[int, int] | None = None) -> None:
    """Snowflake has committed everything up to a seq, and could not load some row of a range."""
    refused = Rejected(at(outbox, rejected[0] - 1), at(outbox, rejected[1]), "bad") if rejected else None
    LiveRows(outbox).commit(at(outbox, seq), ErrorCount(0, 0), refused)


def set_aside(outbox: Outbox, *seqs: int) -> None:
    for seq in seqs:
        outbox.set_aside(at(outbox, seq)[1], "refused: 400")


def purge(outbox: Outbox, seconds: int, *, max_bytes: int = 10**12) -> int:
    """Purge what was read earlier than so many seconds after noon."""
    return outbox.purge(kept_since_us=NOON_US + seconds * 1_000_000, max_bytes=max_bytes)


def seqs(rows: Sequence[dict[str, Any]]) -> list[int]:
    return [row["seq"] for row in rows]


@contextmanager
def damaged(state_dir: Path) -> Iterator[bytearray]:
    """The bytes of a closed outbox, written back as they are at the end."""
    path = state_dir / "outbox.db"
    content = bytearray(path.read_bytes())
    yield content
    path.write_bytes(content)
