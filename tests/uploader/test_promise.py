from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agent.errors import OutboxCorruptError, OutboxReplacedError
from agent.keys.keypair import KeyPair
from agent.outbox.external import holds, replay_queue
from agent.outbox.external.replay_queue import NothingToReplayError
from tests.support.outbox_rig import looked_up
from tests.support.pipe_model import Invalidate, Landed, Lose, Refuse, Unreachable
from tests.support.uploader_rig import UploaderRig, Wish

FAULTS = st.sampled_from(
    [
        Lose(processed=True),
        Lose(processed=True),
        Lose(processed=False),
        Unreachable(),
        Invalidate(),
        Refuse(503),
        Refuse(429, retry_after=2),
        Refuse(401),
        Refuse(403),
        Refuse(404, "ERR_CHANNEL_DOES_NOT_EXIST_OR_IS_NOT_AUTHORIZED"),
        Refuse(409, "ERR_CHANNEL_MUST_BE_REOPENED"),
        Refuse(400, "STALE_CONTINUATION_TOKEN_SEQUENCER"),
    ]
)
MOST_BAD = 20


def card(row: dict[str, Any]) -> int:
    return int(row["card_raw"], 16)


def cards(landed: list[Landed], *, replay: bool) -> list[int]:
    return [card(row) for _, row in landed if row.get("replay", False) is replay]


