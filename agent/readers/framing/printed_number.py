"""Converts the numbers that a reader prints in a line to the bits of one card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import xor

from agent.readers.cards.formats import CARD_BITS
from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.hid_word import wiegand_bits
from agent.readers.framing.line_framer import LONGEST_PIN_DIGITS
from agent.swipe import CardCheck

# Bridges print the card's length on the data lines beside a number without the two parity bits.
_DATA_BITS_OF_CARD = {26: 24, 34: 32, 37: 35}
_FACILITY_BITS = {24: 8, 32: 16, 35: 16}  # of H10301, H10306, H10304
_BITS_26 = 24  # of a facility code and card number without a length
LONGEST_BITS = 256
_NUMBER_BITS = 32  # of a decimal number without a length
_LONG_NUMBER_BITS = 64  # of a longer one, as the 15 digits of an animal's transponder
_SHORTEST_IDENTIFIER_BITS = 32
_PREFIX = re.compile(rb"0x", re.IGNORECASE)
_X = (b"x", b"X")
_HIGHEST_BYTE = 0xFF

WORDS = frozenset({"raw", "binary", "hid"})
DATA = ("hex", "decimal", "id", "fc")


@dataclass(frozen=True, slots=True)
class NumberOptions:
    """The options of a line's numbers: `bits` and `facility_bits` 0 if the line or the digits give them."""

    bits: int = 0
    facility_bits: int = 0
    unpadded: bool = False
    xor_byte: bool = False  # the last byte is the XOR of the others


@dataclass(frozen=True, slots=True)
class _Number:
    value: int
    bits: int  # 0: not known from the digits
    padded: bool  # the digits are as many as the bits need, so that a lost one is detected
    is_bytes: bool = False  # printed byte by byte, as identifiers are


def credential_of(fields: Mapping[str, bytes], options: NumberOptions) -> RawCredential | NoiseReason:
    """The card of a line's fields. Several numbers must be equal, and then need no leading zeros."""
    count = int(fields.get("bits", b"0"))
    if count > LONGEST_BITS or ("bits" in fields and not count):
        return NoiseReason.LENGTH
    word = next(iter(WORDS.intersection(fields)), None)
    if word:
        return _word(word, fields[word], count or options.bits, options)
    data_bits = _DATA_BITS_OF_CARD.get(count, count) or options.bits
    numbers = [_number(name, fields, data_bits, options) for name in DATA if name in fields]
    wrong = next((number for number in numbers if isinstance(number, NoiseReason)), None)
    if wrong is not None:
        return wrong
    return _agreed([number for number in numbers if isinstance(number, _Number)], data_bits, fields, options)


def _word(name: str, digits: bytes, bits: int, options: NumberOptions) -> RawCredential | NoiseReason:
    """A whole Wiegand word, with its parity bits."""
    if digits[1:2] in _X:
        digits = digits[2:]
    if name == "hid":
        found = wiegand_bits(int(digits, 16))
        return RawCredential(*found) if found else NoiseReason.LENGTH
    base, width = (2, 1) if name == "binary" else (16, 4)
    missing = (bits + width - 1) // width - len(digits) if bits else 0
    value = int(digits, base)
    if not bits and name == "raw" and len(digits) % 2:
        return NoiseReason.LENGTH  # no card fills an odd number of hex digits: its length must be given
    bits = bits or width * len(digits)
    if bits > LONGEST_BITS or value >> bits or missing < 0 or (missing and not options.unpadded):
        return NoiseReason.LENGTH
    return RawCredential(bits, value, unpadded=True) if missing else RawCredential(bits, value)


