"""Words of bits into credentials: the card formats as data, and what a word of bits means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from agent.swipe import CardRead, Check, Key, Noise, Outcome, Reason, Word, raw_hex

Positions = tuple[int, ...]
"""Places in a word, 0 the first bit received; of a field, most significant first."""

ParityPolicy = Literal["reject", "flag"]


@dataclass(frozen=True)
class Parity:
    """The bit at `position` makes the number of ones in itself and in `covers` even, or odd."""

    position: int
    kind: Literal["even", "odd"]
    covers: Positions


@dataclass(frozen=True)
class Format:
    """The layout of one card format; `parities` in the order in which they are computed."""

    name: str
    description: str
    bits: int
    card_number: Positions
    facility_code: Positions = ()
    issue: Positions = ()
    parities: tuple[Parity, ...] = ()

    @cached_property
    def parity_masks(self) -> tuple[tuple[int, int, int], ...]:
        """For each parity: its bit, the mask of all it concerns, the ones there modulo 2."""
        return tuple(
            (self._mask((p.position,)), self._mask((p.position, *p.covers)), int(p.kind == "odd"))
            for p in self.parities
        )

    @cached_property
    def stripped_bits(self) -> int | None:
        """Data bits that are left when a converter strips the parity at both ends."""
        ends = {0, self.bits - 1}
        return self.bits - 2 if {p.position for p in self.parities} == ends else None

    def holds(self, value: int) -> bool:
        """True if every parity of the format holds in a word of its length."""
        return all((value & mask).bit_count() & 1 == odd for _, mask, odd in self.parity_masks)

    def field(self, positions: Positions, value: int) -> int | None:
        """The number in the bits at `positions` of a word; None for a field without bits."""
        if not positions:
            return None
        number = 0
        for position in positions:
            number = number << 1 | value >> (self.bits - 1 - position) & 1
        return number

    def _mask(self, positions: Positions) -> int:
        return sum(1 << (self.bits - 1 - position) for position in positions)


def _span(first: int, last: int) -> Positions:
    return tuple(range(first, last + 1))


def _two_of_three(first: int, last: int) -> Positions:
    return tuple(position for position in _span(first, last) if (position - first) % 3 in (0, 1))


_TABLE = (
    Format(
        name="H10301",
        description="HID 26-bit, the open standard format",
        bits=26,
        facility_code=_span(1, 8),
        card_number=_span(9, 24),
        parities=(Parity(0, "even", _span(1, 12)), Parity(25, "odd", _span(13, 24))),
    ),
    Format(
        name="H10306",
        description="HID 34-bit",
        bits=34,
        facility_code=_span(1, 16),
        card_number=_span(17, 32),
        parities=(Parity(0, "even", _span(1, 16)), Parity(33, "odd", _span(17, 32))),
    ),
    Format(
        name="C1k35s",
        description="HID Corporate 1000, 35-bit",
        bits=35,
        facility_code=_span(2, 13),
        card_number=_span(14, 33),
        parities=(
            Parity(1, "even", _two_of_three(2, 33)),
            Parity(34, "odd", _two_of_three(1, 32)),
            Parity(0, "odd", _span(1, 34)),
        ),
    ),
    Format(
        name="H10302",
        description="HID 37-bit without facility code",
        bits=37,
        card_number=_span(1, 35),
        parities=(Parity(0, "even", _span(1, 18)), Parity(36, "odd", _span(18, 35))),
    ),
    Format(
        name="H10304",
        description="HID 37-bit with facility code",
        bits=37,
        facility_code=_span(1, 16),
        card_number=_span(17, 35),
        parities=(Parity(0, "even", _span(1, 18)), Parity(36, "odd", _span(18, 35))),
    ),
    Format(
        name="C1k48s",
        description="HID Corporate 1000, 48-bit",
        bits=48,
        facility_code=_span(2, 23),
        card_number=_span(24, 46),
        parities=(
            Parity(1, "even", _two_of_three(3, 46)),
            Parity(47, "odd", _two_of_three(2, 45)),
            Parity(0, "odd", _span(1, 47)),
        ),
    ),
)

FORMATS: Mapping[str, Format] = MappingProxyType({known.name: known for known in _TABLE})
DEFAULT_FORMATS = ("H10301", "H10306", "C1k35s", "H10304", "C1k48s")  # the common one of each length

KEY_BITS = frozenset({4, 6, 8})  # one keypad key, in the three ways keypads send it
# Every length a card format is known for, decoded here or not, and the 32, 40 and 56 bits of
# tag ids. Any other length is a word that lost or gained bits.
CARD_BITS = frozenset({*range(26, 41), 42, 46, 48, 56})


def decode(word: Word, formats: Sequence[str], *, parity: ParityPolicy = "reject") -> Outcome:
    """What a word is with these formats enabled: a card, a key, or noise.

    Nothing is padded, cut or guessed: a card has fields only when exactly one enabled format of
    its length validates. Raises KeyError for a name that is not in FORMATS.
    """
    if word.bits in KEY_BITS:
        return Key()
    if word.value in (0, (1 << word.bits) - 1):
        return Noise(Reason.NULL)
    enabled = [FORMATS[name] for name in dict.fromkeys(formats)]
    if word.check is Check.UPSTREAM:
        return _decode_stripped(word, [known for known in enabled if known.stripped_bits == word.bits])
    return _decode_whole(word, [known for known in enabled if known.bits == word.bits], parity)


def encode(name: str, facility_code: int | None, card_number: int, issue: int | None = None) -> int:
    """The word of a card, the inverse of decode(); None for a field the format does not have.

    Raises ValueError for a number that does not fit the format, KeyError for an unknown format.
    """
    known = FORMATS[name]
    value = 0
    for label, positions, number in (
        ("facility code", known.facility_code, facility_code),
        ("card number", known.card_number, card_number),
        ("issue", known.issue, issue),
    ):
        value |= _spread(known, label, positions, number)
    for bit, mask, odd in known.parity_masks:
        if (value & mask).bit_count() & 1 != odd:
            value |= bit
    return value


def _decode_whole(word: Word, enabled: Sequence[Format], parity: ParityPolicy) -> Outcome:
    matches = [known for known in enabled if known.holds(word.value)]
    if matches:
        return _card(word, Check.PARITY if word.check is Check.NONE else word.check, matches, word.value)
    # The checksum of a frame vouches for its tag id, which need not be a Wiegand word.
    if word.check is Check.CHECKSUM or (not enabled and word.bits in CARD_BITS):
        return _card(word, word.check)
    if not enabled:
        return Noise(Reason.LENGTH)
    return _card(word, Check.FAILED) if parity == "flag" else Noise(Reason.PARITY)


def _decode_stripped(word: Word, enabled: Sequence[Format]) -> Outcome:
    """A converter checked the parity and took it away, so every format of the length validates."""
    if not enabled and CARD_BITS.isdisjoint({word.bits, word.bits + 2}):
        return Noise(Reason.LENGTH)
    return _card(word, Check.UPSTREAM, enabled, word.value << 1)


def _card(word: Word, check: Check, matches: Sequence[Format] = (), value: int = 0) -> CardRead:
    """A card, with fields from `value` when one format alone matches."""
    card = CardRead(
        bits=word.bits,
        raw=raw_hex(word.bits, word.value),
        check=check,
        matches=tuple(known.name for known in matches),
        signal_strength=word.signal_strength,
    )
    if len(matches) != 1:
        return card
    only = matches[0]
    return replace(
        card,
        format=only.name,
        facility_code=only.field(only.facility_code, value),
        card_number=only.field(only.card_number, value),
        issue=only.field(only.issue, value),
    )


def _spread(known: Format, label: str, positions: Positions, number: int | None) -> int:
    """The bits of a number at its places in the word."""
    if not positions and number is None:
        return 0
    # The number itself stays out of the message: messages end up in logs.
    if number is None or not positions or not 0 <= number < 1 << len(positions):
        raise ValueError(f"{known.name} has {len(positions)} bits of {label}: the number given does not fit")
    return sum(
        1 << (known.bits - 1 - position)
        for place, position in enumerate(reversed(positions))
        if number >> place & 1
    )
