"""Random bits of an outbox flipped: it starts, counts each lost row, and sends none that is damaged."""

from __future__ import annotations

import os

from tests.support.flipped_files import run
from tests.support.rounds import SEED

# `make chaos` (CHAOS_ROUNDS=20 or more) opens 10,000.
_COUNT = 10_000 if int(os.environ.get("CHAOS_ROUNDS", "1")) > 1 else 200


def test_every_flipped_file_starts_takes_swipes_and_sends_only_sound_rows() -> None:
    totals, problems = run(_COUNT, SEED)

    print(f"CHAOS_SEED={SEED}", dict(totals))  # noqa: T201 - the table of `make chaos`
    assert not problems
    assert totals["started"] == _COUNT
    assert totals["rebuilt"] > 0
