"""Swipe to row: the only place that knows the table's column names (design: one JSON object a swipe)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from agent import __version__
from agent.clock.reading import ClockReading
from agent.swipe import Swipe

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHAIN_DIGITS = 16

# The row ends with this member, so that a replay is a change of the last bytes, not a new encoding.
_LIVE_END = b'"replay":false}'
_REPLAY_END = b'"replay":true}'
# Members whose values have one length in every row. A quote inside a text is escaped in JSON, so no
# card holder's name can be taken for one of them.
_TIME, _TIME_LENGTH = b'"event_timestamp":"', len("2026-01-31T12:00:00.000000Z")
_SYNCED, _CORRECTED, _ESTIMATED = b'"clock":"synced"', b'"clock":"corrected"', b'"clock":"estimated"'
# What a datetime can hold: a clock that is wrong may be wrong by anything.
_FIRST_US = -62_135_596_800_000_000
_LAST_US = 253_402_300_799_999_999
# A correction says how sure it is where it may be further off than that.
_TOLD_FROM_MS = 1_000


@dataclass(frozen=True, slots=True)
class RowPosition:
    """Where a swipe stands for ever: which outbox, its number in it, and the links that prove it."""

    outbox_id: str
    seq: int
    event_id: str
    previous_chain: str


def iso(wall_us: int) -> str:
    """UTC, ISO 8601, microseconds, `Z`."""
    moment = _EPOCH + timedelta(microseconds=min(max(wall_us, _FIRST_US), _LAST_US))
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def first_link(outbox_id: str) -> str:
    """What stands for the previous chain before seq 1."""
    return outbox_id


def render(swipe: Swipe, place: RowPosition, *, agent_id: str) -> tuple[str, bytes]:
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
    return with_position({name: value for name, value in members.items() if value is not None}, place)


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


def with_position(members: dict[str, Any], place: RowPosition) -> tuple[str, bytes]:
    """Give a row's members their place: outbox, seq and chain. Returns the chain and the row."""
    chain = chain_hash(place.previous_chain, place.event_id, members)
    placed = members | {"outbox_id": place.outbox_id, "seq": place.seq, "chain": chain}
    placed.pop("replay", None)
    placed["replay"] = False
    return chain, json.dumps(placed, ensure_ascii=False, separators=(",", ":")).encode()


def chain_hash(previous_chain: str, event_id: str, members: dict[str, Any]) -> str:
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


@dataclass(frozen=True, slots=True)
class RecordedTime:
    """When a row's swipe was read, by the row's own account."""

    boot_id: str
    boot_us: int
    wall_us: int
    synced: bool


def recorded_time(row: bytes) -> RecordedTime:
    """The moment of a row that nothing else is known of. Raises ValueError, KeyError or TypeError."""
    members = json.loads(row)
    return RecordedTime(
        boot_id=members["boot_id"],
        boot_us=members["boot_ms"] * 1_000,
        wall_us=_microseconds(members["recorded_at"]),
        synced=members["clock"] == "synced",
    )


def with_timestamp(row: bytes, wall_us: int, *, sure: bool, uncertainty_ms: int | None) -> bytes:
    """The row with the time at which it really happened, as far as that is known.

    `sure`: corrected by a clock that was right; else it is estimated. The row stays as it was
    built in all that the chain is made over.
    """
    begin = row.index(_TIME) + len(_TIME)
    row = row[:begin] + iso(wall_us).encode() + row[begin + _TIME_LENGTH :]
    clock = _CORRECTED if sure else _ESTIMATED
    if uncertainty_ms is not None and not (sure and uncertainty_ms <= _TOLD_FROM_MS):
        clock += b',"time_uncertainty_ms":%d' % uncertainty_ms
    return row.replace(_ESTIMATED, clock, 1).replace(_SYNCED, clock, 1)


def _microseconds(text: str) -> int:
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)


def age_s(row: bytes, now: ClockReading) -> float | None:
    """Seconds since a row's swipe was read: by the boot-time clock within one boot, else by wall clocks.

    None if one of those was not to be trusted.
    """
    read = recorded_time(row)
    if read.boot_id == now.boot_id:
        return (now.boot_us - read.boot_us) / 1e6
    return max(0.0, (now.wall_us - read.wall_us) / 1e6) if read.synced and now.trusted else None


def as_replay(row: bytes) -> bytes:
    """The same row, marked as sent again."""
    return row.removesuffix(_LIVE_END) + _REPLAY_END


# A row as rows.seal() writes it. Rows that fit into a page lie in one piece in the file, so they
# can be found even where the B-tree around them is gone.
_ROW_BEGIN, _ROW_END = b'{"badge_id":', b'"replay":false}'


_LONGEST_ROW_BYTES = 4_000


# What a row must have to be given a new place.
_MEMBERS = {
    "event_id": str,
    "outbox_id": str,
    "seq": int,
    "chain": str,
    "reader_id": str,
    "card_bits": int,
    "card_raw": str,
    "recorded_at": str,
    "boot_id": str,
    "boot_ms": int,
}


def members_of(row: object) -> dict[str, Any] | None:
    """The row's members if it is one of ours and whole, else None."""
    try:
        members = json.loads(row) if isinstance(row, bytes) else None
    except ValueError:
        return None
    if not isinstance(members, dict):
        return None
    return members if all(isinstance(members.get(name), kind) for name, kind in _MEMBERS.items()) else None
