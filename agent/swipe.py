"""The vocabulary of a swipe: frozen values that every room may import and none may change."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import cache
from typing import NamedTuple


class Check(StrEnum):
    """How far the bits of a card are vouched for: the values of the column `card_check`."""

    PARITY = "parity"  # Wiegand parity held
    CHECKSUM = "checksum"  # the frame's own checksum held
    UPSTREAM = "upstream"  # a converter checked the parity and stripped it
    NONE = "none"  # nothing to check
    FAILED = "failed"  # parity failed, passed on because the reader says parity = "flag"


class Reason(StrEnum):
    """Why bytes or bits became noise: what `status` counts by."""

    CHECKSUM = "checksum"
    PARITY = "parity"
    LENGTH = "length"
    SYNTAX = "syntax"
    TRUNCATED = "truncated"
    OVERSIZED = "oversized"
    STRAY = "stray"  # bytes between frames
    NULL = "null"  # all zeros or all ones: a line held low or high, no card
    SWAPPED = "swapped"  # only the complement is valid: D0 and D1 are exchanged


class Form(Enum):
    """What the bits of a word are: whether Wiegand parity can be looked for in them."""

    WIEGAND = "wiegand"  # as on the data lines, parity bits included
    DATA = "data"  # what a converter leaves of that: the parity bits are gone, whoever checked them
    ID = "id"  # a tag's own number: a Wiegand word only if an enabled format happens to fit


def raw_hex(bits: int, value: int) -> str:
    """Canonical form of a card's bits: upper-case hex, zero-padded to the bits (26 -> 7 digits)."""
    return _hex_template(bits) % value


@cache
def _hex_template(bits: int) -> str:
    return f"%0{(bits + 3) // 4}X"


# Fields that could identify a card are kept out of repr(), so that no log line, traceback
# or debugger print can carry them.


class Word(NamedTuple):
    """One card as a protocol delivers it: `value` is `bits` wide, first bit received on top.

    `check` says what vouches for it so far: CHECKSUM (the frame's own), UPSTREAM (the parity, at
    a converter) or NONE. `maybe_pin`: a PIN typed at a pad would look the same. A tuple, because
    one is made for every frame, and a frozen dataclass takes four times as long to make.
    """

    bits: int
    value: int
    check: Check = Check.NONE
    form: Form = Form.WIEGAND
    maybe_pin: bool = False
    signal_strength: float | None = None  # dBm

    def __repr__(self) -> str:
        return f"Word(bits={self.bits}, check={self.check}, form={self.form})"


@dataclass(frozen=True, slots=True)
class Noise:
    """Bytes or bits that are no card: counted by reason, never sent, never logged."""

    reason: Reason
    raw: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Key:
    """A keypad key was pressed. Which one is not kept anywhere, not even here."""


@dataclass(frozen=True, slots=True)
class Status:
    """A reader or bridge says how it is; `text` is ours, never the line's own words."""

    text: str
    ok: bool


Frame = Word | Noise | Key | Status


class CardRead(NamedTuple):
    """A card after decoding. `format` and the fields after it are set only when exactly one
    enabled format validates; `matches` names every enabled format that does. A tuple, as Word is.
    """

    bits: int
    raw: str
    check: Check
    format: str | None = None
    facility_code: int | None = None
    card_number: int | None = None
    issue: int | None = None
    oem: int | None = None
    matches: tuple[str, ...] = ()
    signal_strength: float | None = None  # dBm

    def __repr__(self) -> str:
        return f"CardRead(bits={self.bits}, check={self.check}, format={self.format}, matches={self.matches})"


Outcome = CardRead | Noise | Key


@dataclass(frozen=True, slots=True)
class Instant:
    """A moment as the machine's clocks stood: `wall_us` microseconds since 1970 UTC, `boot_us`
    microseconds since boot (CLOCK_BOOTTIME, so suspend counts); `trusted` says whether the wall
    clock was right, `unconfirmed_us` for how long at most nothing has confirmed that.
    """

    wall_us: int
    boot_id: str
    boot_us: int
    trusted: bool
    unconfirmed_us: int = 0

    @property
    def boot_ms(self) -> int:
        """Whole milliseconds since boot: what the row publishes."""
        return self.boot_us // 1_000

    @property
    def offset_us(self) -> int:
        """What the wall clock showed at the moment of the boot, as it stood now."""
        return self.wall_us - self.boot_us


@dataclass(frozen=True, slots=True)
class Swipe:
    """One presentation of a card at one reader: the event the agent exists to deliver."""

    reader_id: str
    zone_id: str
    direction: str | None
    badge_id: str = field(repr=False)
    user_id: str = field(repr=False)
    card: CardRead
    read_at: Instant
