"""A disk or a lock that takes no writes for a while: nothing is stored meanwhile, everything afterwards."""

from __future__ import annotations

import errno
import json

import pytest

from tests.support.failing_disk import FailingDisk

_CARDS = "print(json.dumps([int(row['card_raw'], 16) for row in stored(state_dir)]))"
_KEEP = """
from agent.errors import OutboxUnavailableError
def try_to_keep(outbox, *values):
    try:
        outbox.keep(*map(swipe, values))
    except OutboxUnavailableError as error:
        return type(error).__name__
    return "kept"
"""


@pytest.mark.parametrize(
    ("kind", "code", "name"),
    [
        ("f", errno.EIO, "OutboxFailingError"),
        ("w", errno.EIO, "OutboxFailingError"),
        ("w", errno.EROFS, "OutboxFailingError"),  # as SQLite reports it for an open file
        ("w", errno.ENOSPC, "OutboxFullError"),
    ],
)
def test_what_was_refused_is_stored_once_afterwards(
    disk: FailingDisk, kind: str, code: int, name: str
) -> None:
    said, cards = disk.run(
        f"""{_KEEP}
with closing(opened(state_dir)) as outbox:
    keep(outbox, 5)
    disk.fail({kind!r}, "*", code={code})
    said = [try_to_keep(outbox, 6), try_to_keep(outbox, 6, 7)]
    disk.recover()
    said += [try_to_keep(outbox, 6, 7), try_to_keep(outbox, 8)]
    assert seqs(rows_after(outbox)) == [1, 2, 3, 4, 5, 6, 7, 8]
print(json.dumps(said))
{_CARDS}"""
    ).splitlines()

    assert json.loads(said)[0] == name
    assert json.loads(said)[1] != "kept"
    assert json.loads(said)[2:] == ["kept", "kept"]
    assert json.loads(cards) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_commit_that_failed_in_its_flush_is_not_stored_twice(disk: FailingDisk) -> None:
    """The log keeps the transaction, and the last connection cannot move it into the file."""
    said = disk.run(
        f"""{_KEEP}
import errno
outbox = opened(state_dir)
keep(outbox, 5)
disk.fail("f", "*")
first = try_to_keep(outbox, 6)
try_to_keep(outbox, 6)  # closes the file, whose log cannot be moved into it
disk.recover()
second = try_to_keep(outbox, 6)
outbox.close()
print(json.dumps([first, second]))
{_CARDS}"""
    ).splitlines()

    assert json.loads(said[0]) == ["OutboxFailingError", "kept"]
    assert json.loads(said[1]) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("kind", ["f", "w"])
def test_a_commit_that_failed_in_its_flush_is_not_stored_twice_if_its_deletion_fails_too(
    disk: FailingDisk, kind: str
) -> None:
    said = disk.run(
        f"""{_KEEP}
outbox = opened(state_dir)
keep(outbox, 5)
reconcile = outbox.file._reopened
def failing():
    disk.fail({kind!r}, "*")
    reconcile()
disk.fail("f", "*")
said = [try_to_keep(outbox, 6), try_to_keep(outbox, 6)]
outbox.file._reopened = failing
disk.recover()
said.append(try_to_keep(outbox, 6))
outbox.file._reopened = reconcile
disk.recover()
said.append(try_to_keep(outbox, 6))
outbox.close()
print(json.dumps(said), len(list(state_dir.glob("*corrupt*"))))
{_CARDS}"""
    ).splitlines()

    assert said[0] == '["OutboxFailingError", "OutboxFailingError", "OutboxFailingError", "kept"] 0'
    assert json.loads(said[1]) == [1, 2, 3, 4, 5, 6]


def test_a_failed_flush_is_followed_by_another_that_covers_its_pages(disk: FailingDisk) -> None:
    """The file is opened again, which moves all of the log into it: no page relies on the failed flush."""
    sizes = disk.run(
        f"""{_KEEP}
with closing(opened(state_dir)) as outbox:
    keep(outbox, 5)
    before = outbox.file._writer
    disk.fail("f", "outbox.db-wal")
    try_to_keep(outbox, 6)
    disk.recover()
    assert try_to_keep(outbox, 6) == "kept"
    print(outbox.file._writer is before)
"""
    )

    assert sizes.strip() == "False"


def test_a_change_after_a_failed_flush_is_based_on_what_is_in_the_file(disk: FailingDisk) -> None:
    """A change that failed in its flush, and is in the file, is not undone by the next one."""
    said = disk.run(
        """
from agent.errors import OutboxUnavailableError
from agent.outbox.state import OutboxState
outbox = opened(state_dir)
keep(outbox, 5)
disk.fail("f", "*")
for _ in range(2):  # the second one closes the file, whose log cannot be moved into it
    try:
        outbox.record_replay_channel("door-replay")
    except OutboxUnavailableError:
        pass
disk.recover()
outbox.mark_suspect(2)
with outbox.file.reading() as connection:
    stored = OutboxState.read(connection)
print(stored.record == outbox.state.record, stored.record.suspect_n, stored.record.replay_channel)
outbox.close()
"""
    )

    assert said.split() == ["True", "2", "door-replay"]
