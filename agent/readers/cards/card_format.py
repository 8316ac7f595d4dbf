"""How a card format lays its numbers and parity bits out in a word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Literal

Positions = tuple[int, ...]
"""Places in a word, 0 the first bit received; of a field, most significant first."""

_DIGIT_BITS = 4


@dataclass(frozen=True)
class Parity:
    """The bit at `position` makes the number of ones in itself and in `covers` even, or odd."""

    position: int
    kind: Literal["even", "odd"]
    covers: Positions


@dataclass(frozen=True)
class CardFormat:
    """The layout of one card format; `parities` in the order in which they are computed.

    `fixed` bits have to be as they say, `preset` bits are only written so. `contested` says why
    the sources of a layout disagree: such a format is never on by default.
    """

    name: str
    description: str
    bits: int
    card_number: Positions
    facility_code: Positions = ()
    issue: Positions = ()
    oem: Positions = ()
    parities: tuple[Parity, ...] = ()
    fixed: tuple[tuple[int, int], ...] = ()
    preset: tuple[tuple[int, int], ...] = ()
    decimal_digits: bool = False  # the card number is binary-coded decimal
    contested: str = ""

    @property
    def fields(self) -> tuple[tuple[str, Positions], ...]:
        """The fields of a card, in the order of CardRead, with their places."""
        return (
            ("facility code", self.facility_code),
            ("card number", self.card_number),
            ("issue", self.issue),
            ("oem", self.oem),
        )

    @cached_property
    def data_bits(self) -> int | None:
        """How many bits a converter leaves that strips the parity at both ends; None if it cannot."""
        positions = {parity.position for parity in self.parities}
        if not positions:
            return self.bits
        return self.bits - 2 if positions == {0, self.bits - 1} else None

    def holds(self, value: int) -> bool:
        """True if parities, fixed bits and decimal digits are right in a word of the format's length."""
        for mask, odd in self._parity_masks:
            if (value & mask).bit_count() & 1 != odd:
                return False
        return self.holds_without_parity(value)

    def holds_without_parity(self, value: int) -> bool:
        """The same for a word whose parity bits are gone, with zeros in their places."""
        mask, wanted = self._fixed_mask
        return value & mask == wanted and not (self.decimal_digits and self._decimal(value) is None)

    def read(self, value: int) -> tuple[int | None, int | None, int | None, int | None]:
        """Facility code, card number, issue and OEM code; None for what the format does not have."""
        facility_code, card_number, issue, oem = self._readers
        return facility_code(value), card_number(value), issue(value), oem(value)

    def write(self, numbers: Sequence[int | None]) -> int:
        """The word with these numbers, in the order of read(). Raises ValueError if one does not fit."""
        value = self._bits_of(self.fixed) | self._bits_of(self.preset)
        for (label, positions), number in zip(self.fields, numbers, strict=True):
            value |= self._spread(label, positions, number)
        for parity, (mask, odd) in zip(self.parities, self._parity_masks, strict=True):
            if (value & mask).bit_count() & 1 != odd:
                value |= self._mask((parity.position,))
        if not self.holds(value) or self.read(value) != tuple(numbers):
            raise ValueError(f"{self.name} has fixed bits: a number given contradicts them")
        return value

    @cached_property
    def _parity_masks(self) -> tuple[tuple[int, int], ...]:
        """For each parity the mask of all bits it concerns, and the ones there modulo 2."""
        return tuple((self._mask((p.position, *p.covers)), int(p.kind == "odd")) for p in self.parities)

    @cached_property
    def _fixed_mask(self) -> tuple[int, int]:
        return self._mask(tuple(position for position, _ in self.fixed)), self._bits_of(self.fixed)

    @cached_property
    def _readers(self) -> tuple[Callable[[int], int | None], ...]:
        facility_code, card_number, issue, oem = (_reader(places, self.bits) for _, places in self.fields)
        return facility_code, self._decimal if self.decimal_digits else card_number, issue, oem

    def _spread(self, label: str, positions: Positions, number: int | None) -> int:
        """The bits of a number at its places in the word."""
        if not positions and number is None:
            return 0
        coded = number
        if self.decimal_digits and number is not None and number >= 0:
            coded = int(str(number), 16)
        # The number itself stays out of the message: messages end up in logs.
        if coded is None or not positions or not 0 <= coded < 1 << len(positions):
            raise ValueError(
                f"{self.name} has {len(positions)} bits of {label}: the number given does not fit"
            )
        return self._mask(
            tuple(position for place, position in enumerate(reversed(positions)) if coded >> place & 1)
        )

    def _decimal(self, value: int) -> int | None:
        coded = _reader(self.card_number, self.bits)(value)
        digits = f"{coded:0{len(self.card_number) // _DIGIT_BITS}X}"
        return int(digits) if digits.isdecimal() else None

    def _bits_of(self, settings: tuple[tuple[int, int], ...]) -> int:
        return self._mask(tuple(position for position, bit in settings if bit))

    def _mask(self, positions: Positions) -> int:
        return sum(1 << (self.bits - 1 - position) for position in positions)


def _reader(positions: Positions, bits: int) -> Callable[[int], int | None]:
    """What reads the number at some places of a word; in one step where they lie in a row, as most do."""
    if not positions:
        return lambda _: None
    shifts = tuple(bits - 1 - position for position in positions)
    last, ones = shifts[-1], (1 << len(positions)) - 1
    if shifts == tuple(range(last + len(positions) - 1, last - 1, -1)):
        return lambda value: value >> last & ones
    return lambda value: reduce(lambda number, shift: number << 1 | value >> shift & 1, shifts, 0)
