"""A swipe and its card: immutable values that pass from readers to rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from agent.clock.reading import ClockReading

# BADGE_ID, USER_ID, ZONE_ID and READER_ID are VARCHAR(50) NOT NULL.
LONGEST_NAME = 50


class CardCheck(StrEnum):
    """How the bits of a card were verified: the values of the column `card_check`."""

    PARITY = "parity"  # Wiegand parity is correct
    CHECKSUM = "checksum"  # the frame's checksum is correct
    UPSTREAM = "upstream"  # a converter checked the parity and stripped it
    NONE = "none"  # nothing to check
    FAILED = "failed"  # parity failed, passed on because the reader says parity = "flag"


# Fields that could identify a card are kept out of repr(), so that no log line, traceback
# or debugger print can carry them.


class CardRead(NamedTuple):
    """A card after decoding. `format` and the fields after it are set only when exactly one
    enabled format validates; `matches` names every enabled format that does. A tuple, as RawCredential is.
    """

    bits: int
    raw: str
    check: CardCheck
    format: str | None = None
    facility_code: int | None = None
    card_number: int | None = None
    issue: int | None = None
    oem: int | None = None
    matches: tuple[str, ...] = ()
    signal_strength: float | None = None  # dBm

    def __repr__(self) -> str:
        return f"CardRead(bits={self.bits}, check={self.check}, format={self.format}, matches={self.matches})"


class LastRead(NamedTuple):
    """The card of a stored swipe, and when it was read, in milliseconds since boot."""

    bits: int
    raw: str
    boot_ms: int

    def __repr__(self) -> str:
        return f"LastRead(bits={self.bits}, boot_ms={self.boot_ms})"


@dataclass(frozen=True, slots=True)
class Swipe:
    """One presentation of a card at one reader: the event the agent exists to deliver."""

    reader_id: str
    zone_id: str
    direction: str | None
    badge_id: str = field(repr=False)
    user_id: str = field(repr=False)
    card: CardRead
    read_at: ClockReading
    # Microseconds before `read_at` within which its last byte arrived; 0: it was read as it arrived.
    age_us: int = 0