class Promise(RuleBasedStateMachine):
    """Swipes, faults, crashes and operators in any order; at the end the network is well again.

    Cards are numbered as they are swiped, so that the table alone shows what is lost, doubled or
    out of order. `key` is set by the test, because making one takes longer than all the rest.
    """

    key: KeyPair

    @initialize(lag_s=st.sampled_from([0.0, 0.1, 3.0]))
    def open_the_door(self, lag_s: float) -> None:
        self.directory = Path(tempfile.mkdtemp())
        (self.directory / "state").mkdir()
        self.door = UploaderRig(self.directory / "state", self.key, lag_s=lag_s)
        self.door.pipe.cannot_load = lambda row: card(row) in self.not_loadable
        self.door.pipe.refuses = lambda row: card(row) in self.refusable
        self.not_loadable: set[int] = set()
        self.refusable: set[int] = set()
        self.ever_refusable: set[int] = set()
        self.asked: Counter[int] = Counter()
        self.covered: Counter[int] = Counter()
        self.doors = 0
        self.backup: Path | None = None
        self.restored = False

    # --- what happens -------------------------------------------------------------------------

    @rule(count=st.integers(1, 6))
    def swipe(self, count: int) -> None:
        self.door.keep(count)

    @rule(count=st.integers(1, 12))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.door.clock.advance(max(self.door.uploader.step() or 0.0, 1e-6))

    @rule(seconds=st.floats(0.01, 30))
    def time_passes(self, seconds: float) -> None:
        self.door.run(seconds)

    @rule()
    def hours_pass(self) -> None:
        if self.refusable:
            self.door.run(8_000)

    @rule(fault=FAULTS)
    def fault(self, fault: Lose | Unreachable | Invalidate | Refuse) -> None:
        self.door.pipe.faults.append(fault)

    @rule()
    def crash(self) -> None:
        self.door.crash()

    @rule()
    def another_writer_opens(self) -> None:
        for name in self.door.pipe.channels:
            self.door.pipe.other_writer(name)

    @rule()
    def channels_are_deleted_after_idle_days(self) -> None:
        # Idle: a commit that was not polled before its channel was deleted can no longer be read.
        if not self.door.pipe.faults:
            self._drain()
            self.door.pipe.forget_channel()

    @rule(ahead=st.integers(1, 4))
    def a_swipe_comes_that_cannot_be_loaded(self, ahead: int) -> None:
        self.not_loadable.add(self.door.kept + ahead)

    @rule(ahead=st.integers(1, 4))
    def a_swipe_comes_that_is_refused(self, ahead: int) -> None:
        if len(self.ever_refusable) < MOST_BAD:
            self.refusable.add(self.door.kept + ahead)
            self.ever_refusable.add(self.door.kept + ahead)

    @rule()
    def somebody_mends_the_pipe(self) -> None:
        self.not_loadable.clear()
        self.refusable.clear()

    @rule(kind=st.sampled_from(["rejected", "set_aside"]))
    def replay_what_is_held(self, kind: Literal["rejected", "set_aside"]) -> None:
        self._replay({"kind": kind})

    @rule(first=st.integers(1, 30), count=st.integers(1, 10))
    def replay_a_range(self, first: int, count: int) -> None:
        self._replay({"first_seq": first, "last_seq": first + count})

    def _replay(self, wanted: Wish) -> None:
        if self.door.outbox.state.recoveries:
            return  # what it asks for is not all in the file
        with contextlib.suppress(NothingToReplayError):
            ranges = replay_queue.find(self.door.state_dir, replay_queue.Wanted(**wanted))
            replay_queue.request(self.door.state_dir, ranges)
            self.asked.update(
                card(json.loads(row)) for row in replay_queue.rows_in(self.door.state_dir, ranges)
            )
            # A row that is set aside now may be in the table when the replay of a range comes to it.
            for some in ranges:
                covered = self._stored(some.first_n, some.last_n)
                self.covered.update(card(json.loads(row)) for (row,) in covered)

    @rule()
    def purge(self) -> None:
        self.door.outbox.purge(kept_since_us=None, max_bytes=0)

    # --- what changes the channel ---------------------------------------------------------------

    @rule()
    def rename_the_door(self) -> None:
        self.doors += 1
        self.door.restart(agent_id=f"door-{self.doors}")

    @rule()
    def rename_it_back(self) -> None:
        self.door.restart(agent_id="door")

    @rule(pipe=st.sampled_from(["PIPE", "OTHER_PIPE"]))
    def configure_another_pipe(self, pipe: str) -> None:
        self.door.restart(pipe=pipe)

    @rule(number=st.integers(1, 3))
    def move_the_card(self, number: int) -> None:
        self.door.restart(machine_id=str(number) * 16)

    @rule()
    def rebuild_the_file(self) -> None:
        fault = OutboxCorruptError("outbox.db: database disk image is malformed")
        self.door.outbox._file.rebuild(fault, self.door.outbox.outbox_id)

    @rule(count=st.integers(1, 4))
    def recover_some(self, count: int) -> None:
        for _ in range(count):
            with contextlib.suppress(OutboxReplacedError):
                self.door.outbox.recover_step()

    @rule()
    def start_a_generation(self) -> None:
        self.door.outbox.start_generation("a test wants it")

    @rule()
    def make_a_backup(self) -> None:
        self.backup = self.door.image()

    @precondition(lambda self: self.backup is not None)
    @rule()
    def restore_the_backup(self) -> None:
        # What is only in the replaced file would be lost.
        self.door.pipe.faults.clear()
        self._drain()
        if self.backup is not None and not self.not_loadable | self.ever_refusable:
            self.restored = True
            self.door.restore(self.backup)
            self.backup = None

    def _drain(self) -> None:
        """Deliver everything. Rows that are refused next to each other, or last, wait for a repair."""
        self.refusable.clear()
        self.door.drain()

    # --- what must hold at any moment ------------------------------------------------------------

    @invariant()
    def nothing_is_taken_for_committed_that_is_not(self) -> None:
        # Everything kept is still in the file, or in one that is being recovered, unless it is in the table.
        if self.door.outbox.state.recoveries:
            return
        stored = {card(json.loads(row)) for (row,) in self._stored()}
        there = set(cards(self.door.pipe.landed, replay=False))
        there |= set(cards(self.door.pipe.landed, replay=True))
        assert set(range(1, self.door.kept + 1)) <= stored | there

    @invariant()
    def what_could_not_be_loaded_is_kept_until_it_is_in_the_table(self) -> None:
        if self.door.outbox.state.recoveries:
            return
        stored = {card(json.loads(row)) for (row,) in self._stored()}
        there = set(cards(self.door.pipe.landed, replay=True))
        assert set(cards(self.door.pipe.not_loaded, replay=False)) <= stored | there

    def _stored(self, first_n: int = 0, last_n: int = 2**60) -> list[tuple[bytes]]:
        with self.door.outbox.file.reading() as connection:
            return connection.execute(
                "SELECT row FROM swipes WHERE n BETWEEN ? AND ?", (first_n, last_n)
            ).fetchall()

    # --- what must hold in the end ----------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "door"):
            return
        try:
            self.door.pipe.faults.clear()
            self._drain()
            self._check_live_rows()
            self._check_replays()
        finally:
            self.door.close()
            shutil.rmtree(self.directory)

    def _check_live_rows(self) -> None:
        pipe = self.door.pipe
        table = cards(pipe.landed, replay=False)
        missing = set(range(1, self.door.kept + 1)) - set(table)
        assert missing <= set(cards(pipe.not_loaded, replay=False)) | self.ever_refusable
        # What a backup has pending may come again, with the same event_id.
        first_time = list(dict.fromkeys(table))
        assert first_time == sorted(first_time)
        assert self.restored or first_time == table
        events = {(card(row), row["event_id"]) for _, row in pipe.landed}
        assert len(events) == len({number for number, _ in events})
        self._check_numbers([row for _, row in pipe.landed + pipe.not_loaded if not row.get("replay", False)])

    def _check_numbers(self, rows: list[dict[str, Any]]) -> None:
        """No hole among the seqs of any identity, but for rows set aside."""
        for outbox_id in {row["outbox_id"] for row in rows}:
            seqs = {row["seq"] for row in rows if row["outbox_id"] == outbox_id}
            refused = {row["seq"] for _, row in self.door.pipe.refused if row["outbox_id"] == outbox_id}
            assert set(range(1, max(seqs) + 1)) <= seqs | refused

    def _check_replays(self) -> None:
        assert looked_up(self.door.state_dir, "SELECT * FROM replays") == []
        pipe = self.door.pipe
        came = Counter(cards(pipe.landed, replay=True)) + Counter(cards(pipe.not_loaded, replay=True))
        for number in self.asked | came:
            assert came[number] <= self.covered[number] or self.restored
            assert came[number] >= self.asked[number] or number in self.ever_refusable


@pytest.mark.timeout(240)
def test_whatever_happens_in_whatever_order_the_promise_is_kept(key: KeyPair) -> None:
    machine = type("Promise", (Promise,), {"key": key})

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_hold_that_is_released_is_not_replayed(key: KeyPair, tmp_path: Path) -> None:
    (state_dir := tmp_path / "state").mkdir()
    door = UploaderRig(state_dir, key)
    door.pipe.refuses = lambda row: card(row) == 2
    door.keep(3)
    door.drain()

    holds.release(door.state_dir, None)

    with pytest.raises(NothingToReplayError):
        door.replay(kind="set_aside")
    door.close()
