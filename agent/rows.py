"""Swipe to row: the only place that knows the table's column names (design: one JSON object a swipe)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from agent import __version__
from agent.swipe import Instant, Swipe

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHAIN_DIGITS = 16

# The row ends with this member, so that a replay is a change of the last bytes, not a new encoding.
_LIVE_END = b'"replay":false}'
_REPLAY_END = b'"replay":true}'


@dataclass(frozen=True, slots=True)
class Place:
    """Where a swipe stands for ever: which outbox, its number in it, and the links that prove it."""

    outbox_id: str
    seq: int
    event_id: str
    previous_chain: str


def iso(wall_us: int) -> str:
    """UTC, ISO 8601, microseconds, `Z`."""
    moment = _EPOCH + timedelta(microseconds=wall_us)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def first_link(outbox_id: str) -> str:
    """What stands for the previous chain before seq 1."""
    return outbox_id


def render(swipe: Swipe, place: Place, *, agent_id: str) -> tuple[str, bytes]:
    """The swipe's chain and its row, one line of NDJSON without the line end.

    Optional members are absent, never null, so that the pipe's `$1:name` yields NULL either way
    and a row stays short.
    """
    card, read_at = swipe.card, swipe.read_at
    recorded_at = iso(read_at.wall_us)
    members: dict[str, Any] = {
        "badge_id": swipe.badge_id,
        "user_id": swipe.user_id,
        "zone_id": swipe.zone_id,
        "reader_id": swipe.reader_id,
        "event_timestamp": recorded_at,
        "direction": swipe.direction,
        "signal_strength": card.signal_strength,
        "event_id": place.event_id,
        "agent_id": agent_id,
        "card_bits": card.bits,
        "card_raw": card.raw,
        "card_format": card.format,
        "facility_code": card.facility_code,
        "card_number": card.card_number,
        "card_check": card.check.value,
        "clock": "synced" if read_at.trusted else "estimated",
        "recorded_at": recorded_at,
        "boot_id": read_at.boot_id,
        "boot_ms": read_at.boot_ms,
        "agent_version": __version__,
    }
    return seal({name: value for name, value in members.items() if value is not None}, place)


def sample(
    names: dict[str, str], signal_strength: float, *, event_id: str, agent_id: str, wall_us: int
) -> bytes:
    """A row that no reader saw: badge_id, user_id, zone_id and reader_id as given, no card, no outbox.

    Without an outbox it has no seq and no chain, so the checks on doors pass it over.
    """
    members = {
        **names,
        "event_timestamp": iso(wall_us),
        "direction": "ENTRY",
        "signal_strength": signal_strength,
        "event_id": event_id,
        "agent_id": agent_id,
        "agent_version": __version__,
    }
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


def seal(members: dict[str, Any], place: Place) -> tuple[str, bytes]:
    """Give a row's members their place: outbox, seq and chain. Returns the chain and the row."""
    chain = link(place.previous_chain, place.event_id, members)
    placed = members | {"outbox_id": place.outbox_id, "seq": place.seq, "chain": chain}
    placed.pop("replay", None)
    placed["replay"] = False
    return chain, json.dumps(placed, ensure_ascii=False, separators=(",", ":")).encode()


def link(previous_chain: str, event_id: str, members: dict[str, Any]) -> str:
    """The chain of a row: 16 hex digits that tie it to the row before it; SQL can recompute it."""
    parts = (
        previous_chain,
        event_id,
        members["reader_id"],
        members["card_bits"],
        members["card_raw"],
        members["recorded_at"],
        members["boot_id"],
        members["boot_ms"],
    )
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:_CHAIN_DIGITS]


def waited(row: bytes, now: Instant) -> float:
    """Seconds since a row's swipe was read: by the boot-time clock within one boot, else by the wall."""
    members = json.loads(row)
    if members["boot_id"] == now.boot_id:
        return float(now.boot_ms - members["boot_ms"]) / 1000
    read_at = datetime.fromisoformat(members["event_timestamp"])
    return max(0.0, now.wall_us / 1e6 - read_at.timestamp())


def as_replay(row: bytes) -> bytes:
    """The same row, marked as sent again."""
    return row.removesuffix(_LIVE_END) + _REPLAY_END
