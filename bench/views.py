"""Processor seconds of each view over generated rows in DuckDB: VIEWS_ROWS (100,000) and twice as many."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent.sql.names import literal
from agent.sql.views import VIEWS
from bench.figures import Figure
from tests.sql.engines import PLAN, DuckDbAccount, duckdb_account

_DOORS = 2_000
_ROWS = 100_000
_ROUNDS = 2
# Of the time for twice the rows to that for the rows; below this many seconds noise is larger.
_GROWTH, _NOISE_S = 3.0, 1.0

# Of DuckDB. The tables are in a file, so that 10 million rows need no more.
_MEMORY = "6GB"

# Rows as a door makes them, chains included, are made in SQL: in Python 10 million would take an hour. The
# chain of a row needs that of the row before it, so each step of a recursive query makes a row of every door.
_GENERATE = """
INSERT INTO {table} (badge_id, user_id, zone_id, reader_id, event_timestamp, direction, ingestion_time,
  event_id, agent_id, outbox_id, seq, chain_before, chain, person_salt, card_bits, card_raw, boot_id, boot_ms,
  raw_json)
WITH RECURSIVE lives AS (
  SELECT door, 0 AS seq, 'out' || door AS chain FROM (SELECT UNNEST(RANGE({doors})) AS door)
  UNION ALL
  SELECT door, seq + 1, SUBSTR(SHA256(chain || '|' || {content}), 1, 32) FROM lives WHERE seq < {swipes}
), rows_made AS (
  SELECT door, seq, chain, LAG(chain) OVER (PARTITION BY door ORDER BY seq) AS chain_before FROM lives
)
SELECT 'B-' || (seq * 7 + door) % 5000, 'U', 'Z-' || door % 50, 'R-' || door, {time},
  CASE WHEN seq % 2 = 0 THEN 'EXIT' ELSE 'ENTRY' END, {time} + INTERVAL 2 SECOND, 'e-' || door || '-' || seq,
  'door-' || door, 'out' || door, seq, CASE WHEN seq = 1 THEN chain_before END, chain, 's', 26, 'A', 'b', 1,
  NULL
FROM rows_made WHERE seq > 0
"""
# The last swipe of each door was some minutes ago.
_TIME = "TIMESTAMP '{last}' - INTERVAL 1 MINUTE * ({swipes} - {seq})"


def run() -> list[Figure]:
    """The seconds of each view, and how they grow when the rows double."""
    if importlib.util.find_spec("fakesnow") is None:
        return [Figure("views", "not measured: no DuckDB on this machine")]
    rows = int(os.environ.get("VIEWS_ROWS", _ROWS))
    once, twice = (_measure(count // _DOORS) for count in (rows, 2 * rows))
    figures = []
    for name, seconds in twice.items():
        growth = seconds / max(once[name], 1e-3)
        holds = growth <= _GROWTH or seconds < _NOISE_S
        figures.append(
            Figure(f"{name}, {2 * rows:,} rows", f"{seconds:.2f} s, x {growth:.1f}", f"x {_GROWTH}", holds)
        )
    return figures


def _measure(swipes: int) -> dict[str, float]:
    with _account(swipes) as account:
        found = {}
        for view in VIEWS:
            found[view.name] = min(_seconds(account, view.name) for _ in range(_ROUNDS))
        return found


def _seconds(account: DuckDbAccount, name: str) -> float:
    begun = time.process_time()
    account.count(name)
    return time.process_time() - begun


@contextmanager
def _account(swipes: int) -> Iterator[DuckDbAccount]:
    with tempfile.TemporaryDirectory() as directory, duckdb_account(Path(directory)) as account:
        account.generate(f"SET memory_limit = '{_MEMORY}'")
        account.generate(f"SET temp_directory = {literal(f'{directory}/spilled')}")
        account.generate(_statement(swipes))
        problems = account.count("V_DOOR_CHAIN")
        if problems:
            raise RuntimeError(f"{problems} generated rows have no valid chain")
        yield account


def _statement(swipes: int) -> str:
    # As agent.rows.chain_hash: the digest of the person, then the members, absent ones as empty text.
    following = "(seq + 1)"
    last = datetime.now(UTC).replace(tzinfo=None, microsecond=0) - timedelta(minutes=10)

    def time_of(seq: str) -> str:
        return _TIME.format(last=last, swipes=swipes, seq=seq)

    badge = f"'B-' || ({following} * 7 + door) % 5000"
    person = f"SUBSTR(SHA256('s|' || {badge} || '|U|26|A'), 1, 32)"
    direction = f"CASE WHEN {following} % 2 = 0 THEN 'EXIT' ELSE 'ENTRY' END"
    recorded = f"STRFTIME({time_of(following)}, '%Y-%m-%dT%H:%M:%S.%f') || 'Z'"
    content = " || '|' || ".join(
        [
            f"'e-' || door || '-' || {following}",
            "'door-' || door",
            "'R-' || door",
            "'Z-' || door % 50",
            direction,
            recorded,
            literal("b"),
            literal("1"),
            person,
        ]
    )
    return _GENERATE.format(
        table=PLAN.table, doors=_DOORS, swipes=swipes, content=content, time=time_of("seq")
    )
