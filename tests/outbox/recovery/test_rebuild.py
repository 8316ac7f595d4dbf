from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.errors import OutboxCorruptError, OutboxError, OutboxReplacedError
from agent.outbox import ErrorCount, LiveRows, Outbox, ReplayRows, read_counts
from agent.outbox.database import PAGE_BYTES
from agent.outbox.external import holds, replay_queue
from agent.outbox.external.replay_queue import Wanted
from agent.outbox.recovery import rebuild, record_bytes
from agent.outbox.recovery.quarantine import copies
from agent.outbox.recovery.record_bytes import FoundHold
from agent.rows import UNKNOWN_LINK
from agent.service.status_file import read_status
from tests.support.outbox_rig import (
    PLENTY,
    commit,
    damaged,
    keep,
    looked_up,
    opened,
    pending_rows,
    recomputed_chain,
    recover,
    recover_step,
    rows_after,
    seqs,
    set_aside,
    stored,
)
from tests.support.swipes import swipe

ROWS, COMMITTED = 400, 150
ASIDE, REJECTED = 200, (20, 25)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped agent's file with rows of every kind."""
    state_dir = tmp_path_factory.mktemp("whole")
    with closing(opened(state_dir)) as outbox:
        keep(outbox, ROWS)
        set_aside(outbox, ASIDE)
        commit(outbox, COMMITTED, rejected=REJECTED)
    return state_dir / "outbox.db"


def pages(content: bytes) -> range:
    return range(0, len(content), PAGE_BYTES)


def cards_in(content: bytes) -> set[int]:
    """The cards whose rows lie whole in a piece of the file."""
    found = set()
    for part in content.split(b'{"badge_id"')[1:]:
        row = re.match(rb'.*?"chain":"[0-9a-f]{32}"\}', part, re.DOTALL)
        if row is not None:
            found.add(int(json.loads(b'{"badge_id"' + row[0])["card_raw"], 16))
    return found


def check(state_dir: Path, expected: set[int]) -> None:
    """An agent starts on it, has these swipes, each once and in order, and takes the next one."""
    with closing(opened(state_dir)) as outbox:
        outbox.keep(swipe(ROWS + 1))
        rows_after(outbox)  # holds what is damaged
        pending = pending_rows(outbox)
        rows = stored(state_dir)
        cards = [int(row["card_raw"], 16) for row in rows]

        assert set(cards) >= expected | {ROWS + 1}
        assert len(cards) == len(set(cards))
        waiting = [int(row["card_raw"], 16) for row in pending]
        assert waiting == sorted(waiting)
        # A number that is missing in a generation is that of a row that is lost, or set aside.
        for outbox_id in {row["outbox_id"] for row in pending}:
            numbers = [(row["seq"], row["card_raw"]) for row in pending if row["outbox_id"] == outbox_id]
            assert len({seq - int(card, 16) for seq, card in numbers}) == 1
        assert outbox.pending == len(pending) == read_counts(state_dir).pending
        assert {card for card in expected if card > COMMITTED} - {ASIDE} <= set(waiting)


def sent_rows(outbox: Outbox) -> list[int]:
    """Send all that is pending, generation after generation; the cards in the order of sending."""
    live, sent = LiveRows(outbox), list[int]()
    while outbox.pending:
        try:
            batch = live.after(live.committed, PLENTY, max_bytes=10**9)
        except OutboxReplacedError:  # damage that only reading the row shows
            recover(outbox)
            continue
        if batch is not None:
            sent += [int(json.loads(row)["card_raw"], 16) for row in batch.rows]
            live.commit(batch.last, ErrorCount(0, 0), None)
    return sent


def zeroed(content: bytearray, at: int) -> None:
    content[at : at + PAGE_BYTES] = b"\0" * PAGE_BYTES


