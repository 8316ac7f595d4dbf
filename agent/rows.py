"""The row format: one JSON object per swipe; the only module that spells the members of a row."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from agent import __version__
from agent.clock.reading import ClockReading
from agent.swipe import Swipe

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHAIN_DIGITS = 16

# The row ends with this member, so that marking a replay replaces the last bytes and encodes nothing again.
_LIVE_END = b'"replay":false}'
_REPLAY_END = b'"replay":true}'
# Members whose values have the same length in every row. JSON escapes a quote inside a text, so a
# cardholder's name cannot contain these bytes.
_TIME, _TIME_LENGTH = b'"event_timestamp":"', len("2026-01-31T12:00:00.000000Z")
_CLOCK = re.compile(rb'"clock":"[a-z]+"(?:,"time_uncertainty_ms":(?P<ms>[0-9]+))?')
# The range of datetime: a wrong clock may show any time.
_FIRST_US = -62_135_596_800_000_000
_LAST_US = 253_402_300_799_999_999
# A corrected time carries its uncertainty only above this value.
_UNCERTAINTY_SENT_ABOVE_MS = 1_000


@dataclass(frozen=True, slots=True)
class RowPosition:
    """The position of a swipe: outbox id, seq, event id, and the chain of the swipe before it."""

    outbox_id: str
    seq: int
    event_id: str
    previous_chain: str


def iso(wall_us: int) -> str:
    """Microseconds since 1970 as UTC in ISO 8601, with microseconds and `Z`."""
    moment = _EPOCH + timedelta(microseconds=min(max(wall_us, _FIRST_US), _LAST_US))
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def first_link(outbox_id: str) -> str:
    """The value used as previous chain for seq 1."""
    return outbox_id


def render(swipe: Swipe, position: RowPosition, *, agent_id: str) -> tuple[str, bytes]:
    """The swipe's chain and its row: one line of NDJSON without the line end.

    Optional members are absent, never null: the pipe's `$1:name` yields NULL either way, and the
    row is shorter.
    """
    card, read_at = swipe.card, swipe.read_at
    # Half the interval in which its last byte arrived; the middle is the time of the event.
    uncertainty_ms = math.ceil(swipe.age_us / 2_000)
    recorded_at = iso(read_at.wall_us)
    members: dict[str, Any] = {
        "badge_id": swipe.badge_id,
        "user_id": swipe.user_id,
        "zone_id": swipe.zone_id,
        "reader_id": swipe.reader_id,
        "event_timestamp": iso(read_at.wall_us - uncertainty_ms * 1_000),
        "direction": swipe.direction,
        "signal_strength": card.signal_strength,
        "event_id": position.event_id,
        "agent_id": agent_id,
        "card_bits": card.bits,
        "card_raw": card.raw,
        "card_format": card.format,
        "facility_code": card.facility_code,
        "card_number": card.card_number,
        "card_check": card.check.value,
        "clock": "synced" if read_at.trusted and not uncertainty_ms else "estimated",
        "time_uncertainty_ms": uncertainty_ms or None,
        "recorded_at": recorded_at,
        "boot_id": read_at.boot_id,
        "boot_ms": read_at.boot_ms,
        "agent_version": __version__,
    }
    return with_position({name: value for name, value in members.items() if value is not None}, position)


def sample(
    names: dict[str, str], signal_strength: float, *, event_id: str, agent_id: str, wall_us: int
) -> bytes:
    """A sample row without a swipe: badge_id, user_id, zone_id and reader_id as given, no card, no outbox.

    It has no seq and no chain, so the views that check sequences ignore it.
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


def with_position(members: dict[str, Any], position: RowPosition) -> tuple[str, bytes]:
    """Add outbox id, seq and chain to the members of a row. Returns the chain and the row."""
    chain = chain_hash(position.previous_chain, position.event_id, members)
    placed = members | {"outbox_id": position.outbox_id, "seq": position.seq, "chain": chain}
    placed.pop("replay", None)
    placed["replay"] = False
    return chain, json.dumps(placed, ensure_ascii=False, separators=(",", ":")).encode()


def chain_hash(previous_chain: str, event_id: str, members: dict[str, Any]) -> str:
    """The chain of a row: 16 hex digits, a hash over it and the chain before it; SQL can recompute it."""
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
    """When a swipe was read, as recorded in its row."""

    boot_id: str
    boot_us: int
    wall_us: int
    synced: bool


def recorded_time(row: bytes) -> RecordedTime:
    """The recorded time of a row. Raises ValueError, KeyError or TypeError for damaged bytes."""
    members = json.loads(row)
    return RecordedTime(
        boot_id=members["boot_id"],
        boot_us=members["boot_ms"] * 1_000,
        wall_us=_microseconds(members["recorded_at"]),
        synced=members["clock"] == "synced",
    )


