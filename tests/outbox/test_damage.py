"""Values that changed on the disk, in pages that SQLite finds sound: found by their checksums."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from agent.errors import OutboxReplacedError
from agent.outbox import ErrorCount, LiveRows, Outbox, ReplayRows, read_counts
from agent.outbox.external import holds, replay_queue
from agent.outbox.external.previous_run import last_run
from agent.outbox.external.replay_queue import Wanted
from agent.outbox.records import StateRecord
from agent.outbox.recovery.damaged_file import DamagedFile
from agent.outbox.recovery.record_bytes import RowReader
from tests.support.outbox_rig import (
    PLENTY,
    commit,
    damaged,
    keep,
    looked_up,
    opened,
    pending_rows,
    recover,
    rows_after,
    set_aside,
)
from tests.support.swipes import instant, swipe


def cards(rows: list[bytes]) -> list[int]:
    return [int(json.loads(row)["card_raw"], 16) for row in rows]


def drained(outbox: Outbox) -> list[int]:
    """The cards of all pending rows, committed batch by batch as a sender does."""
    live, found = LiveRows(outbox), list[int]()
    recover(outbox)
    for _ in range(1000):
        batch = live.after(live.committed, 7, max_bytes=PLENTY)
        if batch is None:
            if outbox.pending == 0:
                return found
            continue
        found += cards(batch.rows)
        live.commit(batch.last, ErrorCount(0, 0), None)
    pytest.fail("the outbox never becomes empty")


# --- rows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"event_timestamp":"2026', b'"event_timesta}p":"2026'),
        (b'"event_timestamp":"2026', b'"event_timestamp":"202v'),
        (b'"card_bits":40', b'"card_bits":41'),
        (b'"clock":"synced"', b'"clock":"sybced"'),
    ],
)
def test_a_row_with_a_changed_bit_is_held_and_all_others_are_sent(
    tmp_path: Path, old: bytes, new: bytes
) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 9)
    card = b'{"badge_id":"40:0000000004"'
    with damaged(tmp_path) as content:
        begin = content.index(card)
        at = content.index(old, begin)
        content[at : at + len(old)] = new

    with closing(opened(tmp_path)) as outbox:
        assert drained(outbox) == [1, 2, 3, 5, 6, 7, 8, 9]

        (hold,) = holds.holds(tmp_path)
        assert (hold.kind, hold.first_seq) == ("set_aside", 4)
        assert "damaged on the disk" in hold.reason
        assert read_counts(tmp_path).pending == 0


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE swipes SET trusted_us = trusted_us + 4 WHERE n = 2",
        "UPDATE swipes SET boot = 5 WHERE n = 2",
        "UPDATE swipes SET boot_us = boot_us + 4 WHERE n = 2",
        "UPDATE swipes SET checksum = checksum + 4 WHERE n = 2",
    ],
)
def test_a_changed_column_beside_a_row_is_found_too(tmp_path: Path, change: str) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 5)
        with outbox.file.writing() as connection:
            connection.execute(change)

        assert drained(outbox) == [1, 3, 4, 5]


def test_a_newest_row_without_its_boot_time_costs_no_start(tmp_path: Path) -> None:
    """One bit of its type in the header of the record makes a number of four bytes NULL."""
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 3)
        with outbox.file.writing() as connection:
            connection.execute("UPDATE swipes SET boot_us = NULL WHERE n = 3")

    before = last_run(tmp_path, instant())
    with closing(opened(tmp_path)) as outbox:
        assert drained(outbox) == [1, 2]

    assert [len(reads) for reads in before.last_reads.values()] == [2]


def test_a_row_without_a_checksum_is_damaged_unless_an_older_version_stored_it(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 3)
        with outbox.file.writing() as connection:
            connection.execute("UPDATE swipes SET checksum = NULL WHERE n = 2")

        assert drained(outbox) == [1, 3]


def test_a_file_with_a_damaged_row_is_checked_again(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 300)
        with outbox.file.writing() as connection:
            connection.execute("UPDATE swipes SET trusted_us = 7 WHERE n = 2")
            (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'held'").fetchone()
        outbox.file._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        before = outbox.outbox_id
        outbox.check_integrity()  # was checked at open: does nothing
        with (tmp_path / "outbox.db").open("r+b") as file:
            file.seek((root - 1) * 4096)
            file.write(b"\xff" * 8)
        outbox.check_integrity()
        assert outbox.outbox_id == before

        LiveRows(outbox)._read_after(outbox.state, 0, 300, 1, PLENTY)
        outbox._file.check_again()
        outbox.check_integrity()

        assert outbox.outbox_id != before
        assert len(drained(outbox)) >= 299


def test_a_damaged_row_in_a_replay_is_passed_over(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 5)
        commit(outbox, 5)
        replay_queue.request(tmp_path, replay_queue.find(tmp_path, Wanted(first_seq=1)))
        with outbox.file.writing() as connection:
            connection.execute("UPDATE swipes SET trusted_us = 7 WHERE n = 3")
        replays = ReplayRows(outbox)

        batch = replays.after(replays.committed, PLENTY, max_bytes=10**9)
        assert batch is not None
        replays.commit(batch.last, ErrorCount(0, 0), None)

        assert cards(batch.rows) == [1, 2, 4, 5]
        assert not replays.needs_channel()


# --- the state ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("committed_n", [69, 37, 4, 2**40 + 5])
def test_a_changed_bit_in_the_committed_number_makes_no_pending_row_committed(
    tmp_path: Path, committed_n: int
) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 55)
        commit(outbox, 5)
    with closing(sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)) as connection:
        connection.execute("UPDATE state SET committed_n = ?", (committed_n,))

    with closing(opened(tmp_path)) as outbox:
        found = drained(outbox)

    # What cannot be proved committed is sent again.
    assert found[-50:] == list(range(6, 56))
    assert found == sorted(set(found))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE state SET committed_chain = replace(committed_chain, 'a', 'b') || 'x'",
        "UPDATE state SET legacy_n = 64",
        "UPDATE state SET channel = 'x'",
        "DELETE FROM state",
        "UPDATE generation SET outbox_id = 'ffffffffffff'",
        "UPDATE generation SET chain_before = 'ffffffffffff'",
        "UPDATE generation SET first_n = 3",
        "DELETE FROM generation",
        "UPDATE held SET first_n = -1",
        "UPDATE held SET last_n = 1",
        "UPDATE replays SET last_n = 0",
        "UPDATE replayed SET n = -5",
        "DELETE FROM replayed",
        "UPDATE error_counts SET rows_error_count = rows_error_count",
    ],
)
def test_a_change_in_any_small_table_costs_no_swipe(tmp_path: Path, change: str) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 20)
        commit(outbox, 5)
        set_aside(outbox, 8)
        replay_queue.request(tmp_path, replay_queue.find(tmp_path, Wanted(first_seq=1)))
    with closing(sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)) as connection:
        connection.execute(change)

    with closing(opened(tmp_path)) as outbox:
        outbox.keep(swipe(21))
        found = drained(outbox)

    assert {*range(6, 22)} - {8} <= set(found)
    assert found == sorted(set(found))


def test_a_damaged_replay_position_found_while_running_is_rebuilt(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 20)
        commit(outbox, 5)
        with outbox.file.writing() as connection:
            connection.execute("UPDATE replayed SET n = -1")

        with pytest.raises(OutboxReplacedError):
            ReplayRows(outbox).committed  # noqa: B018 - what it reads is the test

        recover(outbox)
        assert drained(outbox) == list(range(6, 21))


# --- any bit ------------------------------------------------------------------------------------------


def test_whatever_bits_change_the_outbox_opens_and_can_be_emptied(tmp_path: Path) -> None:
    (whole := tmp_path / "whole").mkdir()
    with closing(opened(whole)) as outbox:
        keep(outbox, 100)
        commit(outbox, 40)
        set_aside(outbox, 70)
    size = (whole / "outbox.db").stat().st_size
    chances = Random(12)  # noqa: S311 - chances, not secrets
    lost = 0
    for number in range(150):
        state_dir = shutil.copytree(whole, tmp_path / str(number))
        with damaged(state_dir) as content:
            used = len(content.rstrip(b"\0"))
            for _ in range(chances.randint(1, 3)):
                # Half of the flips go to the first pages, which hold the structure.
                at = chances.randrange(min(size, chances.choice((40_000, used))))
                content[at] ^= 1 << chances.randrange(8)

        with closing(opened(state_dir)) as outbox:
            outbox.keep(swipe(101))
            found = drained(outbox)

        assert found[-1] == 101
        assert len(found) == len(set(found))
        lost += len(set(range(41, 101)) - {70} - set(found))
        shutil.rmtree(state_dir)
    assert (
        lost <= 300
    )  # at most three bits in each of 150 files: a row or two, or a page where a cell is gone


# --- records found by their bytes -----------------------------------------------------------------------


def test_a_row_is_found_by_its_bytes_with_every_column_and_its_number(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        outbox.keep(
            swipe(1),
            swipe(2, read_at=instant(trusted=False)),
            swipe(3, read_at=instant(5, boot_ms=0)),
            swipe(4, read_at=instant(boot_ms=10**10)),
            swipe(5, read_at=instant(2**45, boot_ms=2)),
        )
    stored = looked_up(tmp_path, "SELECT * FROM swipes ORDER BY n")

    with closing(DamagedFile(tmp_path / "outbox.db")) as file:
        reader = RowReader()
        found = [reader.stored(one) for one in file.scanned() if one is not None]

    assert sorted(set(filter(None, found))) == stored


def test_a_row_whose_columns_are_damaged_is_placed_by_its_chain(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 9)
        before = pending_rows(outbox)
    with damaged(tmp_path) as content:
        # The page's head, so that no B-tree leads to its rows, and the checksum after the row of card 4.
        at = content.index(b'{"badge_id":"40:0000000004"')
        end = content.index(b'"}', at) + 2
        content[end : end + 8] = bytes(8)
        content[at // 4096 * 4096 : at // 4096 * 4096 + 8] = b"\xff" * 8

    with closing(opened(tmp_path)) as outbox:
        again = pending_rows(outbox)

    assert [row["event_id"] for row in again] == [row["event_id"] for row in before]
    assert [row["seq"] for row in again] == [row["seq"] for row in before]


def result_of(search: Generator[None, None, set[StateRecord]]) -> set[StateRecord]:
    """What a search returns after its last step."""
    while True:
        try:
            next(search)
        except StopIteration as end:
            found: set[StateRecord] = end.value
            return found


def test_the_state_record_is_found_by_its_bytes_with_every_member(tmp_path: Path) -> None:
    agent_id, pipe = "a-name-longer-than-any-other-" * 3, "a pipe with a long name " * 6
    with closing(Outbox(tmp_path, agent_id=agent_id, pipe=pipe, machine_id="1" * 16)) as outbox:
        keep(outbox, 300)
        outbox.record_channel(1)
        outbox.record_replay_channel("a replay channel with a name of " * 3)
        commit(outbox, 299)
        outbox.request_generation("a long reason " * 20)
        record = outbox.state.record

    with closing(DamagedFile(tmp_path / "outbox.db")) as file:
        assert record in result_of(file.states())


def test_rows_after_a_damaged_one_keep_their_seq(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 4)
        with outbox.file.writing() as connection:
            connection.execute("UPDATE swipes SET trusted_us = 7 WHERE n = 2")

        assert [row["seq"] for row in rows_after(outbox)] == [1, 3, 4]


@pytest.mark.parametrize(
    "change",
    [
        lambda outbox: outbox.hold_lost(7, 7),
        lambda outbox: outbox.switch_channel(0),
        lambda outbox: outbox.start_generation("another history"),
    ],
    ids=["hold_lost", "switch_channel", "start_generation"],
)
def test_damage_that_a_change_of_the_state_finds_is_rebuilt(
    tmp_path: Path, change: Callable[[Outbox], None]
) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 5)
        with closing(sqlite3.connect(tmp_path / "outbox.db")) as connection, connection:
            connection.execute(
                "INSERT INTO held(kind, first_n, last_n, reason) VALUES ('rejected', 5, 3, '')"
            )

        with pytest.raises(OutboxReplacedError):
            change(outbox)

        recover(outbox)
        assert [int(row["card_raw"], 16) for row in pending_rows(outbox)] == [1, 2, 3, 4, 5]
