"""Appends swipes to the file, in one transaction for each call.

Invariants
- Swipes are on disk before keep() returns (durable before acknowledged).
- They are numbered in the order of the call, without gaps: n = last_n + 1, and each chain includes the
  chain before it. So numbering happens inside the write lock, and never for a swipe that is not stored.
- A transaction carries all swipes of the call or none; the caller still has them after an error.
- `state.last_n` and `state.last_chain` change here only, under `file.write_lock`, and only after COMMIT.
- A swipe holds no position: after a damaged file was replaced it is stored in the new file, while every
  other call gets OutboxReplacedError, because its position is void.

What fails, and what follows
- damaged file: rebuild, then one more attempt;
- full disk: free half of the reserve, free one step of committed rows, then one more attempt;
- I/O error: raised; the file is opened again before the next attempt, and what is in it is compared;
- anything else: raised to the caller, which keeps the swipes in its queue (agent.service.write_loop).
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import uuid
from collections.abc import Sequence

from agent import rows
from agent.errors import (
    NotPermittedError,
    OutboxCorruptError,
    OutboxFullError,
    OutboxReadOnlyError,
    OutboxReplacedError,
    OutboxUnavailableError,
)
from agent.outbox import retention
from agent.outbox.file_errors import damaged_again
from agent.outbox.records import row_checksum
from agent.outbox.recovery.recovering_file import RecoveringFile
from agent.outbox.timing import boot_table
from agent.outbox.timing.timestamps import STORED, StoredRow
from agent.swipe import Swipe


class SwipeWriter:
    """Appends swipes to the file. For several threads; in the agent the writer is the only caller."""

    def __init__(self, file: RecoveringFile, agent_id: str) -> None:
        self._file = file
        self._agent_id = agent_id

    def keep(self, swipes: Sequence[Swipe]) -> None:
        """Store swipes in order; they are on disk when this returns.

        Raises OutboxUnavailableError if they cannot be stored now, else OutboxError; then none of them is.
        """
        with self._file.file.write_lock:
            try:
                self._insert_recovering(swipes)
            except NotPermittedError as error:  # of a file that had to be opened again
                raise OutboxReadOnlyError(str(error), hint=error.hint) from error

    def _insert_recovering(self, swipes: Sequence[Swipe]) -> None:
        try:
            self._insert(swipes)
        except OutboxCorruptError as error:
            self._file.rebuild(error, self._file.state.outbox_id)
            with damaged_again():
                self._insert(swipes)
        except OutboxFullError:
            self._file.reserve.free()
            with contextlib.suppress(OutboxReplacedError, OutboxUnavailableError):
                retention.purge(self._file, kept_since_us=None, max_bytes=0)
            self._insert(swipes)

    def _insert(self, swipes: Sequence[Swipe]) -> None:
        self._file.file.ensure_open()
        state, boots = self._file.state, self._file.boots
        n, chain = state.last_n, state.last_chain
        stored: list[StoredRow] = []
        for swipe in swipes:
            n += 1
            link = rows.RowLink(str(uuid.uuid4()), secrets.token_hex(8), chain)
            boot, read_at = boots.observe(swipe.read_at)
            if read_at is not swipe.read_at:
                swipe = dataclasses.replace(swipe, read_at=read_at)  # noqa: PLW2901 - the same swipe
            chain, row = rows.render(swipe, link, agent_id=self._agent_id)
            trusted_us = read_at.wall_us if read_at.trusted else None
            columns = (n, chain, trusted_us, row, boot, read_at.boot_us)
            stored.append(StoredRow(*columns, row_checksum(*columns)))
        # Clock observations join the transaction, so that they cost no flush of their own.
        saved = None
        with self._file.file.writing() as connection:
            connection.executemany(f"INSERT INTO swipes({STORED}) VALUES (?, ?, ?, ?, ?, ?, ?)", stored)
            if boots.has_news:
                saved = boots.unsaved()
                boot_table.write(connection, saved.values())
        if saved is not None:
            boots.saved(saved)
        self._file.state = dataclasses.replace(state, last_n=n, last_chain=chain)
