"""The events of a wire protocol, and the outcomes of decoding them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import cache
from typing import NamedTuple

from agent.swipe import CardCheck, CardRead


class NoiseReason(StrEnum):
    """Why bytes or bits are noise; `status` counts by it."""

    CHECKSUM = "checksum"
    PARITY = "parity"
    LENGTH = "length"
    SYNTAX = "syntax"
    TRUNCATED = "truncated"
    OVERSIZED = "oversized"
    STRAY = "stray"  # bytes between frames
    NULL = "null"  # all zeros or all ones: a data line held low or high
    SWAPPED = "swapped"  # only the complement is valid: D0 and D1 are swapped
    OVERRUN = "overrun"  # with FRAMING and LINE_PARITY: an error of the serial line, counted by the kernel
    FRAMING = "framing"
    LINE_PARITY = "line_parity"
    UNCONFIRMED = "unconfirmed"  # read only once where the configuration requires two equal reads


class CredentialKind(Enum):
    """What the bits of a credential are, and so whether they include Wiegand parity."""

    WIEGAND = "wiegand"  # as on the data lines, parity bits included
    DATA = "data"  # without the parity bits, which a converter has removed
    ID = "id"  # a tag's own number: Wiegand only if an enabled format happens to fit
    IDENTIFIER = "identifier"  # a number of a tag that is never Wiegand: no format is tried


KEY_BITS = frozenset({4, 6, 8})  # one keypad key, in the three encodings of keypads


def raw_hex(bits: int, value: int) -> str:
    """Canonical form of a card's bits: upper-case hex, zero-padded to the bits (26 -> 7 digits)."""
    return _hex_template(bits) % value


@cache
def _hex_template(bits: int) -> str:
    return f"%0{(bits + 3) // 4}X"


class RawCredential(NamedTuple):
    """The bits of one card as a protocol returns them: `value` is `bits` wide, first bit most significant.

    `check` is what has been verified so far: CHECKSUM (of the frame), UPSTREAM (the parity, by a
    converter) or NONE. `maybe_pin`: a PIN typed at a keypad has the same form. `unpadded`: printed
    without leading zeros, so that a lost digit cannot be detected, and a valid parity may be chance.
    A tuple, because one is made for every frame and a frozen dataclass takes four times as long to make.
    """

    bits: int
    value: int
    check: CardCheck = CardCheck.NONE
    form: CredentialKind = CredentialKind.WIEGAND
    maybe_pin: bool = False
    signal_strength: float | None = None  # dBm
    unpadded: bool = False

    def __repr__(self) -> str:
        return f"RawCredential(bits={self.bits}, check={self.check}, form={self.form})"


@dataclass(frozen=True, slots=True)
class Noise:
    """Bytes or bits that are not a card: counted by reason, never sent, never logged."""

    reason: NoiseReason
    raw: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Key:
    """A keypad key was pressed. Which one is not stored anywhere."""


@dataclass(frozen=True, slots=True)
class Status:
    """The reported state of a reader or bridge; `text` is fixed, never taken from the serial line."""

    text: str
    ok: bool


class Condition(StrEnum):
    """What can be wrong with a two-way reader, beside its port: the values of `conditions` in `status`."""

    OFFLINE = "offline"  # it does not answer
    KEY_REFUSED = "key_refused"  # it answers, but there is no encrypted session
    TAMPER = "tamper"
    POWER = "power"
    HEAD_TAMPER = "head_tamper"  # of a reader head that is connected to the device on the line
    HEAD_MISSING = "head_missing"
    NO_KEY = "no_key"  # it is not asked, because the agent has no key for it


@dataclass(frozen=True, slots=True)
class ConditionChange:
    """A reader reports one of its conditions, changed or not."""

    condition: Condition
    active: bool


ReaderEvent = RawCredential | Noise | Key | Status | ConditionChange


Outcome = CardRead | Noise | Key
