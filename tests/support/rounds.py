"""Length and random seed of the chaos tests: CHAOS_ROUNDS and CHAOS_SEED."""

from __future__ import annotations

import os
import secrets
from random import Random

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "1"))
SEED = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))


def chances(what: str, number: int = 0) -> Random:
    """A seeded generator for one part of the run; the seed is printed, so that it can be repeated."""
    print(f"{what} {number}: CHAOS_SEED={SEED}")  # noqa: T201 - pytest shows it where a test fails
    return Random(f"{SEED} {what} {number}")  # noqa: S311 - chances, not secrets
