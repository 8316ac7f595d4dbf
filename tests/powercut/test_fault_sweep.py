"""A fault at every operation of a whole life of an outbox: no kept swipe is lost, doubled or reordered.

The usual run takes a sample by seed; `make chaos` takes every operation.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.rounds import ROUNDS, chances

# Kinds of operations of failing_disk.c, and how they fail.
KINDS = {
    "a read fails": ("r", errno.EIO),
    "a write fails": ("w", errno.EIO),
    "a flush fails": ("f", errno.EIO),
    "the disk is full": ("wom", errno.ENOSPC),
    "the disk is read-only": ("wom", errno.EROFS),
    "a change of a name or a size fails": ("om", errno.EIO),
    "another process holds the lock": ("l", errno.EAGAIN),
}
_SAMPLE = 2


class Lives:
    """A process that lives one life for each case, in a child of its own."""

    def __init__(self, library: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fault_life"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=os.environ | {"LD_PRELOAD": str(library)},
        )

    def live(self, kinds: str, code: int, number: int, *, is_lasting: bool) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([kinds, code, number, is_lasting]) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    @functools.cache  # noqa: B019 - as long as the process
    def operations(self, kinds: str) -> range:
        """The numbers of the operations in a life without a fault."""
        healthy = self.live(kinds, errno.EIO, 0, is_lasting=False)
        assert healthy["problems"] == []
        return range(1, healthy["counted"] + 1)

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def lives(faults: Path) -> Iterator[Lives]:
    lives = Lives(faults)
    yield lives
    lives.close()


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("is_lasting", [False, True], ids=["once", "for a while"])
@pytest.mark.parametrize("fault", KINDS)
def test_whichever_operation_fails_every_swipe_is_stored_once_and_in_order(
    lives: Lives,
    fault: str,
    is_lasting: bool,  # noqa: FBT001 - pytest calls by name
) -> None:
    kinds, code = KINDS[fault]
    numbers = lives.operations(kinds)
    chosen = numbers if ROUNDS > 1 else sorted(chances(fault).sample(numbers, min(_SAMPLE, len(numbers))))

    found = {number: lives.live(kinds, code, number, is_lasting=is_lasting)["problems"] for number in chosen}

    print(f"{fault}: {len(found)} of {len(numbers)} operations")  # noqa: T201 - the table of `make chaos`
    assert {number: problems for number, problems in found.items() if problems} == {}
