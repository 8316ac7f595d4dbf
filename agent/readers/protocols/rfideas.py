"""RF IDeas lines: a card's number in digits, with the prefix and suffix configured in the reader."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.em4100_id import HEX_DIGIT
from agent.readers.framing.line_framer import LONGEST_PIN_DIGITS, LineProtocol, Reading, after_noise
from agent.readers.protocol import Option, OptionError
from agent.readers.protocols.bits import LONGEST_WORD_BITS
from agent.swipe import CardCheck

# The prompt of the command protocol, sent at power-up and after noise that resembles a command; it
# has no line end, so that a card may follow on the same line.
_PROMPT = b"RF IDeas>"
_INFORMATION = re.compile(rb"\{.*\}|rfid:.*")
_UNDECLARED_BITS = 32
_LONGEST_NUMBER_DIGITS = 78  # of LONGEST_WORD_BITS in decimal
_UNCHECKED = CardCheck.NONE


class RfIdeas(LineProtocol):
    """RF IDeas pcProx and WAVE ID with serial output.

    After noise on its line a number is found by its prefix, if that has a character which no number
    has. Otherwise it is noise: the rest of a longer number is a valid shorter one. There is no
    checksum: an altered digit cannot be detected, a lost one only with `length`.
    """

    options: ClassVar[Mapping[str, Option]] = MappingProxyType(
        {
            "digits": Option("how the number is printed", "decimal", allowed=("decimal", "hex")),
            "bits": Option(
                "how many data bits the number has, 24 for a 26-bit card", 0, high=LONGEST_WORD_BITS
            ),
            "prefix": Option("text in front of the number"),
            "delimiter": Option("text between facility code and card number"),
            "facility_bits": Option(
                "with a delimiter: how many of the bits are facility code", 8, low=1, high=64
            ),
            "length": Option(
                "how many digits the number has, if the reader prints leading zeros: any other number of "
                "digits is noise; 0: any",
                0,
                high=_LONGEST_NUMBER_DIGITS,
            ),
            "suffix": Option("text after the number, before the line end"),
        }
    )

    def __init__(
        self,
        *,
        digits: str = "decimal",
        bits: int = 0,
        prefix: str = "",
        delimiter: str = "",
        facility_bits: int = 8,
        length: int = 0,
        suffix: str = "",
    ) -> None:
        """Raises OptionError for options that contradict each other."""
        super().__init__()
        if delimiter and bits <= facility_bits:
            raise OptionError({"bits": "must be more than facility_bits, for there is a delimiter"})
        self._base = 16 if digits == "hex" else 10
        self._bits, self._form = (
            (bits, CredentialKind.DATA) if bits else (_UNDECLARED_BITS, CredentialKind.ID)
        )
        self._longest_pin_digits = 0 if bits else LONGEST_PIN_DIGITS
        self._facility_bits = facility_bits if delimiter else 0
        self._number_bits = self._bits - self._facility_bits
        digit = b"[0-9A-Fa-f]" if digits == "hex" else b"[0-9]"
        number = b"(%s{%d})" % (digit, length) if length else b"(%s+)" % digit
        facility = b"(%s+)" % digit + re.escape(delimiter.encode()) if delimiter else rb"()"
        rest = facility + number + re.escape(suffix.encode())
        start = re.escape(prefix.encode())
        self._line = re.compile(start + rest)
        # After the first prefix only: a later one may be a damaged digit.
        marks = not frozenset(prefix.encode()) <= frozenset(HEX_DIGIT + delimiter.encode())
        self._line_after_noise = re.compile(b"((?:(?!%s).)*)%s" % (start, start + rest)) if marks else None

    def read(self, text: bytes, *, cut: bool) -> Reading:
        """The number of a line in its declared width, padded or not."""
        found = self._line.fullmatch(text)
        if found and not cut:
            return self._number(*found.groups())
        noise, prompt, rest = text.rpartition(_PROMPT)
        if prompt:
            return after_noise(noise, self.read(rest, cut=False) if rest else ())
        if _INFORMATION.fullmatch(text):
            return ()
        if self._line_after_noise and (found := self._line_after_noise.fullmatch(text)):
            noise, *numbers = found.groups()
            return after_noise(noise, self._number(*numbers))
        return NoiseReason.SYNTAX

    def _number(self, facility: bytes, number: bytes) -> Reading:
        value = int(number, self._base)
        if value >> self._number_bits:
            return NoiseReason.LENGTH
        if facility:
            code = int(facility, self._base)
            if code >> self._facility_bits:
                return NoiseReason.LENGTH
            value |= code << self._number_bits
        # A short number of undeclared width may be a PIN.
        maybe_pin = len(number) <= self._longest_pin_digits and number.isdigit()
        return (RawCredential(self._bits, value, _UNCHECKED, self._form, maybe_pin),)

    def read_unfinished(self, text: bytes, *, cut: bool) -> Reading:  # noqa: ARG002 - the prompt needs no beginning
        """Nothing for the prompt, which has no line end."""
        return () if text == _PROMPT else NoiseReason.TRUNCATED
