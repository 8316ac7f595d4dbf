from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.outbox import LiveRows, Outbox, generation, read_counts
from agent.outbox.external import holds
from agent.outbox.generation import machine_id
from agent.outbox.records import Generation, new_outbox_id
from tests.support.outbox_rig import (
    commit,
    keep,
    looked_up,
    opened,
    purge,
    recomputed_chain,
    rows_after,
    seqs,
    set_aside,
    stored,
)
from tests.support.swipes import swipe


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with closing(opened(tmp_path)) as outbox:
        yield outbox


def renew(outbox: Outbox) -> None:
    outbox.start_generation("a test wants it")


def chain_holds(rows: list[dict[str, Any]]) -> bool:
    """Whether the chain of a generation can be recomputed from its rows, from the chain before the first."""
    previous = rows[0]["chain_before"]
    for row in rows:
        if row["chain"] != recomputed_chain(previous, row):
            return False
        previous = row["chain"]
    return all("chain_before" not in row for row in rows[1:])


# --- a new id for the same swipes -----------------------------------------------------------------


def test_pending_rows_get_a_seq_from_one_and_keep_event_id_and_chain(outbox: Outbox) -> None:
    keep(outbox, 8)
    commit(outbox, 3)
    old_id, old = outbox.outbox_id, rows_after(outbox, 3)
    committed = rows_after(outbox)[2]

    renew(outbox)

    new = rows_after(outbox)
    placed = {"outbox_id", "seq", "chain_before"}
    assert outbox.outbox_id != old_id
    assert seqs(new) == [1, 2, 3, 4, 5]
    assert new[0]["chain_before"] == committed["chain"]
    assert chain_holds(new)
    assert [{k: v for k, v in row.items() if k not in placed} for row in new] == [
        {k: v for k, v in row.items() if k not in placed} for row in old
    ]
    assert (outbox.last_seq, outbox.committed_seq, outbox.pending) == (5, 0, 5)


def test_a_new_id_rewrites_no_row(tmp_path: Path, outbox: Outbox) -> None:
    keep(outbox, 8)
    commit(outbox, 3)
    rows = looked_up(tmp_path, "SELECT * FROM swipes")
    writes: list[str] = []
    outbox.file._writer.set_trace_callback(writes.append)

    renew(outbox)

    assert looked_up(tmp_path, "SELECT * FROM swipes") == rows
    assert not [sql for sql in writes if "swipes" in sql and not sql.startswith("SELECT")]


def test_the_first_row_of_a_file_carries_its_outbox_id_as_the_chain_before(outbox: Outbox) -> None:
    keep(outbox, 2)
    first_id = outbox.outbox_id

    for _ in range(2):
        assert rows_after(outbox)[0]["chain_before"] == first_id
        assert chain_holds(rows_after(outbox))
        renew(outbox)


def test_committed_rows_stay_what_they_were(tmp_path: Path, outbox: Outbox) -> None:
    keep(outbox, 8)
    commit(outbox, 3)
    before = rows_after(outbox)[:3]

    renew(outbox)

    assert stored(tmp_path)[:3] == before
    assert read_counts(tmp_path).kept == 3


def test_rows_set_aside_stay_held_where_they_are(tmp_path: Path, outbox: Outbox) -> None:
    keep(outbox, 8)
    commit(outbox, 3)
    set_aside(outbox, 5, 8)

    renew(outbox)

    assert seqs(rows_after(outbox)) == [1, 3, 4]
    assert [hold.first_seq for hold in holds.holds(tmp_path)] == [2, 5]
    assert (read_counts(tmp_path).pending, outbox.pending) == (3, 3)


def test_no_token_of_the_old_id_is_explained_any_more(outbox: Outbox) -> None:
    keep(outbox, 8)
    commit(outbox, 3)
    old = [f"{row['seq']}-{row['chain']}" for row in rows_after(outbox)]

    renew(outbox)

    assert [LiveRows(outbox).position_of(token) for token in old] == [None] * 8
    assert LiveRows(outbox).committed_token() is None


def test_a_new_id_without_anything_pending_begins_with_the_next_swipe(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 3)
        commit(outbox, 3)
        renew(outbox)
        new_id = outbox.outbox_id

    with closing(opened(tmp_path)) as outbox:
        outbox.keep(swipe(9))

        assert outbox.outbox_id == new_id
        assert seqs(rows_after(outbox)) == [1]
        assert chain_holds(rows_after(outbox))