def noise(content: bytearray, at: int) -> None:
    content[at : at + PAGE_BYTES] = bytes((at // 7 + n * n) % 256 for n in range(PAGE_BYTES))


def without_its_head(content: bytearray, at: int) -> None:
    content[at : at + 64] = b"\xff" * 64


def another_page(content: bytearray, at: int) -> None:
    other = len(content) - PAGE_BYTES - at
    content[at : at + PAGE_BYTES] = content[other : other + PAGE_BYTES]


# --- every kind of damage -------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [zeroed, noise, without_its_head, another_page])
def test_one_damaged_page_costs_no_more_than_what_lay_in_it(
    tmp_path: Path, whole: Path, damage: Callable[[bytearray, int], None]
) -> None:
    all_pages = [*pages(whole.read_bytes())]
    # The pages that hold the structure, and some of those that hold nothing but rows.
    for at in [*all_pages[:7], *all_pages[7::40], all_pages[-1]]:
        (state_dir := tmp_path / str(at)).mkdir()
        content = bytearray(whole.read_bytes())
        damage(content, at)
        (state_dir / "outbox.db").write_bytes(content)
        # A row that spans pages, or lies in the one that is gone, may be lost with it.
        rest = cards_in(bytes(content[:at])) | cards_in(bytes(content[at + PAGE_BYTES :]))

        check(state_dir, rest)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_that_was_cut_off_gives_what_is_left(tmp_path: Path, whole: Path, share: float) -> None:
    content = whole.read_bytes()
    left = content[: int(len(content) * share)]
    (tmp_path / "outbox.db").write_bytes(left)

    check(tmp_path, cards_in(left))


@pytest.mark.parametrize("content", [b"", b"\0" * 100_000, b"no database " * 1000, b"\xff" * 4096])
def test_a_file_of_which_nothing_is_left_costs_the_rows_and_not_the_door(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "outbox.db").write_bytes(content)

    check(tmp_path, set())


@settings(max_examples=20, deadline=None)
@given(
    holes=st.lists(
        st.tuples(st.floats(0, 0.999), st.integers(1, 9000), st.sampled_from([0, 0xFF, 0x41])),
        min_size=1,
        max_size=6,
    )
)
@example(holes=[(0.0031591674429733633, 1, 255)])  # a byte of the schema's text that is no UTF-8
@example(holes=[(0.8578200242458806, 1, 255)])  # the same in the chain of a row
@example(holes=[(0.9944792418116781, 99, 0)])  # the time of a row, in a page that SQLite finds sound
def test_whatever_is_overwritten_the_door_goes_on(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, holes: list[tuple[float, int, int]]
) -> None:
    state_dir, content = tmp_path_factory.mktemp("damaged"), bytearray(whole.read_bytes())
    for share, size, value in holes:
        at = int(share * len(content))
        end = min(at + size, len(content))
        content[at:end] = bytes([value]) * (end - at)
    (state_dir / "outbox.db").write_bytes(content)

    with closing(opened(state_dir)) as outbox:
        outbox.keep(swipe(ROWS + 1))

        sent = sent_rows(outbox)
        assert sent[-1] == ROWS + 1
        assert sent == sorted(set(sent))


def test_a_row_whose_bytes_have_changed_does_not_stop_the_others(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 9)
        with outbox.file.writing() as connection:
            connection.execute("UPDATE swipes SET row = x'7b00ff' WHERE n = 4")
        read_counts(tmp_path)

        outbox.start_generation("a test wants it")

        assert [int(row["card_raw"], 16) for row in rows_after(outbox)] == [1, 2, 3, 5, 6, 7, 8, 9]
        assert [(hold.kind, hold.first_seq) for hold in holds.holds(tmp_path)] == [("set_aside", 4)]
        assert outbox.pending == 8


# --- what is kept of it -----------------------------------------------------------------------------


def break_a_row_page(state_dir: Path, *, card: int) -> set[int]:
    """Damage the page that holds the row of a card; the cards that were in it."""
    with damaged(state_dir) as content:
        mark = f'"card_raw":"{card:010X}"'.encode()
        at = content.index(mark) // PAGE_BYTES * PAGE_BYTES
        lost = cards_in(bytes(content[at : at + PAGE_BYTES]))
        content[at : at + PAGE_BYTES] = b"\0" * PAGE_BYTES
    return lost


def test_the_damaged_file_is_put_aside_and_the_missing_rows_are_counted(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(whole.read_bytes())
    lost = break_a_row_page(tmp_path, card=300)

    with closing(opened(tmp_path)):
        counts = read_counts(tmp_path)

    assert cards_in((tmp_path / "outbox.db.corrupt-1").read_bytes()) | lost == set(range(1, ROWS + 1))
    assert counts.unreadable >= len(lost) > 0
    assert counts.pending + counts.unreadable == ROWS - COMMITTED - 1
    assert (tmp_path / "outbox.db").stat().st_mode & 0o777 == 0o600


def test_pending_rows_get_a_new_id_and_keep_their_event_id(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(whole.read_bytes())
    before = {row["card_raw"]: row for row in stored(tmp_path)}
    break_a_row_page(tmp_path, card=300)

    with closing(opened(tmp_path)) as outbox:
        pending = rows_after(outbox)

        assert outbox.outbox_id != before[pending[0]["card_raw"]]["outbox_id"]
    assert all(row["event_id"] == before[row["card_raw"]]["event_id"] for row in pending)


def test_a_chain_that_damage_has_taken_is_not_made_up(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 3)
    break_file(tmp_path, "generation")

    with closing(opened(tmp_path)) as outbox:
        sent = rows_after(outbox)

    assert [row["card_raw"] for row in sent] == [f"{number:010X}" for number in (1, 2, 3)]
    assert sent[0]["chain_before"] == UNKNOWN_LINK
    for before, row in pairwise(sent):
        assert recomputed_chain(before["chain"], row) == row["chain"]


# Parts of the file, and how much of each is overwritten. Of a page that is gone as a whole nothing is found.
PLACES = [("header", 8), ("header", 100), ("held", 8), ("swipes", 8)]
PLACES += [(table, size) for table in ("generation", "state") for size in (8, PAGE_BYTES)]


@settings(max_examples=25, deadline=None)
@example([(2, ("generation", 8), 99), (0, ("generation", 8), 99), (0, ("generation", 8), 99)])
@example([(0, ("swipes", 8), 99), (0, ("swipes", 8), 99), (0, ("generation", 8), 99), (2, ("swipes", 8), 99)])
@example([(2, ("swipes", 8), 0), (0, ("header", 8), 0), (1, ("held", 8), 99)])
@example([(1000, ("header", 8), 0), (0, ("header", 8), 0), (1, ("held", 8), 99)])
@example([(5, ("generation", 8), 0), (2, ("state", PAGE_BYTES), 99), (0, ("header", 8), 99)])
@example([(3, ("header", 8), 0), (1, ("header", 8), 99)])
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(PLACES), st.sampled_from((0, 1, 2, 99))),
        min_size=1,
        max_size=6,
    )
)
def test_a_file_that_is_damaged_again_and_again_counts_each_number_once(
    damages: list[tuple[int, tuple[str, int], int]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        state_dir, kept = Path(name), 0
        for count, (place, size), steps in damages:
            with closing(Outbox(state_dir, agent_id="hq-lobby-1", machine_id="")) as outbox:
                outbox.keep(*(swipe(kept + value) for value in range(1, count + 1)))
                kept += count
                for _ in range(steps):
                    if not recover_step(outbox):
                        break
            break_file(state_dir, place, size=size)

        with closing(opened(state_dir)) as outbox:
            assert outbox.pending == kept == read_counts(state_dir).pending
            if all(place != ("state", PAGE_BYTES) for _, place, _ in damages):
                assert read_counts(state_dir).unreadable == 0
            assert [row["seq"] > 0 for row in pending_rows(outbox)] == [True] * kept
            assert sent_rows(outbox) == list(range(1, kept + 1))


def test_an_older_damaged_file_is_no_proof_that_newer_swipes_were_sent(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 40)
        assert sent_rows(outbox) == list(range(1, 41))
    break_file(tmp_path, "header")
    with closing(opened(tmp_path)):
        pass
    for copy in copies(tmp_path):
        copy.chmod(0o600)  # as an earlier version left it
    for path in tmp_path.glob("outbox.db*"):
        if path not in copies(tmp_path):
            path.unlink()
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 5)
    break_file(tmp_path, "state", size=PAGE_BYTES)

    with closing(opened(tmp_path)) as outbox:
        assert sent_rows(outbox) == [1, 2, 3, 4, 5]


def test_a_hold_whose_size_has_changed_is_none(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 3)
    break_file(tmp_path, "header")
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 1)
    content = (tmp_path / "outbox.db").read_bytes()
    (hold,) = (one for one in record_bytes.records([content]) if isinstance(one, FoundHold))
    begin = content.index(b"set_aside" + hold.first_n.to_bytes(1)) - 7

    for at in range(begin, begin + 7):
        for bit in range(8):
            changed = bytearray(content)
            changed[at] ^= 1 << bit
            found = {one for one in record_bytes.records([bytes(changed)]) if isinstance(one, FoundHold)}
            assert found <= {hold, hold._replace(released=0)}


def test_of_the_newest_rows_nothing_is_known_if_nothing_is_left_of_their_page(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 2)
    break_file(tmp_path, "swipes", size=PAGE_BYTES)

    with closing(opened(tmp_path)) as outbox:
        assert (outbox.pending, read_counts(tmp_path).unreadable) == (0, 0)
        outbox.keep(swipe(3))
        assert sent_rows(outbox) == [3]
    assert copies(tmp_path)  # kept, for its bytes are not those of a sound file


def break_file(state_dir: Path, place: str, *, size: int = 8) -> None:
    """Overwrite the begin of the file, or of the first page of a table."""
    roots = dict(looked_up(state_dir, "SELECT name, rootpage FROM sqlite_master"))
    with damaged(state_dir) as content:
        begin = 0 if place == "header" else (roots[place] - 1) * PAGE_BYTES
        content[begin : begin + size] = b"\xff" * size


def test_committed_rows_are_not_sent_again(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(whole.read_bytes())
    break_a_row_page(tmp_path, card=300)

    with closing(opened(tmp_path)) as outbox:
        cards = {int(row["card_raw"], 16) for row in rows_after(outbox)}

    assert min(cards) == COMMITTED + 1


def test_committed_rows_are_not_sent_again_when_only_the_state_is_gone(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(whole.read_bytes())
    (root,) = looked_up(tmp_path, "SELECT rootpage FROM sqlite_master WHERE name = 'state'")[0]
    with damaged(tmp_path) as content:
        begin = (root - 1) * PAGE_BYTES
        content[begin : begin + 8] = b"\xff" * 8

    with closing(opened(tmp_path)) as outbox:
        cards = {int(row["card_raw"], 16) for row in rows_after(outbox)}

    assert min(cards) == COMMITTED + 1


def test_what_waits_for_an_operator_still_does(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(whole.read_bytes())
    before = holds.holds(tmp_path)
    break_a_row_page(tmp_path, card=300)

    with closing(opened(tmp_path)):
        after = holds.holds(tmp_path)

    assert [(hold.kind, hold.rows, hold.reason) for hold in after[:2]] == [
        (hold.kind, hold.rows, hold.reason) for hold in before
    ]
    assert [hold.kind for hold in after[:2]] == ["set_aside", "rejected"]


@pytest.mark.parametrize("size", [8, 100, PAGE_BYTES])
def test_holds_are_found_by_their_bytes(tmp_path: Path, whole: Path, size: int) -> None:
    (tmp_path / "outbox.db").write_bytes(whole.read_bytes())
    before = holds.holds(tmp_path)
    break_file(tmp_path, "header", size=size)

    with closing(opened(tmp_path)) as outbox:
        after = holds.holds(tmp_path)
        sent = sent_rows(outbox)

    assert [(hold.kind, hold.rows, hold.reason) for hold in after] == [
        (hold.kind, hold.rows, hold.reason) for hold in before
    ]
    assert ASIDE not in sent
    assert sent[-1] == ROWS


def test_a_replay_that_was_asked_for_is_still_to_be_done(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(whole.read_bytes())
    asked = replay_queue.find(tmp_path, Wanted(first_seq=5, last_seq=9))
    replay_queue.request(tmp_path, asked)
    break_a_row_page(tmp_path, card=300)

    with closing(opened(tmp_path)) as outbox:
        replays = ReplayRows(outbox)
        batch = replays.after(replays.committed, PLENTY, max_bytes=10**9)

    assert batch is not None
    assert seqs([json.loads(row) for row in batch.rows]) == [5, 6, 7, 8, 9]


def test_positions_and_replays_of_before_mean_the_same_rows_after_it(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 6)
        commit(outbox, 4)
        replays, live = ReplayRows(outbox), LiveRows(outbox)
        replay_queue.request(tmp_path, replay_queue.find(tmp_path, Wanted(first_seq=1, last_seq=2)))
        replays.commit((1, 2), ErrorCount(0, 0), None)
        before, old_id = stored(tmp_path), outbox.outbox_id

        fault = OutboxCorruptError("outbox.db: malformed")
        outbox._file.rebuild(fault, outbox.outbox_id)
        recover(outbox)
        pending = outbox.state.sending.outbox_id
        live.commit((0, 5), ErrorCount(0, 0), None)
        replay_queue.request(tmp_path, replay_queue.find(tmp_path, Wanted(first_us=0)))
        batch = replays.after(replays.committed, PLENTY, max_bytes=10**9)

        assert outbox.pending == 1
        assert [row["outbox_id"] for row in stored(tmp_path)] == [old_id] * 4 + [pending] * 2
        assert batch is not None
        again = [json.loads(row) for row in batch.rows]
        assert again[:4] == [row | {"replay": True} for row in before[:4]]
        assert [row["event_id"] for row in again] == [row["event_id"] for row in before[:5]]


def test_at_most_three_quarantined_copies_are_kept_the_newest(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / "outbox.db").write_bytes(b"no database %d" % number * 1000)
        opened(tmp_path).close()

    assert [path.name for path in copies(tmp_path)] == [f"outbox.db.corrupt-{k}" for k in (3, 4, 5)]
    assert b"no database 4" in (tmp_path / "outbox.db.corrupt-5").read_bytes()
    status = read_status("hq-lobby-1", tmp_path, tmp_path)
    assert status["outbox"]["quarantined"] == [path.name for path in copies(tmp_path)]


def test_a_damaged_file_whose_rows_were_all_read_is_not_kept(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(whole.read_bytes())
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        # A page that two tables claim.
        connection.execute("UPDATE sqlite_master SET rootpage = 2 WHERE name = 'sqlite_sequence'")
        connection.commit()

    with closing(opened(tmp_path)):
        assert len(stored(tmp_path)) == ROWS

    assert not list(tmp_path.glob("*.corrupt-*"))


# --- while the agent runs ---------------------------------------------------------------------------


def test_a_swipe_that_finds_the_file_damaged_is_kept_in_its_replacement(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 200)
        commit(outbox, 50)
        spoil(tmp_path, outbox.file._writer)

        outbox.keep(swipe(201))
        withheld = (outbox.pending, rows_after(outbox))
        recover(outbox)

        assert withheld == (1, [])
        assert outbox.pending >= 100
        assert int(pending_rows(outbox)[-1]["card_raw"], 16) == 201
        assert (tmp_path / "outbox.db.corrupt-1").exists()


def test_a_call_that_holds_a_position_raises_after_a_replacement(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 200)
        before = outbox.outbox_id
        spoil(tmp_path, outbox.file._writer)

        with pytest.raises(OutboxReplacedError, match="damaged and replaced"):
            LiveRows(outbox).after((0, 0), PLENTY, max_bytes=10**9)

        recover(outbox)
        assert outbox.outbox_id != before
        assert len(rows_after(outbox)) > 100


def test_two_who_find_the_same_damage_replace_the_file_once(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 5)
        before, fault = outbox.outbox_id, OutboxCorruptError("outbox.db: malformed")

        outbox._file.rebuild(fault, before)
        after = outbox.outbox_id
        outbox._file.rebuild(fault, before)

        assert outbox.outbox_id == after != before


def test_stored_swipes_that_an_io_error_took_leave_no_number_to_be_used_again(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 5)
        before = outbox.outbox_id
        with closing(sqlite3.connect(tmp_path / "outbox.db")) as other:
            other.execute("DELETE FROM swipes WHERE n = 5")
            other.commit()
        outbox.file._must_reopen = True  # as an I/O error leaves it

        outbox.keep(swipe(6))
        recover(outbox)

        assert outbox.outbox_id != before
        assert outbox.state.last_n == 6
        assert [int(row["card_raw"], 16) for row in pending_rows(outbox)] == [1, 2, 3, 4, 6]
        assert [hold.reason for hold in holds.holds(tmp_path)] == ["lost: not found in the damaged file"]
        commit(outbox, 4)
        assert [int(row["card_raw"], 16) for row in rows_after(outbox)] == [6]


def test_a_purge_that_finds_the_file_damaged_does_not_end_the_agent(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 200)
        commit(outbox, 200)
        spoil(tmp_path, outbox.file._writer)

        with pytest.raises(OutboxReplacedError):
            outbox.purge(kept_since_us=None, max_bytes=0)

        outbox.keep(swipe(201))
        recover(outbox)
        assert int(rows_after(outbox)[-1]["card_raw"], 16) == 201


def spoil(state_dir: Path, writer: sqlite3.Connection) -> None:
    """Damage the pages of rows under a running agent, in the file and not only in its log."""
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    content = bytearray((state_dir / "outbox.db").read_bytes())
    (root,) = writer.execute("SELECT rootpage FROM sqlite_master WHERE name = 'swipes'").fetchone()
    with (state_dir / "outbox.db").open("r+b") as file:
        file.seek((root - 1) * PAGE_BYTES)
        file.write(b"\xff" * 64)
    assert len(content) > root * PAGE_BYTES
    writer.execute("PRAGMA shrink_memory")


# --- interrupted ----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(8))
def test_a_power_cut_at_any_step_leaves_one_that_is_done_again(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    (tmp_path / "outbox.db").write_bytes(whole.read_bytes())
    lost = break_a_row_page(tmp_path, card=300)
    real, done = Path.replace, list[Path]()

    def replace(self: Path, target: Path) -> Path:
        if len(done) == steps:
            raise KeyboardInterrupt
        done.append(target)
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        with contextlib.suppress(KeyboardInterrupt):
            opened(tmp_path).close()

    check(tmp_path, set(range(1, ROWS + 1)) - lost)
    assert not list(tmp_path.glob("*.salvage*"))


def test_a_half_written_replacement_is_thrown_away(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 3)
    (tmp_path / "outbox.db.salvage-part").write_bytes(b"half of it")

    with closing(opened(tmp_path)) as outbox:
        assert outbox.pending == 3

    assert not (tmp_path / "outbox.db.salvage-part").exists()


def test_a_disk_that_has_no_room_for_the_replacement_leaves_the_old_file_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 3)

        def full(*_: object, **__: object) -> None:
            raise OutboxError("no space")

        with monkeypatch.context() as patched:
            patched.setattr(rebuild, "replace", full)
            with pytest.raises(OutboxError, match="no space"):
                outbox._file.rebuild(OutboxCorruptError("malformed"), outbox.outbox_id)

        keep(outbox, 1)
        assert outbox.pending == 4


def test_an_unfinished_new_file_and_its_journal_are_deleted(tmp_path: Path) -> None:
    for name in ("outbox.db.salvage-part", "outbox.db.salvage-part-journal"):
        (tmp_path / name).write_bytes(b"unfinished")

    with closing(opened(tmp_path)):
        assert list(tmp_path.glob("*.salvage*")) == []
