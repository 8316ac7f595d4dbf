"""Doors that swiped: rows as agent.rows makes and sends them, and rows as earlier versions sent them."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent import rows
from agent.clock.reading import ClockReading
from agent.readers.events import raw_hex
from agent.swipe import CardCheck, CardRead, Swipe

BOOT_ID = "6f0c1d3e-5a7b-4c2d-9e8f-001122334455"
HOUR_S = 3600
_BOOTED_US = time.time_ns() // 1000 - 400 * 24 * HOUR_S * 1_000_000


@dataclass(slots=True)
class Door:
    """The life of one outbox file: swipes, generations, and the rows that were sent, oldest first."""

    agent_id: str
    outbox_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    sent: list[bytes] = field(default_factory=list)
    _seq: int = 0
    _chain: str = ""
    _chain_before: str | None = None

    def __post_init__(self) -> None:
        self._chain = rows.first_link(self.outbox_id)
        self._chain_before = self._chain

    def swipe(
        self, seconds_ago: float, *, trusted: bool = True, corrected_us: int | None = None, **changes: str
    ) -> None:
        """Keep and send a swipe; its time is corrected to `corrected_us` where that is given."""
        link = rows.RowLink(str(uuid.uuid4()), uuid.uuid4().hex[:16], self._chain)
        read = _swipe(len(self.sent) + 1, seconds_ago, trusted=trusted)
        swipe = replace(read, **changes)  # type: ignore[arg-type] # members that are texts
        self._chain, stored = rows.render(swipe, link, agent_id=self.agent_id)
        if corrected_us is not None:
            stored = rows.with_timestamp(stored, corrected_us, sure=True, uncertainty_ms=None)
        self._seq += 1
        position = rows.RowPosition(self.outbox_id, self._seq, self._chain_before if self._seq == 1 else None)
        self.sent.append(rows.as_sent(stored, position))

    def swipe_of_an_old_agent(self) -> None:
        """Send a row as agents before this row format did: a chain of 16 digits, no salt."""
        swipe = _swipe(len(self.sent) + 1, 60.0)
        recorded_at, event_id = rows.iso(swipe.read_at.wall_us), str(uuid.uuid4())
        card = swipe.card
        text = (
            f"{self._chain}|{event_id}|{swipe.reader_id}|{card.bits}|{card.raw}|{recorded_at}"
            f"|{BOOT_ID}|{swipe.read_at.boot_ms}"
        )
        self._chain = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._seq += 1
        members: dict[str, Any] = {
            "badge_id": swipe.badge_id,
            "user_id": swipe.user_id,
            "zone_id": swipe.zone_id,
            "reader_id": swipe.reader_id,
            "event_timestamp": recorded_at,
            "direction": swipe.direction,
            "event_id": event_id,
            "agent_id": self.agent_id,
            "card_bits": card.bits,
            "card_raw": card.raw,
            "card_check": card.check.value,
            "clock": "synced",
            "recorded_at": recorded_at,
            "boot_id": BOOT_ID,
            "boot_ms": swipe.read_at.boot_ms,
            "agent_version": "0.1.0",
            "outbox_id": self.outbox_id,
            "seq": self._seq,
            "chain": self._chain,
        }
        if self._seq == 1 and self._chain_before != self.outbox_id:
            members["chain_before"] = self._chain_before
        self.sent.append(json.dumps(members | {"replay": False}, separators=(",", ":")).encode())

    def heartbeat(self, pending: int = 0, seconds_ago: float = 0.0, **details: object) -> bytes:
        """A heartbeat that says how far the door is, as RAW_DOOR_EVENTS gets it; its signature is none."""
        at = rows.iso(time.time_ns() // 1000 - int(seconds_ago * 1e6))
        state = {"clock": "synced", "version": "0.2.0", "readers_lost": 0, "key": "k", "signature": "c2ln"}
        position = {"seq": self._seq, "chain": self._chain, "pending": pending}
        return json.dumps(
            {
                "event_id": str(uuid.uuid4()),
                "agent_id": self.agent_id,
                "outbox_id": self.outbox_id,
                "kind": "heartbeat",
                "at": at,
                "clock": "synced",
                "severity": "info",
                "details": state | position | details,
            }
        ).encode()

    def new_generation(self, *, agent_id: str | None = None) -> None:
        """Continue under a new outbox id, and under a new agent id where one is given."""
        self.outbox_id, self._seq, self._chain_before = uuid.uuid4().hex[:12], 0, self._chain
        self.agent_id = agent_id or self.agent_id


def door_rows(agent_id: str, seconds_ago: Sequence[float], *, trusted: bool = True) -> list[bytes]:
    """The rows of a new outbox with one swipe at each of these times, oldest first."""
    door = Door(agent_id)
    for ago in seconds_ago:
        door.swipe(ago, trusted=trusted)
    return door.sent


def moved(lines: Sequence[bytes], outbox_id: str, chain_before: str) -> list[bytes]:
    """The same rows under a new outbox id, as after a restored backup."""
    found = []
    for seq, line in enumerate(lines, start=1):
        members = json.loads(line) | {"outbox_id": outbox_id, "seq": seq}
        members.pop("chain_before", None)
        found.append(json.dumps(members | ({"chain_before": chain_before} if seq == 1 else {})).encode())
    return found


def _swipe(number: int, seconds_ago: float, *, trusted: bool = True) -> Swipe:
    wall_us = time.time_ns() // 1000 - int(seconds_ago * 1e6)
    return Swipe(
        reader_id="RDR-101",
        zone_id="ZONE-LOBBY-1",
        direction="ENTRY",
        badge_id=f"123-{number}",
        user_id="UNKNOWN",
        card=CardRead(26, raw_hex(26, number), CardCheck.PARITY, "H10301", 123, number),
        read_at=ClockReading(wall_us, BOOT_ID, wall_us - _BOOTED_US, trusted),
    )