def test_kept_rows_are_counted_across_ids(tmp_path: Path, outbox: Outbox) -> None:
    for _ in range(3):
        keep(outbox, 10)
        commit(outbox, outbox.committed_seq + 6)
        renew(outbox)
    set_aside(outbox, 2)
    commit(outbox, 4)

    counts = read_counts(tmp_path)

    (count,) = looked_up(tmp_path, "SELECT count(*) FROM swipes")[0]
    assert counts.kept == count - counts.pending - counts.set_aside


@settings(max_examples=30, deadline=None)
@given(
    actions=st.lists(
        st.tuples(
            st.sampled_from(["keep", "commit", "aside", "renew", "purge", "reopen"]), st.integers(1, 9)
        ),
        max_size=30,
    )
)
def test_whatever_happens_the_chain_and_the_numbers_of_what_is_pending_hold(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int]]
) -> None:
    state_dir = tmp_path_factory.mktemp("outbox")
    outbox = opened(state_dir)
    try:
        for action, number in actions:
            pending = seqs(rows_after(outbox, outbox.committed_seq))
            match action:
                case "keep":
                    keep(outbox, number)
                case "commit" if pending:
                    commit(outbox, pending[min(number, len(pending)) - 1])
                case "aside" if pending:
                    set_aside(outbox, pending[min(number, len(pending)) - 1])
                case "renew":
                    renew(outbox)
                case "purge":
                    purge(outbox, 100)
                case "reopen":
                    outbox.close()
                    outbox = opened(state_dir)

            with outbox.file.reading() as connection:
                aside = [n for (n,) in connection.execute("SELECT first_n FROM held").fetchall()]
            numbers = seqs(rows_after(outbox, outbox.committed_seq))
            expected = range(outbox.committed_seq + 1, outbox.last_seq + 1)
            assert numbers == [seq for seq in expected if outbox.state.base + seq not in aside]
            assert outbox.pending == len(numbers) == read_counts(state_dir).pending
            events = [row["event_id"] for row in stored(state_dir)]
            assert len(events) == len(set(events))
    finally:
        outbox.close()


# --- several generations with pending rows ----------------------------------------------------------


def two_generations(outbox: Outbox) -> list[str]:
    """Rows 1-5 in one generation and 6-8 in the next, as a rebuild beside new swipes leaves them."""
    keep(outbox, 5)
    with outbox._file.changing() as connection:
        later = Generation(6, new_outbox_id(), outbox.state.last_chain)
        generation.add(connection, later)
    keep(outbox, 3)
    return [one.outbox_id for one in outbox.state.generations]


def test_the_rows_of_one_generation_are_given_and_then_those_of_the_next(outbox: Outbox) -> None:
    first, second = two_generations(outbox)
    live = LiveRows(outbox)

    before = (live.channel, seqs(rows_after(outbox)), outbox.pending, live.has_after((0, 5)))
    commit(outbox, 5)
    after = (live.channel, seqs(rows_after(outbox)), outbox.pending, live.committed_token())

    assert before == (f"hq-lobby-1-{first}", [1, 2, 3, 4, 5], 8, False)
    assert after == (f"hq-lobby-1-{second}", [1, 2, 3], 3, None)
    assert chain_holds(rows_after(outbox))


def test_a_generation_of_which_only_held_rows_are_left_is_passed_over(outbox: Outbox) -> None:
    _, second = two_generations(outbox)
    commit(outbox, 3)

    set_aside(outbox, 4, 5)

    assert LiveRows(outbox).channel == f"hq-lobby-1-{second}"
    assert (seqs(rows_after(outbox)), outbox.pending) == ([1, 2, 3], 3)


def test_numbers_without_rows_at_the_end_of_a_generation_do_not_stop_the_next(
    tmp_path: Path, outbox: Outbox
) -> None:
    _, second = two_generations(outbox)
    commit(outbox, 3)
    with outbox.file.writing() as connection:
        connection.execute("DELETE FROM swipes WHERE n IN (4, 5)")

    assert rows_after(outbox, 3) == []

    assert LiveRows(outbox).channel == f"hq-lobby-1-{second}"
    assert (seqs(rows_after(outbox)), outbox.pending, read_counts(tmp_path).pending) == ([1, 2, 3], 3, 3)
    assert [(hold.first_seq, hold.last_seq) for hold in holds.holds(tmp_path)] == [(4, 5)]


def test_a_new_id_is_given_to_every_generation_with_pending_rows(outbox: Outbox) -> None:
    old = two_generations(outbox)
    commit(outbox, 2)

    renew(outbox)

    generations = outbox.state.generations
    assert [one.first_n for one in generations] == [1, 3, 6]
    assert generations[0].outbox_id == old[0]
    assert not {one.outbox_id for one in generations[1:]} & set(old)


