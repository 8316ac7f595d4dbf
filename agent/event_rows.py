"""The rows of door events and heartbeats: the only module that spells their members.

A stored row is everything but `outbox_id`, `seq` and `chain_before`, which are added when it is sent. The
chain ties it to the event before it:

    SHA-256 over `previous chain|[event_id, agent_id, kind, recorded_at, severity, reader_id, actor, message,
    details]`, the list as compact JSON with sorted keys, absent members as null; 32 hex digits

`recorded_at` is `at` where the row has no such member: it has one if `at` was corrected when it was sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.door_event import DoorEvent
from agent.rows import RowPosition, iso

HEARTBEAT = "heartbeat"
_CHAINED = (
    *("event_id", "agent_id", "kind", "recorded_at", "severity"),
    *("reader_id", "actor", "message", "details"),
)
_DIGITS = 32


def render(event: DoorEvent, *, event_id: str, agent_id: str, previous_chain: str) -> tuple[str, bytes]:
    """The chain of an event and its row to be stored: one line of NDJSON without the line end."""
    members: dict[str, Any] = {
        "event_id": event_id,
        "agent_id": agent_id,
        "kind": event.kind,
        "at": iso(event.read_at.wall_us),
        "clock": "synced" if event.read_at.trusted else "estimated",
        "severity": event.severity,
        "reader_id": event.reader_id,
        "actor": event.actor,
        "message": event.short_message,
        "details": {name: value for name, value in event.details.items() if value is not None} or None,
    }
    present = {name: value for name, value in members.items() if value is not None}
    chain = chain_hash(previous_chain, present)
    return chain, _encoded(present | {"chain": chain})


def chain_hash(previous_chain: str, members: Mapping[str, Any]) -> str:
    """The chain of a row that follows the row with another chain."""
    values = {"recorded_at": members.get("at"), **members}
    text = json.dumps(
        [values.get(name) for name in _CHAINED], ensure_ascii=False, separators=(",", ":"), sort_keys=True
    )
    return hashlib.sha256(f"{previous_chain}|{text}".encode()).hexdigest()[:_DIGITS]


def needs_time(row: bytes) -> bool:
    """Whether the row was stored under a clock that was not synchronised."""
    return b'"clock":"estimated"' in row


def with_time(row: bytes, wall_us: int, *, sure: bool) -> bytes:
    """The row with a corrected time; the one that it was stored with becomes `recorded_at`."""
    members = json.loads(row)
    corrected = iso(wall_us)
    if members["at"] != corrected:
        members |= {"recorded_at": members["at"], "at": corrected}
    return _encoded(members | {"clock": "corrected" if sure else "estimated"})


def as_sent(row: bytes, position: RowPosition) -> bytes:
    """A stored row with its position."""
    placed = b'%b,"outbox_id":"%b","seq":%d' % (row[:-1], position.outbox_id.encode(), position.seq)
    if position.chain_before is not None:
        placed += b',"chain_before":"%b"' % position.chain_before.encode()
    return placed + b"}"


@dataclass(frozen=True, slots=True)
class Anchor:
    """The last swipe of a generation, and when this was so: what a heartbeat signs."""

    outbox_id: str
    seq: int
    chain: str
    at: str

    @property
    def signed_bytes(self) -> bytes:
        """The bytes that the signature is over."""
        return f"{self.outbox_id}|{self.seq}|{self.chain}|{self.at}".encode()


def heartbeat(
    anchor: Anchor, details: Mapping[str, Any], *, event_id: str, agent_id: str, clock: str
) -> bytes:
    """The row of a heartbeat: it has no seq, and no chain of its own."""
    members = {
        "event_id": event_id,
        "agent_id": agent_id,
        "outbox_id": anchor.outbox_id,
        "kind": HEARTBEAT,
        "at": anchor.at,
        "clock": clock,
        "severity": "info",
        "details": {"seq": anchor.seq, "chain": anchor.chain, **details},
    }
    return _encoded(members)


def kind_of(row: bytes) -> str:
    """The kind of a stored row; "" for a damaged one."""
    try:
        members = json.loads(row)
    except ValueError:
        return ""
    return str(members.get("kind", "")) if isinstance(members, dict) else ""


def _encoded(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()
