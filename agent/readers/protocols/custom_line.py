"""Text lines of any reader, parsed with the installer's regular expression."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.line_framer import LONGEST_PIN_DIGITS, LineProtocol, Reading
from agent.readers.framing.safe_pattern import LONGEST_MATCHED_BYTES, LONGEST_PATTERN, pattern_problem
from agent.readers.protocol import Option, OptionError
from agent.readers.protocols.bits import LONGEST_WORD_BITS
from agent.swipe import CardCheck

_NUMBERS = {"raw": 16, "hex": 16, "decimal": 10}
_DIGITS = {16: re.compile(rb"[0-9A-Fa-f]+"), 10: re.compile(rb"[0-9]+")}
_DECIMAL_BITS = 32  # unless the line has them


class Line(LineProtocol):
    r"""Any other reader that prints lines: you give the pattern.

    The pattern must match the whole line. Its group `raw` is a card in hex with its parity bits,
    `hex` or `decimal` the data bits without them; `bits` is the number of these bits:
    `CARD (?P<bits>\d+) (?P<raw>[0-9A-F]+)`. Without `bits` a hex digit counts as four bits, and a
    decimal number is the tag's own number, for which no format is tried. A pattern that begins with
    `.*` matches after noise too.
    """

    options: ClassVar[Mapping[str, Option]] = MappingProxyType(
        {
            "pattern": Option(
                "regular expression of a card's whole line, with the groups raw, hex or decimal, and bits",
                high=LONGEST_PATTERN,
            )
        }
    )

    def __init__(self, *, pattern: str = "") -> None:
        """Raises OptionError for a pattern that is invalid, not safe, or without a card's group."""
        super().__init__()
        wrong = pattern_problem(pattern) or _groups_problem(pattern)
        if wrong:
            raise OptionError({"pattern": wrong})
        self._pattern = re.compile(pattern.encode())
        self._number = next(name for name in _NUMBERS if name in self._pattern.groupindex)
        self._has_bits = "bits" in self._pattern.groupindex
        # With alternatives `.*` would belong to the first one only.
        self._begins_anywhere = pattern.startswith(".*") and "|" not in pattern

    def read(self, text: bytes, *, cut: bool) -> Reading:
        """The card of a line; one without its beginning is noise, even if it matches, unless the
        pattern begins with `.*`.
        """
        if self._begins_anywhere:
            text = text[-LONGEST_MATCHED_BYTES:]
        elif cut:
            return NoiseReason.SYNTAX
        if len(text) > LONGEST_MATCHED_BYTES:
            return NoiseReason.OVERSIZED
        found = self._pattern.fullmatch(text)
        if not found:
            return NoiseReason.SYNTAX
        base, digits = _NUMBERS[self._number], found[self._number] or b""
        count = (found["bits"] or b"") if self._has_bits else b"0"
        if not _DIGITS[base].fullmatch(digits) or not _DIGITS[10].fullmatch(count):
            return NoiseReason.SYNTAX
        bits = int(count) or (_DECIMAL_BITS if self._number == "decimal" else 4 * len(digits))
        value = int(digits, base)
        if bits > LONGEST_WORD_BITS or value >> bits or (self._has_bits and not int(count)):
            return NoiseReason.LENGTH
        form = self._form()
        # A short number of undeclared width may be a PIN, which has at most this many digits.
        maybe_pin = form is CredentialKind.ID and len(digits) <= LONGEST_PIN_DIGITS
        return (RawCredential(bits, value, CardCheck.NONE, form, maybe_pin),)

    def _form(self) -> CredentialKind:
        if self._number == "raw":
            return CredentialKind.WIEGAND
        return CredentialKind.ID if self._number == "decimal" and not self._has_bits else CredentialKind.DATA


def _groups_problem(pattern: str) -> str | None:
    groups = set(re.compile(pattern).groupindex)
    numbers = groups & set(_NUMBERS)
    unknown = sorted(groups - set(_NUMBERS) - {"bits"})
    if unknown:
        return f"has a group {unknown[0]}; known are {', '.join(_NUMBERS)} and bits"
    if len(numbers) != 1:
        return "must have exactly one of the groups (?P<raw>...), (?P<hex>...), (?P<decimal>...)"
    return None
