"""A disk that is too full to store what Snowflake has committed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest

from agent.errors import OutboxFullError
from agent.outbox import Outbox
from tests.support.uploader_rig import UploaderRig


class NoRoom:
    """A transaction that cannot begin: there is no room for the index of the WAL."""

    def __init__(self, *, durable: bool = True) -> None:
        self.durable = durable

    def __enter__(self) -> NoReturn:
        raise OutboxFullError("outbox.db: database or disk is full")

    def __exit__(self, *_: object) -> None:
        """Nothing has begun."""


@contextmanager
def full(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(outbox.file, "writing", NoRoom)
        yield


def test_rows_that_snowflake_has_are_noted_once_the_disk_has_room_after_a_start_without(
    door: UploaderRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.keep(5)
    while not door.pipe.of("append"):
        door.run(0.1)
    with full(door.outbox, monkeypatch):
        door.run(120)
        assert len(door.pipe.landed) == door.outbox.pending == 5
    door.crash()
    with full(door.outbox, monkeypatch):
        door.run(120)
        assert door.outbox.pending == 5
        assert "full" in str(door.uploader.status().reason)

    door.run(120)

    assert door.outbox.pending == 0
    assert len(door.pipe.landed) == 5
    assert door.uploader.status().state == "idle"
