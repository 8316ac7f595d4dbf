"""The row format: one JSON object per swipe; the only module that spells the members of a row.

A stored row is everything but the row's position: as_sent() adds outbox id and seq, so that a new
generation rewrites nothing. Rows of schemas 1-3 of the outbox ("legacy" here) carry their position,
a chain of 16 digits, and `"replay":false` at the end; they are sent with what they carry.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from agent.clock.reading import ClockReading
from agent.errors import printable
from agent.swipe import Swipe

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGEST_DIGITS = 32
_PERSONAL = ("person_salt", "badge_id", "user_id", "card_bits", "card_raw")
_ERASED = "ERASED"
# Random, per boot: 32 bits distinguish the boots of one agent, and save 28 bytes a row.
_BOOT_ID_DIGITS = 8

# A legacy row ends with this member.
_LEGACY_END = b'"replay":false}'
# Members whose values have the same length in every row. JSON escapes a quote inside a text, so a
# cardholder's name cannot contain these bytes.
_TIME, _TIME_LENGTH = b'"event_timestamp":"', len("2026-01-31T12:00:00.000000Z")
_CLOCK = re.compile(
    rb'"clock":"[a-z]+"(?:,"time_uncertainty_ms":(?P<ms>[0-9]+))?(?P<recorded>,"recorded_at":"(?P<read>[^"]*)")?'
)
# The range of datetime: a wrong clock may show any time.
_FIRST_US = -62_135_596_800_000_000
_LAST_US = 253_402_300_799_999_999
# A corrected time carries its uncertainty only above this value.
_UNCERTAINTY_SENT_ABOVE_MS = 1_000


def iso(wall_us: int) -> str:
    """Microseconds since 1970 as UTC in ISO 8601, with microseconds and `Z`."""
    moment = _EPOCH + timedelta(microseconds=min(max(wall_us, _FIRST_US), _LAST_US))
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


# --- making rows ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RowLink:
    """What a new row gets besides its swipe: a random id and salt, and the chain of the row before it."""

    event_id: str
    person_salt: str
    previous_chain: str


def first_link(outbox_id: str) -> str:
    """The value used as previous chain for the first row of a file: its first outbox id."""
    return outbox_id


# As `chain_before` of a row whose previous chain a damaged file has lost: nothing can be claimed of it.
UNKNOWN_LINK = "unknown"


def render(swipe: Swipe, link: RowLink, *, agent_id: str) -> tuple[str, bytes]:
    """The swipe's chain and its row to be stored: one line of NDJSON without the line end.

    Optional members are absent, never null: the pipe's `$1:name` yields NULL either way, and the
    row is shorter.
    """
    card, read_at = swipe.card, swipe.read_at
    # Half the interval in which its last byte arrived; the middle is the time of the event.
    half_ms = math.ceil(swipe.age_us / 2_000)
    uncertainty_ms = half_ms + math.ceil(read_at.max_error_us / 1_000) if half_ms else 0
    recorded_at, event_timestamp = iso(read_at.wall_us), iso(read_at.wall_us - half_ms * 1_000)
    members: dict[str, Any] = {
        "badge_id": swipe.badge_id,
        "user_id": swipe.user_id,
        "zone_id": swipe.zone_id,
        "reader_id": swipe.reader_id,
        "event_timestamp": event_timestamp,
        "direction": swipe.direction,
        "signal_strength": card.signal_strength,
        "event_id": link.event_id,
        "agent_id": agent_id,
        "card_bits": card.bits,
        "card_raw": card.raw,
        "card_format": card.format,
        "facility_code": card.facility_code,
        "card_number": card.card_number,
        "card_check": card.check.value,
        "clock": "synced" if read_at.trusted and not uncertainty_ms else "estimated",
        "time_uncertainty_ms": uncertainty_ms or None,
        "recorded_at": recorded_at if recorded_at != event_timestamp else None,
        "boot_id": read_at.boot_id[:_BOOT_ID_DIGITS],
        "boot_ms": read_at.boot_ms,
        "person_salt": link.person_salt,
    }
    present = {name: value for name, value in members.items() if value is not None}
    chain = chain_hash(link.previous_chain, present)
    return chain, _encoded(present | {"chain": chain})


def chain_hash(previous_chain: str, members: Mapping[str, Any]) -> str:
    """The chain of a row: 32 hex digits, a hash over it and the chain before it; SQL can recompute it.

    `recorded_at` counts with its value also where the row leaves it out; other absent members are
    empty text.
    """
    person = members["person_digest"] if _is_erased(members) else person_digest(members)
    values = {"recorded_at": members["event_timestamp"], **members, "person": person}
    names = (
        "event_id",
        "agent_id",
        "reader_id",
        "zone_id",
        "direction",
        "recorded_at",
        "boot_id",
        "boot_ms",
        "person",
    )
    return _digest([previous_chain, *(values.get(name, "") for name in names)])


def person_digest(members: Mapping[str, Any]) -> str:
    """32 hex digits over the personal members and their salt; erasing both leaves nothing to guess."""
    return _digest([members.get(name, "") for name in _PERSONAL])


def _is_erased(members: Mapping[str, Any]) -> bool:
    """Whether this row of a table has the digest in place of the personal members, see ERASE_PERSON."""
    return "person_digest" in members and all(members.get(name, _ERASED) == _ERASED for name in _PERSONAL)


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:_DIGEST_DIGITS]


def _encoded(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


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
    }
    return _encoded(members)


# --- sending rows ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RowPosition:
    """The position of a row: outbox id, seq, and on the first row of a generation the chain before it."""

    outbox_id: str
    seq: int
    chain_before: str | None = None


def as_sent(row: bytes, position: RowPosition) -> bytes:
    """A stored row with its position. Raises ValueError for a legacy row that is not a JSON object."""
    if row.endswith(_LEGACY_END):
        return _legacy_as_sent(row, position)
    placed = b'%b,"outbox_id":"%b","seq":%d' % (row[:-1], position.outbox_id.encode(), position.seq)
    if position.chain_before is not None:
        placed += b',"chain_before":"%b"' % position.chain_before.encode()
    return placed + b"}"


def all_as_sent(
    numbered: Iterable[tuple[int, bytes]], first_n: int, outbox_id: str, chain_before: str
) -> list[bytes]:
    """As as_sent(), for rows of one generation with their numbers; the row `first_n` has seq 1."""
    middle = b',"outbox_id":"%b","seq":' % outbox_id.encode()
    return [
        # A backlog is long: nearly all of its rows take the first way.
        b"%b%b%d}" % (row[:-1], middle, n - first_n + 1)
        if n != first_n and not row.endswith(_LEGACY_END)
        else as_sent(row, RowPosition(outbox_id, n - first_n + 1, chain_before if n == first_n else None))
        for n, row in numbered
    ]


def _legacy_as_sent(row: bytes, position: RowPosition) -> bytes:
    """Byte for byte as stored while its position is the one that it carries."""
    if b'"outbox_id":"%b","seq":%d,' % (position.outbox_id.encode(), position.seq) in row:
        return row
    members = json.loads(row)
    if not isinstance(members, dict):
        raise ValueError("not a row")  # noqa: TRY004 - as for any other damage
    members |= {"outbox_id": position.outbox_id, "seq": position.seq}
    if position.chain_before is not None:
        members["chain_before"] = position.chain_before
    members.pop("replay", None)
    return _encoded(members)


def as_replay(row: bytes) -> bytes:
    """A row as sent, marked as a replay."""
    if row.endswith(_LEGACY_END):
        return row.removesuffix(_LEGACY_END) + b'"replay":true}'
    return row[:-1] + b',"replay":true}'


@dataclass(frozen=True, slots=True)
class RecordedTime:
    """When a swipe was read, as recorded in its row."""

    boot_id: str
    boot_us: int
    wall_us: int
    synced: bool

    def is_of_boot(self, boot_id: str) -> bool:
        """Whether the row was read in this boot: a row has the first digits of its id, a legacy row all."""
        return self.boot_id in {boot_id, boot_id[:_BOOT_ID_DIGITS]}


def recorded_time(row: bytes) -> RecordedTime:
    """The recorded time of a row. Raises ValueError, KeyError or TypeError for damaged bytes."""
    members = json.loads(row)
    return RecordedTime(
        boot_id=members["boot_id"],
        boot_us=members["boot_ms"] * 1_000,
        wall_us=_microseconds(members.get("recorded_at", members["event_timestamp"])),
        synced=members["clock"] == "synced",
    )


def with_timestamp(row: bytes, wall_us: int, *, sure: bool, uncertainty_ms: int | None) -> bytes:
    """The row with a corrected `event_timestamp`, and the time it was stored with as `recorded_at`.

    `wall_us` is the corrected time of its read. `sure`: corrected by a synchronised clock, otherwise
    estimated. `uncertainty_ms` is that of the clock; for a row whose bytes waited to be read half of the wait
    is added, and the time stays estimated. The values that the chain covers do not change. A row whose bytes
    were damaged on the disk is returned unchanged: the pipe refuses it by itself, and it is set aside.
    """
    at, clock = row.find(_TIME), _CLOCK.search(row)
    if at < 0 or clock is None:
        return row
    begin = at + len(_TIME)
    stored = row[begin : begin + _TIME_LENGTH]
    has_waited, half_us = clock["ms"] is not None, 0
    if has_waited and clock["read"] is not None:
        try:
            half_us = _microseconds(clock["read"].decode()) - _microseconds(stored.decode())
        except (ValueError, TypeError):
            return row
    sure = sure and not has_waited
    corrected = iso(wall_us - half_us).encode()
    if uncertainty_ms is not None:  # that of the clock at the read does not count any longer
        uncertainty_ms += half_us // 1_000
    time = b'"clock":"corrected"' if sure else b'"clock":"estimated"'
    if uncertainty_ms is not None and not (sure and uncertainty_ms <= _UNCERTAINTY_SENT_ABOVE_MS):
        time += b',"time_uncertainty_ms":%d' % uncertainty_ms
    if clock["recorded"] is not None:
        time += clock["recorded"]
    elif stored != corrected:
        time += b',"recorded_at":"%b"' % stored
    row = row[: clock.start()] + time + row[clock.end() :]
    # Of the same length, and before the clock: the position found above is still that of the time.
    return row[:begin] + corrected + row[begin + _TIME_LENGTH :]


def _microseconds(text: str) -> int:
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)


def age_s(row: bytes, now: ClockReading) -> float | None:
    """Seconds since a row's swipe was read: by the boot-time clock within one boot, else by wall clocks.

    None if one of the wall clocks was not trusted.
    """
    read = recorded_time(row)
    if read.is_of_boot(now.boot_id):
        return (now.boot_us - read.boot_us) / 1e6
    return max(0.0, (now.wall_us - read.wall_us) / 1e6) if read.synced and now.trusted else None


# --- reading stored rows --------------------------------------------------------------------

# Rows that fit into a page lie in one piece in the file, so their bytes can be found even where the
# B-tree around them is gone.
_ROW_BEGIN = b'{"badge_id":'
_ROW_END = re.compile(rb'"chain":"[0-9a-f]{32}"\}|"replay":false\}')
_LONGEST_ROW_BYTES = 4_000
# How much of the file around a row is given with it: more than a database keeps beside it.
_AROUND_BYTES = 80

# The members that a row must have to be recovered, and their types.
_REQUIRED_MEMBERS: dict[str, type] = {
    "event_id": str,
    "chain": str,
    "reader_id": str,
    "card_bits": int,
    "card_raw": str,
    "event_timestamp": str,
    "clock": str,
    "boot_id": str,
    "boot_ms": int,
}
_REQUIRED_NOW = _REQUIRED_MEMBERS | {"agent_id": str, "person_salt": str}
_REQUIRED_BEFORE = _REQUIRED_MEMBERS | {"outbox_id": str, "seq": int, "recorded_at": str}


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """A stored row that has every required member. `outbox_id` and `seq` are those of a legacy row."""

    members: Mapping[str, Any] = field(repr=False)
    event_id: str
    chain: str
    outbox_id: str | None
    seq: int | None

    def follows(self, previous_chain: str) -> bool:
        """Whether the row was stored directly after the row with this chain. False for a legacy row."""
        return self.outbox_id is None and chain_hash(previous_chain, self.members) == self.chain


def parse(row: object) -> ParsedRow | None:
    """None for anything that is not a complete stored row."""
    members = _members_of(row)
    if members is None:
        return None
    required = _REQUIRED_BEFORE if "outbox_id" in members else _REQUIRED_NOW
    if not all(isinstance(members.get(name), kind) for name, kind in required.items()):
        return None
    return ParsedRow(
        members, members["event_id"], members["chain"], members.get("outbox_id"), members.get("seq")
    )


def card_of(row: object) -> tuple[str, int, str] | None:
    """Reader id, bits and hex digits of the card; None for a damaged or an erased row."""
    members = _members_of(row) or {}
    match [members.get(name) for name in ("reader_id", "card_bits", "card_raw")]:
        case [str(reader_id), int(bits), str(raw)]:
            return reader_id, bits, raw
    return None


class RowSummary(NamedTuple):
    """What a row says to a person at the door; None for absent members."""

    reader_id: str
    zone_id: str
    direction: str | None
    badge_id: str | None  # None after the person was erased
    event_timestamp: str
    clock: str


def summary_of(row: object) -> RowSummary | None:
    """The summary of a stored row; None for a damaged one."""
    members = _members_of(row) or {}
    values = [members.get(name) for name in RowSummary._fields]
    match [printable(value) if isinstance(value, str) else value for value in values]:
        case [str(reader_id), str(zone_id), direction, badge_id, str(event_timestamp), str(clock)]:
            return RowSummary(reader_id, zone_id, direction, badge_id, event_timestamp, clock)
    return None


def _members_of(row: object) -> dict[str, Any] | None:
    try:
        members = json.loads(row) if isinstance(row, bytes) else None
    except ValueError:
        return None
    return members if isinstance(members, dict) else None


class FoundRow(NamedTuple):
    """A complete row found in the bytes of a file, with the bytes next to it."""

    parsed: ParsedRow
    row: bytes
    before: bytes
    after: bytes


def scan(pieces: Iterable[bytes]) -> Iterator[FoundRow | None]:
    """Every complete row in the bytes of a file, wherever it lies; `pieces` follow each other in the file.

    None after each piece, so that the caller can pause. Memory is bounded by one piece and one row.
    """
    carried, begin = b"", 0
    for piece in pieces:
        content = carried + piece
        # A row that begins after this place may end in the next piece.
        complete = max(begin, len(content) - _LONGEST_ROW_BYTES - _AROUND_BYTES)
        yield from _rows_beginning_between(begin, complete, content)
        yield None
        kept_from = max(0, complete - _AROUND_BYTES)
        carried, begin = content[kept_from:], complete - kept_from
    yield from _rows_beginning_between(begin, len(carried), carried)


def _rows_beginning_between(begin: int, limit: int, content: bytes) -> Iterator[FoundRow]:
    begin = content.find(_ROW_BEGIN, begin)
    while 0 <= begin < limit:
        following = content.find(_ROW_BEGIN, begin + 1)
        longest = begin + _LONGEST_ROW_BYTES
        found = _ROW_END.search(content, begin, min(longest, following) if following >= 0 else longest)
        row = content[begin : found.end()] if found is not None else None
        parsed = parse(row)
        if row is not None and parsed is not None:
            end = begin + len(row)
            before = content[max(0, begin - _AROUND_BYTES) : begin]
            yield FoundRow(parsed, row, before, content[end : end + _AROUND_BYTES])
        begin = following
