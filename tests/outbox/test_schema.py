from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.errors import OutboxVersionError
from agent.outbox import LiveRows, Outbox, ReplayRows, read_counts, schema
from agent.outbox.external import holds
from agent.outbox.external.previous_run import last_run
from tests.support.agent_process import AGENT_ID, AgentProcess, PtyReader, reader_table
from tests.support.emulator_process import EmulatorProcess
from tests.support.outbox_rig import (
    PLENTY,
    commit,
    keep,
    looked_up,
    opened,
    pending_rows,
    purge,
    recomputed_chain,
    rows_after,
    seqs,
    stored,
    token,
)
from tests.support.paths import DATA
from tests.support.swipes import instant, swipe, wait_until

STORED = DATA / "outbox"
# What the stored file of version 1 holds: two rows purged, five committed, five pending.
OUTBOX_ID, COMMITTED_TOKEN = "909191b8e093", "7-c3eb4287fb8f2ad3"


def load(state_dir: Path, name: str) -> None:
    """A stored file, as the program of its version left it."""
    with closing(sqlite3.connect(state_dir / "outbox.db")) as connection:
        connection.executescript((STORED / f"{name}.sql").read_text())
        connection.execute("PRAGMA journal_mode=WAL").fetchall()


@pytest.fixture(params=range(1, schema.VERSION))
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A state directory of every earlier version."""
    load(tmp_path, f"v{request.param}")
    return tmp_path


def test_every_earlier_version_is_stored() -> None:
    files = sorted(path.stem for path in STORED.glob("v?.sql"))

    assert files == [f"v{version}" for version in range(1, schema.VERSION)]


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

    assert last["seq"] == 13
    assert len(before["chain"]) == 16
    assert last["chain"] == recomputed_chain(before["chain"], last)


def test_rows_of_an_older_file_are_sent_byte_for_byte_until_a_new_id_is_taken(old: Path) -> None:
    rows = [row for (row,) in looked_up(old, "SELECT row FROM swipes ORDER BY rowid")]

    with closing(opened(old)) as outbox:
        batch = LiveRows(outbox).after((0, 0), 100, max_bytes=10**9)
        assert batch is not None
        assert batch.rows == rows

        outbox.start_generation("a test wants it")
        moved = rows_after(outbox)

    assert seqs(moved) == [1, 2, 3, 4, 5]
    assert {row["outbox_id"] for row in moved} == {outbox.outbox_id}
    expected = [json.loads(row) for row in rows[-5:]]
    assert [row["chain"] for row in moved] == [row["chain"] for row in expected]
    assert [row["event_id"] for row in moved] == [row["event_id"] for row in expected]
    assert moved[0]["chain_before"] == COMMITTED_TOKEN.partition("-")[2]


def test_an_older_file_takes_part_in_all_that_is_new(old: Path) -> None:
    with closing(opened(old)) as outbox:
        commit(outbox, 9, rejected=(8, 9))
        gone = purge(outbox, 1000)
        outbox.start_generation("a test wants it")

        assert gone == 5
        assert seqs(rows_after(outbox)) == [1, 2, 3]
        assert read_counts(old).kept == 2
        assert [(hold.outbox_id, hold.first_seq) for hold in holds.holds(old)] == [(OUTBOX_ID, 8)]


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
        connection.execute("CREATE TABLE door_events(in_the_way)")

        with pytest.raises(sqlite3.OperationalError, match="already exists"):
            schema.migrate(connection)

        assert connection.execute("PRAGMA user_version").fetchone() == (version,)
        assert connection.execute("SELECT count(*) FROM swipes").fetchone() == (10,)
        assert not connection.in_transaction


# --- files in use: rows of two outbox ids, set aside, rejected, a replay under way, a machine id -----------

IN_USE = ["v2-in-use", "v3-in-use"]
IN_USE_ID, MACHINE = "cb0967208d57", "1" * 16


@pytest.mark.parametrize("name", IN_USE)
def test_a_file_in_use_goes_on_where_it_was(tmp_path: Path, name: str) -> None:
    load(tmp_path, name)
    before = stored_members(tmp_path)

    with closing(opened(tmp_path, machine_id=MACHINE)) as outbox:
        live, replays = LiveRows(outbox), ReplayRows(outbox)
        counts = read_counts(tmp_path)
        batch = replays.after(replays.committed, PLENTY, max_bytes=10**9)

        assert live.channel == f"hq-lobby-1-{IN_USE_ID}"
        assert outbox.state.record.channel == live.channel
        assert live.committed_token() == "6-580b84debfb86a6c"
        assert (counts.last_seq, counts.committed_seq, counts.pending) == (10, 6, 3)
        assert (counts.rejected, counts.set_aside, counts.kept) == (2, 2, 9)
        assert seqs(rows_after(outbox, outbox.committed_seq)) == [7, 8, 10]
        assert replays.committed_token() == "1.2-beaf2dcf9bb29ac7"
        assert batch is not None
        # These are of the outbox id before, which only the rows contain.
        assert list(map(json.loads, batch.rows)) == [before[n] | {"replay": True} for n in (3, 4)]
        assert [(hold.kind, hold.first_seq) for hold in holds.holds(tmp_path)] == [
            *(("set_aside", 3), ("rejected", 5), ("set_aside", 9)),
        ]


def test_before_an_upgrade_the_last_moment_of_the_older_version_is_read(tmp_path: Path) -> None:
    """Otherwise bytes that waited in a port during the upgrade were of any time since the boot."""
    load(tmp_path, "v3-in-use")
    now = replace(instant(), boot_id="6f0c1d3e-5a7b-4c2d-9e8f-001122334455")

    before = last_run(tmp_path, now)

    assert before.last_us == 74_000_000 - 1_000_000
    assert {reader for reader, reads in before.last_reads.items() if reads} == {"RDR-101"}


@pytest.mark.parametrize("name", IN_USE)
def test_a_file_in_use_on_another_machine_takes_a_new_id(tmp_path: Path, name: str) -> None:
    load(tmp_path, name)

    with closing(opened(tmp_path, machine_id="2" * 16)) as outbox:
        assert LiveRows(outbox).channel == f"hq-lobby-1-{IN_USE_ID}"  # until it was asked
        outbox.switch_channel(0)
        assert outbox.outbox_id != IN_USE_ID
        assert seqs(rows_after(outbox)) == [1, 2, 4]


def stored_members(state_dir: Path) -> dict[int, dict[str, Any]]:
    return {n: json.loads(row) for n, row in looked_up(state_dir, "SELECT n, row FROM swipes")}


@pytest.mark.parametrize("name", ["v1", "v2", "v3", *IN_USE])
def test_what_an_older_file_has_pending_arrives_once_and_in_order(tmp_path: Path, name: str) -> None:
    with EmulatorProcess(tmp_path / "emulator") as emulator, PtyReader(tmp_path / "reader") as reader:
        agent = AgentProcess(
            tmp_path / "agent",
            url=emulator.url,
            private_key_file=emulator.private_key_file,
            readers=[reader_table(reader.device)],
        )
        agent.config.write_text(agent.config.read_text().replace(AGENT_ID, "hq-lobby-1"))
        load(agent.state_dir, name)
        pending = looked_up(agent.state_dir, PENDING[name])
        with agent:
            wait_until(lambda: agent.outbox().pending == 0, what="a drained outbox")
            agent.end()
        arrived = [row for row in emulator.rows() if not row["replay"]]

    assert [row["event_id"] for row in arrived] == [json.loads(row)["event_id"] for (row,) in pending]


_PENDING = "SELECT row FROM swipes WHERE {0} > (SELECT committed_{0} FROM state) AND {0} <> 15 ORDER BY 1"
PENDING = {name: _PENDING.format("seq" if name == "v1" else "n") for name in ("v1", "v2", "v3", *IN_USE)}


# --- damage of the schema ---------------------------------------------------------------------------


def test_a_schema_text_of_older_programs_and_other_versions_of_sqlite_is_accepted(tmp_path: Path) -> None:
    load(tmp_path, "v1")  # with comments and AUTOINCREMENT in it
    for _ in range(2):
        with closing(opened(tmp_path)) as outbox:
            assert outbox.outbox_id == OUTBOX_ID
        with closing(sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema=ON")
            connection.execute(
                """UPDATE sqlite_master SET sql = replace(sql, ' swipes(', ' "swipes" (\n ')
                   WHERE name = 'swipes'"""
            )
    assert not list(tmp_path.glob("*.corrupt-*"))


@pytest.mark.parametrize(
    ("table", "text", "damaged"),
    [
        ("swipes", "chain TEXT", "ghain TEXT"),
        ("swipes", "row BLOB NOT NULL", "row BLOB NOT NUKL"),
        ("held", "released IN (0, 1)", "released IN (0, 3)"),
        ("state", "committed_n INTEGER", "committed_m INTEGER"),
        ("generation", "CREATE TABLE", "CREATE TAALE"),
        ("replays", "replays(", "replazs("),
        ("door_events_state", "refused INTEGER", "refusel INTEGER"),
    ],
)
def test_a_changed_schema_text_costs_no_swipe_and_no_start(
    tmp_path: Path, table: str, text: str, damaged: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 5)
        commit(outbox, 2)
    path = tmp_path / "outbox.db"
    content = path.read_bytes()
    at = content.index(text.encode(), content.index(f"CREATE TABLE {table}(".encode()))
    path.write_bytes(content[:at] + damaged.encode() + content[at + len(text) :])

    with closing(opened(tmp_path)) as outbox:
        outbox.keep(swipe(6))

        assert [int(row["card_raw"], 16) for row in pending_rows(outbox)] == [3, 4, 5, 6]
    assert "the file was damaged" in caplog.text


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, 6, 12, 99])
def test_a_changed_version_number_costs_no_swipe_and_no_start(tmp_path: Path, version: int) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 5)
        commit(outbox, 2)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as connection:
        connection.execute(f"PRAGMA user_version={version}")

    with closing(opened(tmp_path)) as outbox:
        assert [int(row["card_raw"], 16) for row in rows_after(outbox)] == [3, 4, 5]
