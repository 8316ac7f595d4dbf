"""A real reader, agent and emulator, and a record of every tag presented."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.agent_process import AgentProcess, PtyReader, raws, reader_table, sent_rows
from tests.support.emulator_process import EmulatorProcess, is_append_of_swipes
from tests.support.outbox_rig import recomputed_chain
from tests.support.service_manager import ServiceManager
from tests.support.swipes import wait_until

# Short delays for real time; the defaults are tested with a driven clock.
QUICK = "[uploader]\nbackoff_max_seconds = 0.5\n"
_DELIVERED_S = 60.0


class ChaosRig:
    """A reader, an agent and a pipe of their own under one directory. The agent starts with it."""

    def __init__(
        self,
        directory: Path,
        *,
        tables: str = QUICK,
        commit_lag_seconds: float = 0.05,
        under: ServiceManager | None = None,
        but_first: str = "",
        more_readers: Sequence[str] = (),
    ) -> None:
        """`under` and `but_first` are the AgentProcess's; `more_readers`: further reader_table()s."""
        self.directory = directory
        self.pipe = EmulatorProcess(directory / "pipe", commit_lag_seconds=commit_lag_seconds)
        self.tags: list[int] = []
        self._tables = tables
        self._more_readers = more_readers
        self._under, self._but_first = under, but_first
        self._kept_before = 0
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            ends.enter_context(self.pipe)
            self.line = ends.enter_context(PtyReader(self.directory / "reader"))
            self.agent = AgentProcess(
                self.directory / "door",
                url=self.pipe.url,
                private_key_file=self.pipe.private_key_file,
                readers=[reader_table(self.line.device), *self._more_readers],
                tables=self._tables,
                under=self._under,
                but_first=self._but_first,
            )
            self.prepare()
            ends.enter_context(self.agent)
            self._ends = ends.pop_all()
        return self

    def prepare(self) -> None:
        """Hook: called before the agent starts for the first time."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    # --- what happens at the door -----------------------------------------------------------------

    def present(self, count: int, *, per_second: float = 200) -> None:
        """Present new tags, whether or not the agent reads them."""
        first = len(self.tags) + 1
        tags = range(first, first + count)
        self.tags += tags
        self.line.present_steadily(tags, per_second)

    def take(self, count: int) -> None:
        """Present new tags; on return each is stored, or known to be waiting."""
        self.present(count, per_second=1000)
        wanted = len(self.tags) - self._kept_before
        wait_until(lambda: self.kept() + self.reader()["unkept"] >= wanted, what=f"{wanted} swipes")

    def rest(self) -> None:
        """A whole second without a swipe: more than 20 in each of ten seconds in a row are a flood."""
        time.sleep(2.1)

    def swipe(self, count: int) -> None:
        """Present new tags; on return each is stored."""
        self.present(count)
        wanted = len(self.tags) - self._kept_before
        # A busy machine is slow; it hangs when not one more is kept.
        while (kept := self.kept()) < wanted:
            wait_until(partial(self._has_kept_other_than, kept), what=f"more than {kept} of {wanted} swipes")

    def _has_kept_other_than(self, count: int) -> bool:
        return self.kept() != count

    def kept(self) -> int:
        """How many swipes the running agent has stored."""
        return sum(reader["swipes"] for reader in self.agent.status().get("readers", []))

    def kill(self) -> None:
        """End the agent with SIGKILL. All swipes so far must have been stored."""
        self.agent.kill()
        self.kept_so_far()

    def stop(self) -> None:
        """End the agent with SIGTERM, as an upgrade does. All swipes so far must have been stored."""
        code, _ = self.agent.end()
        assert code == 0
        self.kept_so_far()

    def kept_so_far(self) -> None:
        """Note that the agent ended with every swipe stored: its counter begins again."""
        self._kept_before = len(self.tags)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.agent.start()

    @property
    def is_open(self) -> bool:
        """Whether the running agent has its reader open."""
        readers = self.agent.status().get("readers", [])
        return bool(readers) and readers[0]["state"] == "open"

    def status(self) -> dict[str, Any]:
        """The output of `badge-agent status --json`."""
        status: dict[str, Any] = json.loads(self.command("status", "--json").stdout)
        return status

    def reader(self) -> dict[str, Any]:
        """The reader's part of the status."""
        reader: dict[str, Any] = self.agent.status()["readers"][0]
        return reader

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`badge-agent WORDS --config ...`, as an operator runs it."""
        return subprocess.run(
            [sys.executable, "-m", "agent", *words, "--config", str(self.agent.config)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    # --- what arrived -----------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """The rows in the table, in the order of their commit; `replay` is in each of them."""
        return [{"replay": False} | row for row in sent_rows(self.pipe)]

    def wait_until_delivered(self, *, without: Iterable[int] = (), timeout_s: float = _DELIVERED_S) -> None:
        """Wait until every tag is in the table, except those that cannot be."""
        wanted = set(raws(self.tags)) - set(raws(list(without)))
        deadline = time.monotonic() + timeout_s
        while missing := wanted - {row["card_raw"] for row in self.rows()}:
            assert time.monotonic() < deadline, f"{len(missing)} swipes are missing\n{self.agent.log}"
            time.sleep(0.05)

    def assert_delivered(self, *, without: Iterable[int] = ()) -> None:
        """Assert: every tag is in the table once, in order, with a complete chain of numbers."""
        without = list(without)
        self.wait_until_delivered(without=without)
        wait_until(lambda: self.agent.outbox().pending == 0, what="no pending swipes")
        assert_exactly_once(self.rows(), [tag for tag in self.tags if tag not in without])
        assert_histories_are_whole(self.rows(), holes=len(without))


def assert_exactly_once(rows: list[dict[str, Any]], tags: Sequence[int]) -> None:
    """These tags and no others, in order, each as one event."""
    assert [row["card_raw"] for row in rows] == raws(tags)
    assert len({row["event_id"] for row in rows}) == len(rows)


def assert_histories_are_whole(rows: list[dict[str, Any]], *, holes: int = 0) -> None:
    """Within each outbox id: every seq from 1 on, each tied to the one before; or with so many holes.

    The first row of an outbox id is tied to the row before it by its chain_before.
    """
    histories: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if not row["replay"]:
            histories[row["outbox_id"]].append(row)
    missing = 0
    for history in histories.values():
        seqs = [row["seq"] for row in history]
        assert seqs == sorted(set(seqs))
        missing += seqs[-1] - len(seqs)
        previous_seq, previous = 0, history[0].get("chain_before", "")
        for row in history:
            assert row["seq"] != previous_seq + 1 or row["chain"] == recomputed_chain(previous, row)
            previous_seq, previous = row["seq"], row["chain"]
    assert missing <= holes


def once_per_event(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without those whose event_id occurred before."""
    seen: dict[str, dict[str, Any]] = {}
    for row in rows:
        seen.setdefault(row["event_id"], row)
    return list(seen.values())


def appends(pipe: EmulatorProcess) -> list[dict[str, Any]]:
    """The appends of swipes that the pipe saw, oldest first."""
    return [seen for seen in pipe.state()["seen"] if is_append_of_swipes(seen)]


def held(stage: ChaosRig) -> list[dict[str, Any]]:
    """The holds that wait for an operator."""
    found: list[dict[str, Any]] = json.loads(stage.command("outbox", "list", "--json").stdout)
    return found


def wait_for(stage: ChaosRig, holds: Callable[[dict[str, Any]], bool], what: str) -> None:
    """Wait until the running agent reports this state of its uploader."""
    wait_until(lambda: holds(stage.agent.status().get("uploader") or {}), what=what)
