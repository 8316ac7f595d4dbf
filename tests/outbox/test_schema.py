from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.errors import OutboxVersionError
from agent.outbox import LiveRows, Outbox, read_counts, schema
from agent.outbox.external import holds
from tests.support.outbox_rig import commit, looked_up, opened, purge, rows_after, seqs, stored, token
from tests.support.paths import DATA
from tests.support.swipes import swipe

STORED = DATA
# What the stored file of version 1 holds: two rows purged, five committed, five pending.
OUTBOX_ID, COMMITTED_TOKEN = "909191b8e093", "7-c3eb4287fb8f2ad3"


def load(state_dir: Path, version: int) -> None:
    """The file as the program of that version left it."""
    with closing(sqlite3.connect(state_dir / "outbox.db")) as connection:
        connection.executescript((STORED / f"outbox-v{version}.sql").read_text())
        connection.execute("PRAGMA journal_mode=WAL").fetchall()


@pytest.fixture(params=range(1, schema.VERSION))
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A state directory of every earlier version."""
    load(tmp_path, request.param)
    return tmp_path


def test_every_earlier_version_is_stored() -> None:
    files = sorted(path.name for path in STORED.glob("outbox-v*.sql"))

    assert files == [f"outbox-v{version}.sql" for version in range(1, schema.VERSION)]


def test_nothing_of_an_older_file_is_lost(old: Path) -> None:
    rows = [row for (row,) in looked_up(old, "SELECT row FROM swipes ORDER BY rowid")]

    with closing(opened(old)) as outbox:
        assert outbox.outbox_id == OUTBOX_ID
        assert (outbox.last_seq, outbox.committed_seq, outbox.pending) == (12, 7, 5)
        assert LiveRows(outbox).committed_token() == COMMITTED_TOKEN

    assert [row for (row,) in looked_up(old, "SELECT row FROM swipes ORDER BY n")] == rows
    assert looked_up(old, "PRAGMA user_version") == [(schema.VERSION,)]
    assert seqs(stored(old)) == list(range(3, 13))


def test_every_token_of_an_older_file_is_still_explained(old: Path) -> None:
    with closing(opened(old)) as outbox:
        rows = rows_after(outbox)

        assert [LiveRows(outbox).position_of(token(row)) for row in rows] == [(0, row["seq"]) for row in rows]


def test_the_chain_goes_on_from_an_older_file(old: Path) -> None:
    with closing(opened(old)) as outbox:
        outbox.keep(swipe(13))
        before, last = rows_after(outbox)[-2:]

    text = (
        f"{before['chain']}|{last['event_id']}|{last['reader_id']}|{last['card_bits']}|{last['card_raw']}"
        f"|{last['recorded_at']}|{last['boot_id']}|{last['boot_ms']}"
    )
    assert last["seq"] == 13
    assert last["chain"] == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_an_older_file_takes_part_in_all_that_is_new(old: Path) -> None:
    with closing(opened(old)) as outbox:
        commit(outbox, 9, rejected=(8, 9))
        gone = purge(outbox, 1000)
        outbox.start_generation("a test wants it")

        assert gone == 5
        assert seqs(rows_after(outbox)) == [1, 2, 3]
        assert read_counts(old).kept == 2
        assert [hold.first_seq for hold in holds.holds(old)] == [8]


def test_a_damaged_older_file_is_replaced_like_any_other(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(sqlite3.connect(old / "outbox.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute("PRAGMA writable_schema=ON")
        # A page that two tables claim: found only by quick_check.
        connection.execute("UPDATE sqlite_master SET rootpage = 2 WHERE name = 'sqlite_sequence'")
    rows = {json.loads(row)["event_id"] for (row,) in looked_up(old, "SELECT row FROM swipes")}

    with closing(opened(old)):
        pass

    assert {row["event_id"] for row in stored(old)} == rows
    assert "the file was damaged" in caplog.text


def test_a_newer_file_is_refused_and_untouched(old: Path) -> None:
    path = old / "outbox.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version={schema.VERSION + 1}")
    before = path.read_bytes()

    with pytest.raises(OutboxVersionError, match=f"schema {schema.VERSION + 1}"):
        Outbox(old, agent_id="hq-lobby-1")

    assert path.read_bytes() == before


def test_a_step_that_fails_leaves_the_older_file_as_it_was(old: Path) -> None:
    with closing(sqlite3.connect(old / "outbox.db", isolation_level=None)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute("CREATE TABLE boots(in_the_way)")

        with pytest.raises(sqlite3.OperationalError, match="already exists"):
            schema.migrate(connection)

        assert connection.execute("PRAGMA user_version").fetchone() == (version,)
        assert connection.execute("SELECT count(*) FROM swipes").fetchone() == (10,)
        assert not connection.in_transaction
