"""The layout of a card format: the positions of its numbers and parity bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Literal

Positions = tuple[int, ...]
"""Bit positions, 0 the first bit received; those of a field, most significant first."""

_DIGIT_BITS = 4


@dataclass(frozen=True)
class Parity:
    """The bit at `position` makes the number of ones in itself and in `covers` even, or odd."""

    position: int
    kind: Literal["even", "odd"]
    covers: Positions


Fields = tuple[int | None, int | None, int | None, int | None]
"""Facility code, card number, issue and OEM code."""


@dataclass(frozen=True)
class CardFormat:
    """The layout of one card format; `parities` in the order in which they are computed.

    `fixed` bits must have these values; `preset` bits are written so and not checked. `contested`
    says why the sources of a layout disagree: such a format is never enabled by default.
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
        """The bits without the parity bits at both ends; None if there are others."""
        positions = {parity.position for parity in self.parities}
        if not positions:
            return self.bits
        return self.bits - 2 if positions == {0, self.bits - 1} else None

    def holds(self, value: int) -> bool:
        """True if parities, fixed bits and decimal digits are valid in a value of the format's length."""
        for mask, odd in self._parity_masks:
            if (value & mask).bit_count() & 1 != odd:
                return False
        return self.holds_without_parity(value)

    def holds_without_parity(self, value: int) -> bool:
        """The same without the parities, for a value with zeros in their places."""
        if self.fixed:
            mask, wanted = self._fixed_mask
            if value & mask != wanted:
                return False
        return not self.decimal_digits or self._decimal(value) is not None

    @cached_property
    def read(self) -> Callable[[int], Fields]:
        """A function of a value: its fields, None for those that the format does not have."""
        facility_code, card_number, issue, oem = self._readers
        if self.issue or self.oem:
            return lambda value: (facility_code(value), card_number(value), issue(value), oem(value))
        return lambda value: (facility_code(value), card_number(value), None, None)

    def write(self, numbers: Sequence[int | None]) -> int:
        """The value with these numbers, in the order of read(). Raises ValueError if one does not fit."""
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
        """For each parity the mask of its bits, and the required number of ones modulo 2."""
        return tuple((self._mask((p.position, *p.covers)), int(p.kind == "odd")) for p in self.parities)

    @cached_property
    def _fixed_mask(self) -> tuple[int, int]:
        return self._mask(tuple(position for position, _ in self.fixed)), self._bits_of(self.fixed)

    @cached_property
    def _readers(self) -> tuple[Callable[[int], int | None], ...]:
        facility_code, card_number, issue, oem = (_reader(places, self.bits) for _, places in self.fields)
        return facility_code, self._decimal if self.decimal_digits else card_number, issue, oem

    def _spread(self, label: str, positions: Positions, number: int | None) -> int:
        """The bits of a number at its positions."""
        if not positions and number is None:
            return 0
        coded = number
        if self.decimal_digits and number is not None and number >= 0:
            coded = int(str(number), 16)
        # Without the number itself: messages are logged.
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
    """A function that reads the number at these positions, in one step if they are contiguous."""
    if not positions:
        return lambda _: None
    shifts = tuple(bits - 1 - position for position in positions)
    last, ones = shifts[-1], (1 << len(positions)) - 1
    if shifts == tuple(range(last + len(positions) - 1, last - 1, -1)):
        return lambda value: value >> last & ones
    return lambda value: reduce(lambda number, shift: number << 1 | value >> shift & 1, shifts, 0)
