"""One run of the outbox under the recorder: a separate process that executes random steps."""

from __future__ import annotations

import ctypes
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from agent.outbox import ErrorCount, LiveRows, Outbox
from agent.outbox.external import replay_queue
from tests.support.outbox_rig import recover
from tests.support.swipes import NOON_US, instant, swipe

AGENT_ID = "door"


def main(state_dir: Path, steps: int, seed: int, first_value: int, settings: str) -> None:
    """Execute `steps` random steps, numbering swipes from `first_value` on; marks record what is promised."""
    options = set(settings.split(","))
    if "shared-sectors" in options:
        _let_commits_share_sectors()
    outbox = Outbox(state_dir, agent_id=AGENT_ID)
    if "unflushed" in options:
        outbox.file._writer.execute("PRAGMA synchronous=NORMAL")
    _mark(opened=True)
    if "recover" in options:
        outbox.keep(swipe(first_value))  # beside the rows of the damaged file
        first_value += 1
        recover(outbox)
    random = Random(seed)  # noqa: S311 - chances, not secrets
    life = _Life(outbox, state_dir, random, first_value)
    for _ in range(steps):
        life.step(only_keep="only-keep" in options)


def _let_commits_share_sectors() -> None:
    """SQLite's default, which trusts that a power cut leaves the bytes next to a write unchanged."""
    real: Callable[..., sqlite3.Connection] = sqlite3.connect

    def connect(database: Any, **options: Any) -> sqlite3.Connection:  # noqa: ANN401 - as it is given
        return real(str(database).replace("psow=0", "psow=1"), **options)

    sqlite3.connect = connect  # type: ignore[assignment] # for this process's life


def _mark(**said: object) -> None:
    """Write a mark into the recording, in order with the writes."""
    ctypes.CDLL(None).powercut_mark(json.dumps(said).encode())


class _Life:
    def __init__(self, outbox: Outbox, state_dir: Path, random: Random, first_value: int) -> None:
        self._outbox = outbox
        self._rows = LiveRows(outbox)
        self._state_dir = state_dir
        self._random = random
        self._next = first_value

    def step(self, *, only_keep: bool) -> None:
        """Mostly swipes; sometimes any other operation of an outbox."""
        chance = self._random.random()
        if only_keep or chance < 0.8:
            self._keep()
            return
        self._random.choice(
            (self._commit, self._commit, self._purge, self._set_aside, self._replay, self._look)
        )()
        if chance > 0.99:
            self._renew()

    def _keep(self) -> None:
        count = self._random.choice((1, 1, 1, 4))
        values = range(self._next, self._next + count)
        read_at = instant(trusted=self._random.random() < 0.8)
        self._outbox.keep(*(swipe(value, read_at=read_at) for value in values))
        self._next += count
        _mark(kept=list(values))

    def _commit(self) -> None:
        me = self._outbox.state
        if me.last_n > me.committed_n:
            n = self._random.randint(me.committed_n + 1, me.last_n)
            _mark(committing=self._value(n))
            self._rows.commit((0, n), ErrorCount(1, 0), None)

    def _value(self, n: int) -> int:
        with self._outbox.file.reading() as connection:
            found = connection.execute("SELECT row FROM swipes WHERE n = ?", (n,)).fetchone()
        return int(json.loads(found[0])["card_raw"], 16)

    def _purge(self) -> None:
        _mark(purging=True)
        self._outbox.purge(kept_since_us=None, max_bytes=0)

    def _set_aside(self) -> None:
        me = self._outbox.state
        if me.last_n > me.committed_n:
            n = self._random.randint(me.committed_n + 1, me.last_n)
            self._outbox.set_aside(n, "refused")
            _mark(set_aside=self._value(n))

    def _replay(self) -> None:
        committed = self._outbox.state.committed_n
        with self._outbox.file.reading() as connection:
            (first,) = connection.execute("SELECT min(n) FROM swipes").fetchone()
        if first is not None and first <= committed:
            ids = replay_queue.request(self._state_dir, [replay_queue.Range(first, first, None, 1)])
            _mark(replays=ids)

    def _look(self) -> None:
        """The clock is set, or lost, and rows are about to be sent: the observation is stored."""
        boot_ms = self._random.randrange(10**9)
        self._outbox.observe_clock(
            instant(NOON_US + boot_ms * 1_000, boot_ms=boot_ms, trusted=self._random.random() < 0.5)
        )
        self._rows.after(self._rows.committed, 10, max_bytes=10_000)

    def _renew(self) -> None:
        self._outbox.record_channel(0)
        self._outbox.request_generation("a channel that holds another history")
        self._outbox.switch_channel(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
