"""The chain of a row, recomputed from a row as sent: the documented formula, without the agent's code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

_PERSON = ("person_salt", "badge_id", "user_id", "card_bits", "card_raw")
_CHAIN = ("event_id", "agent_id", "reader_id", "zone_id", "direction", "recorded_at", "boot_id", "boot_ms")


def chain_of(sent: Mapping[str, Any], previous_chain: str) -> str:
    """The chain that a row has after a row with this chain."""
    values = {"recorded_at": sent["event_timestamp"], **sent}
    person = _digest(values.get(name, "") for name in _PERSON)
    return _digest([previous_chain, *(values.get(name, "") for name in _CHAIN), person])


def _digest(parts: Iterable[object]) -> str:
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:32]
