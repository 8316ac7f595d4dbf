"""The progress of a recovery in the state record, changed in transactions of its outbox only."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

from agent.errors import OutboxReplacedError
from agent.outbox.records import StateRecord
from agent.outbox.recovery import progress
from agent.outbox.recovery.progress import Recovery
from agent.outbox.recovery.recovering_file import RecoveringFile
from agent.outbox.state import write_record


class ProgressRecord:
    """Reads and writes `recovering` for one outbox id, that of begin().

    Not thread-safe: for the thread that steps the recovery.
    """

    def __init__(self, file: RecoveringFile) -> None:
        self._file = file
        self._outbox_id = ""

    def begin(self) -> None:
        """Belong to the outbox that is open now."""
        self._outbox_id = self._file.state.outbox_id

    def is_of_open_outbox(self) -> bool:
        """False once another outbox is open than at begin()."""
        return self._outbox_id == self._file.state.outbox_id

    def latest(self, one: Recovery) -> Recovery:
        """The stored progress of the same quarantined file."""
        return next(other for other in self._file.state.recoveries if other.name == one.name)

    def first(self, *parts: str) -> Recovery | None:
        """The first recovery whose next part of the work is one of `parts`."""
        return next((one for one in self._file.state.recoveries if one.part in parts), None)

    def changed(self, one: Recovery, now: list[Recovery], **changed: Any) -> StateRecord:  # noqa: ANN401
        """The state record with other recoveries in place of one, and other changes."""
        state = self._file.state
        recoveries: list[Recovery] = []
        for other in state.recoveries:
            recoveries += now if other.name == one.name else [other]
        return state.record._replace(recovering=progress.written(recoveries), **changed)

    def write(
        self,
        one: Recovery,
        now: list[Recovery],
        *,
        durable: bool = True,
        **changed: Any,  # noqa: ANN401
    ) -> None:
        """Store changed(); if `durable`, on disk when it returns. Raises as writing()."""
        with self.writing(durable=durable) as connection:
            write_record(connection, self.changed(one, now, **changed))

    @contextlib.contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction of RecoveringFile.changing(). Raises OutboxReplacedError and OutboxError."""
        with self._file.file.write_lock:
            self.ensure_same()
            with self._file.changing(durable=durable) as connection:
                yield connection

    def ensure_same(self) -> None:
        """Raises OutboxReplacedError if another outbox is open. Call it with the write lock."""
        self._file.file.ensure_open()  # afterwards the state is that of the file
        if not self.is_of_open_outbox():
            raise OutboxReplacedError("the outbox has a new id", hint="the recovery starts again")