def _number(
    name: str, fields: Mapping[str, bytes], data_bits: int, options: NumberOptions
) -> _Number | NoiseReason:
    text = fields[name]
    if name == "fc":
        return _facility_and_number(int(text), int(fields["cn"]), data_bits or _BITS_26, options)
    if b"x" in text or b"X" in text:
        text = _PREFIX.sub(b"", text)
    groups = re.findall(rb"[0-9A-Fa-f]+", text)
    if len(groups) > 1:
        return _bytes(groups, 10 if name == "decimal" else 16, options)
    if name == "decimal":
        return _Number(int(text), 0, padded=True)
    if options.xor_byte and len(text) % 2 == 0:
        return _checked(bytes.fromhex(text.decode("ascii")))
    missing = (data_bits + 3) // 4 - len(text) if data_bits and name == "hex" else len(text) % 2
    if missing < 0:
        return NoiseReason.LENGTH
    return _Number(int(text, 16), 4 * (len(text) + missing), padded=not missing)


def _facility_and_number(
    facility: int, number: int, data_bits: int, options: NumberOptions
) -> _Number | NoiseReason:
    facility_bits = options.facility_bits or _FACILITY_BITS.get(data_bits, 0)
    number_bits = data_bits - facility_bits
    if not facility_bits or number_bits <= 0 or facility >> facility_bits or number >> number_bits:
        return NoiseReason.LENGTH
    return _Number(facility << number_bits | number, data_bits, padded=True)


def _bytes(groups: list[bytes], base: int, options: NumberOptions) -> _Number | NoiseReason:
    """A number of separate bytes: `04 29 2E 5A`, `23,192,251`, or of words of two: `E280-1160`."""
    if base == 16 and all(len(group) == len("FFFF") for group in groups):  # noqa: PLR2004 - hex
        groups = [half for group in groups for half in (group[:2], group[2:])]
    values = [int(group, base) for group in groups]
    if max(values) > _HIGHEST_BYTE or any(len(group) > len("255") for group in groups):
        return NoiseReason.LENGTH
    padded = base == 10 or all(len(group) == len("FF") for group in groups)  # noqa: PLR2004 - decimal
    if options.xor_byte:
        return _checked(bytes(values))
    return _Number(int.from_bytes(bytes(values), "big"), 8 * len(values), padded=padded, is_bytes=True)


def _checked(data: bytes) -> _Number | NoiseReason:
    if len(data) < 2 or reduce(xor, data):  # noqa: PLR2004 - one byte and its XOR
        return NoiseReason.CHECKSUM
    return _Number(int.from_bytes(data[:-1], "big"), 8 * (len(data) - 1), padded=True, is_bytes=True)


def _agreed(
    numbers: list[_Number], data_bits: int, fields: Mapping[str, bytes], options: NumberOptions
) -> RawCredential | NoiseReason:
    value = numbers[0].value
    if any(number.value != value for number in numbers):
        return NoiseReason.CHECKSUM
    padded = len(numbers) > 1 or all(number.padded for number in numbers)
    if not (padded or options.unpadded):
        return NoiseReason.LENGTH
    bits = data_bits or max(number.bits for number in numbers)
    # A short number of undeclared width may be a PIN, which has at most this many digits.
    maybe_pin = not bits and len(fields["decimal"]) <= LONGEST_PIN_DIGITS
    form = CredentialKind.DATA
    if not bits and not value >> _NUMBER_BITS:
        bits, form = _NUMBER_BITS, CredentialKind.ID
    elif _is_identifier(bits, numbers, fields, is_declared=bool(data_bits)):
        bits, form = bits or _LONG_NUMBER_BITS, CredentialKind.IDENTIFIER
    if bits > LONGEST_BITS or value >> bits:
        return NoiseReason.LENGTH
    check = CardCheck.CHECKSUM if options.xor_byte else CardCheck.NONE
    return RawCredential(bits, value, check, form, maybe_pin, unpadded=not padded)


def _is_identifier(
    bits: int, numbers: list[_Number], fields: Mapping[str, bytes], *, is_declared: bool
) -> bool:
    """True for a number that is no card of a Wiegand format: longer, of bytes, or declared so."""
    if "id" in fields or not bits:
        return True
    if any(number.is_bytes for number in numbers) and not is_declared:
        return True
    return (bits >= _SHORTEST_IDENTIFIER_BITS and not {bits, bits + 2} & CARD_BITS) or (
        "fc" in fields and bits not in _FACILITY_BITS
    )
