"""What a wire protocol delivers, and what decoding makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import cache
from typing import NamedTuple

from agent.swipe import CardCheck, CardRead


class NoiseReason(StrEnum):
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


class CredentialKind(Enum):
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


class RawCredential(NamedTuple):
    """One card as a protocol delivers it: `value` is `bits` wide, first bit received on top.

    `check` says what vouches for it so far: CHECKSUM (the frame's own), UPSTREAM (the parity, at
    a converter) or NONE. `maybe_pin`: a PIN typed at a pad would look the same. A tuple, because
    one is made for every frame, and a frozen dataclass takes four times as long to make.
    """

    bits: int
    value: int
    check: CardCheck = CardCheck.NONE
    form: CredentialKind = CredentialKind.WIEGAND
    maybe_pin: bool = False
    signal_strength: float | None = None  # dBm

    def __repr__(self) -> str:
        return f"RawCredential(bits={self.bits}, check={self.check}, form={self.form})"


@dataclass(frozen=True, slots=True)
class Noise:
    """Bytes or bits that are no card: counted by reason, never sent, never logged."""

    reason: NoiseReason
    raw: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Key:
    """A keypad key was pressed. Which one is not kept anywhere, not even here."""


@dataclass(frozen=True, slots=True)
class Status:
    """A reader or bridge says how it is; `text` is ours, never the line's own words."""

    text: str
    ok: bool


ReaderEvent = RawCredential | Noise | Key | Status


Outcome = CardRead | Noise | Key