def test_a_token_of_the_next_generation_is_not_adopted_in_this_one(outbox: Outbox) -> None:
    two_generations(outbox)
    with outbox.file.reading() as connection:
        (chain,) = connection.execute("SELECT chain FROM swipes WHERE n = 7").fetchone()

    assert LiveRows(outbox).position_of(f"7-{chain}") is None


def test_the_newest_generation_goes_on_after_a_restart_without_a_row(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 3)
        with outbox.file.writing() as connection:
            generation.add(connection, Generation(11, "0123456789ab", "00" * 16))

    with closing(opened(tmp_path)) as outbox:
        assert outbox.state.last_n == 10
        outbox.keep(swipe(9))
        assert looked_up(tmp_path, "SELECT max(n) FROM swipes") == [(11,)]


def test_a_generation_is_forgotten_with_its_last_row_unless_it_is_the_newest(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 3)
        commit(outbox, 2)
        renew(outbox)
        commit(outbox, 1)
        first_n = [[one.first_n for one in outbox.state.generations]]
        purge(outbox, 0, max_bytes=0)

    with closing(opened(tmp_path)) as outbox:
        first_n.append([one.first_n for one in outbox.state.generations])

    assert first_n == [[1, 3], [3]]


# --- which machine --------------------------------------------------------------------------------


def test_a_card_in_another_machine_takes_a_new_id(tmp_path: Path) -> None:
    with closing(opened(tmp_path, machine_id="1" * 16)) as outbox:
        keep(outbox, 3)
        before = outbox.outbox_id

    ids = []
    for machine in ("1" * 16, "2" * 16, "2" * 16):
        with closing(opened(tmp_path, machine_id=machine)) as outbox:
            ids.append(outbox.outbox_id)

    assert ids[0] == before
    assert ids[1] == ids[2] != before
    assert seqs(stored(tmp_path)) == [1, 2, 3]


def test_another_agent_id_takes_a_new_id_once_its_channel_is_used(tmp_path: Path) -> None:
    ids = []
    for agent_id in ("hq-lobby-1", "hq-lobby-1", "hq-lobby-2", "hq-lobby-2"):
        with closing(Outbox(tmp_path, agent_id=agent_id)) as outbox:
            keep(outbox, 1)
            outbox.record_channel(0)
            before = outbox.outbox_id
            if outbox.is_switch_due:
                outbox.switch_channel(0)
            ids += [before, outbox.outbox_id]

    assert len(set(ids[:5])) == 1
    assert ids[4] != ids[5] == ids[6] == ids[7]


def test_the_last_channel_is_known_after_a_restart(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        assert outbox.state.record.channel == ""
        outbox.record_channel(0)
        flushes = outbox.file.flushes
        outbox.record_channel(0)
        assert outbox.file.flushes == flushes

    with closing(opened(tmp_path)) as outbox:
        assert outbox.state.record.channel == LiveRows(outbox).channel == f"hq-lobby-1-{outbox.outbox_id}"


def test_a_machine_that_does_not_tell_its_name_changes_nothing(tmp_path: Path) -> None:
    ids = []
    for machine in ("1" * 16, "", "1" * 16, "2" * 16):
        with closing(opened(tmp_path, machine_id=machine)) as outbox:
            ids.append(outbox.outbox_id)

    assert len(set(ids[:3])) == 1
    assert ids[3] != ids[0]


def test_a_power_cut_before_the_new_id_is_written_makes_it_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(opened(tmp_path, machine_id="1" * 16)) as outbox:
        before = outbox.outbox_id

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Outbox, "start_generation", cut)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path, machine_id="2" * 16)

    with closing(opened(tmp_path, machine_id="2" * 16)) as outbox:
        assert outbox.outbox_id != before


def test_the_first_source_with_an_id_names_the_machine(tmp_path: Path) -> None:
    serial, other, empty = (tmp_path / name for name in ("serial", "machine-id", "empty"))
    serial.write_bytes(b"10000000a1b2c3d4\0")
    other.write_bytes(b"4c1f0e\n")
    empty.write_bytes(b"\0\n")

    names = [machine_id(sources) for sources in ((serial, other), (empty, other), (other,), (empty,))]

    assert names[0] != names[1] == names[2]
    assert names[3] == machine_id((tmp_path / "nowhere",)) == ""
    assert len(names[0]) == 16
    assert "a1b2c3d4" not in names[0]