def with_timestamp(row: bytes, wall_us: int, *, sure: bool, uncertainty_ms: int | None) -> bytes:
    """The row with a corrected `event_timestamp`; `wall_us` is the corrected time of its read.

    `sure`: corrected by a synchronised clock, otherwise estimated. `uncertainty_ms` is that of the clock.
    A row whose bytes waited to be read has its own: it is added, and the time stays estimated. The
    members that the chain covers do not change. A row whose bytes were damaged on the disk is returned
    unchanged: the pipe refuses it by itself, and it is set aside.
    """
    at, clock = row.find(_TIME), _CLOCK.search(row)
    if at < 0 or clock is None:
        return row
    own_ms = int(clock["ms"] or 0)
    sure = sure and own_ms == 0
    time = b'"clock":"corrected"' if sure else b'"clock":"estimated"'
    if uncertainty_ms is not None and not (sure and uncertainty_ms <= _UNCERTAINTY_SENT_ABOVE_MS):
        time += b',"time_uncertainty_ms":%d' % (uncertainty_ms + own_ms)
    row = row[: clock.start()] + time + row[clock.end() :]
    # Of the same length, and before the clock: the position found above is still that of the time.
    begin = at + len(_TIME)
    return row[:begin] + iso(wall_us - own_ms * 1_000).encode() + row[begin + _TIME_LENGTH :]


def _microseconds(text: str) -> int:
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)


def age_s(row: bytes, now: ClockReading) -> float | None:
    """Seconds since a row's swipe was read: by the boot-time clock within one boot, else by wall clocks.

    None if one of the wall clocks was not trusted.
    """
    read = recorded_time(row)
    if read.boot_id == now.boot_id:
        return (now.boot_us - read.boot_us) / 1e6
    return max(0.0, (now.wall_us - read.wall_us) / 1e6) if read.synced and now.trusted else None


def as_replay(row: bytes) -> bytes:
    """The same row, marked as a replay."""
    return row.removesuffix(_LIVE_END) + _REPLAY_END


# --- reading stored rows --------------------------------------------------------------------

# Rows that fit into a page lie in one piece in the file, so their bytes can be found even where the
# B-tree around them is gone.
_ROW_BEGIN = b'{"badge_id":'
_LONGEST_ROW_BYTES = 4_000

# The members that a row must have to be given a new position, and their types.
_REQUIRED_MEMBERS = {
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


class ParsedRow:
    """A stored row that has every required member."""

    def __init__(self, members: dict[str, Any]) -> None:
        self._members = members
        self.outbox_id: str = members["outbox_id"]
        self.seq: int = members["seq"]
        self.event_id: str = members["event_id"]
        self.chain: str = members["chain"]

    def moved(self, outbox_id: str, seq: int, previous_chain: str) -> tuple[str, bytes]:
        """The same event at another position: its new chain and row."""
        return with_position(self._members, RowPosition(outbox_id, seq, self.event_id, previous_chain))


def parse(row: object) -> ParsedRow | None:
    """None for anything that is not a complete row."""
    try:
        members = json.loads(row) if isinstance(row, bytes) else None
    except ValueError:
        return None
    if not isinstance(members, dict):
        return None
    if all(isinstance(members.get(name), kind) for name, kind in _REQUIRED_MEMBERS.items()):
        return ParsedRow(members)
    return None


def card_of(row: object) -> tuple[str, int, str] | None:
    """Reader id, bits and hex digits of the card; None for a damaged or an erased row."""
    try:
        members = json.loads(row) if isinstance(row, bytes) else None
    except ValueError:
        return None
    if not isinstance(members, dict):
        return None
    match [members.get(name) for name in ("reader_id", "card_bits", "card_raw")]:
        case [str(reader_id), int(bits), str(raw)]:
            return reader_id, bits, raw
    return None


def scan(pieces: Iterable[bytes]) -> Iterator[tuple[ParsedRow, bytes]]:
    """Every complete row in the bytes of a file, wherever it lies; `pieces` follow each other in the file.

    Memory is bounded by the size of one piece and one row.
    """
    carried = b""
    for piece in pieces:
        content = carried + piece
        # A row that begins after this place may end in the next piece.
        complete = max(0, len(content) - _LONGEST_ROW_BYTES)
        yield from _rows_beginning_before(complete, content)
        carried = content[complete:]
    yield from _rows_beginning_before(len(carried), carried)


def _rows_beginning_before(limit: int, content: bytes) -> Iterator[tuple[ParsedRow, bytes]]:
    begin = content.find(_ROW_BEGIN)
    while 0 <= begin < limit:
        following = content.find(_ROW_BEGIN, begin + 1)
        longest = begin + _LONGEST_ROW_BYTES
        end = content.find(_LIVE_END, begin, min(longest, following) if following >= 0 else longest)
        row = content[begin : end + len(_LIVE_END)] if end >= 0 else None
        parsed = parse(row)
        if row is not None and parsed is not None:
            yield parsed, row
        begin = following
