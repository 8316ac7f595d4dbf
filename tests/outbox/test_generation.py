from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.outbox import LiveRows, Outbox, read_counts
from agent.outbox.external import holds
from agent.outbox.generation import machine_id
from tests.support.outbox_rig import (
    commit,
    keep,
    looked_up,
    opened,
    purge,
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


def chain_holds(outbox_id: str, rows: list[dict[str, Any]]) -> bool:
    previous = outbox_id
    for m in rows:
        text = (
            f"{previous}|{m['event_id']}|{m['reader_id']}|{m['card_bits']}|{m['card_raw']}"
            f"|{m['recorded_at']}|{m['boot_id']}|{m['boot_ms']}"
        )
        previous = hashlib.sha256(text.encode()).hexdigest()[:16]
        if m["chain"] != previous:
            return False
    return True


# --- a new id for the same swipes -----------------------------------------------------------------


def test_pending_rows_move_with_a_seq_from_one_and_the_same_event_id(outbox: Outbox) -> None:
    keep(outbox, 8)
    commit(outbox, 3)
    old_id, old = outbox.outbox_id, rows_after(outbox, 3)

    renew(outbox)

    new = rows_after(outbox)
    placed = {"outbox_id", "seq", "chain"}
    assert outbox.outbox_id != old_id
    assert seqs(new) == [1, 2, 3, 4, 5]
    assert chain_holds(outbox.outbox_id, new)
    assert [{k: v for k, v in row.items() if k not in placed} for row in new] == [
        {k: v for k, v in row.items() if k not in placed} for row in old
    ]
    assert (outbox.last_seq, outbox.committed_seq, outbox.pending) == (5, 0, 5)


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

    assert seqs(rows_after(outbox)) == [1, 2, 3]
    assert [hold.first_seq for hold in holds.holds(tmp_path)] == [5, 8]
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
        assert chain_holds(new_id, rows_after(outbox))


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
        patched.setattr(Outbox, "_start_generation", cut)
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


def test_it_says_so_while_everybody_has_to_wait(outbox: Outbox) -> None:
    seen: set[bool] = set()
    outbox.file._writer.set_trace_callback(lambda _: seen.add(outbox.is_rebuilding))

    renew(outbox)

    assert seen == {True}
    assert not outbox.is_rebuilding
