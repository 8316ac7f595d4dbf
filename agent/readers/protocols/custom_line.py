"""Text lines of any reader, parsed with the installer's template or regular expression."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from agent.readers.events import NoiseReason, ReaderEvent
from agent.readers.framing.line_framer import LineProtocol, Reading
from agent.readers.framing.line_template import LONGEST_TEMPLATE, compile_template
from agent.readers.framing.printed_number import LONGEST_BITS, WORDS, NumberOptions, credential_of
from agent.readers.framing.safe_pattern import LONGEST_MATCHED_BYTES, LONGEST_PATTERN, pattern_problem
from agent.readers.protocol import Option, OptionError

_PATTERN_NUMBERS = ("raw", "hex", "decimal")
_SKIP = "{skip}"
# One group of several, as the last byte of `23,192,251,159,179`: different cards would be one.
_PART_OF_MORE = re.compile(rb".*[0-9A-Fa-f]([,:.-])[0-9A-Fa-f]+\1", re.DOTALL)
_ENDS: Mapping[str, bytes] = MappingProxyType({"etx": b"\x03", "#": b"#"})
_YES_NO = ("no", "yes")


class Line(LineProtocol):
    r"""Any other reader that prints lines: you give a template, or a pattern.

    A template is the whole line with fields: `FC = {fc}, CC = {cn}`, `Tag {hex:8}`. `{raw}` and
    `{binary}` are a card with its parity bits, `{hid}` the 44-bit word of HID readers, `{hex}`,
    `{decimal}`, `{fc}` and `{cn}` the numbers without them, `{id}` an identifier in hex for which no
    format is tried, `{bits}` the printed length, `{reader}` the name that `select` selects, `{skip}` any
    text. Several numbers in one line must be equal. The pattern is a regular expression with one of the
    groups `raw`, `hex`, `decimal`, and `bits`.

    The check of a card is "none" unless parity or `checksum` is valid: an altered digit, and a lost one
    of a decimal number or of `unpadded` digits, cannot be detected. `{decimal:10}` gives exact digits.
    """

    options: ClassVar[Mapping[str, Option]] = MappingProxyType(
        {
            "template": Option(
                "a card's whole line with {raw}, {hex}, {decimal}, {binary}, {id}, {hid}, {fc}, {cn}, "
                "{bits}, {reader}, {skip}",
                high=LONGEST_TEMPLATE,
            ),
            "pattern": Option(
                "or a regular expression of the whole line with the groups raw, hex or decimal, and bits",
                high=LONGEST_PATTERN,
            ),
            "bits": Option(
                "how many bits the number has if the line does not say: of a 26-bit card 24 without parity",
                0,
                high=LONGEST_BITS,
            ),
            "facility_bits": Option("with {fc}: how many of the bits; 0 as usual for the length", 0, high=64),
            "unpadded": Option("yes: leading zeros are not printed", "no", allowed=_YES_NO),
            "separators": Option("characters between the bytes of a number, as '-' in A6-DF-51-DE"),
            "checksum": Option(
                "xor: the last byte is the XOR of the others", "none", allowed=("none", "xor")
            ),
            "end": Option("what ends a line", "line", allowed=("line", *_ENDS, "silence")),
            "ignore": Option(
                "templates of other lines that are no noise, with | between them", high=LONGEST_TEMPLATE
            ),
            "select": Option("with {reader}: the reader whose lines are cards; others are ignored", high=40),
        }
    )

    def __init__(
        self,
        *,
        template: str = "",
        pattern: str = "",
        bits: int = 0,
        facility_bits: int = 0,
        unpadded: str = "no",
        separators: str = "",
        checksum: str = "none",
        end: str = "line",
        ignore: str = "",
        select: str = "",
    ) -> None:
        """Raises OptionError for a template or pattern that is invalid, not safe, or without a card."""
        super().__init__()
        if template and pattern:
            raise OptionError({"pattern": "is not possible with a template"})
        self._pattern = _of_template(template, separators) if template else _of_pattern(pattern)
        # Of the groups of a pattern; the fields of a template take nothing else.
        groups = () if template else tuple(self._pattern.groupindex)
        self._checks = [(name, _DIGITS_OF[name].fullmatch) for name in groups]
        self._ignored = tuple(_ignored(text, separators) for text in ignore.split("|") if text)
        if select and "reader" not in self._pattern.groupindex:
            raise OptionError({"select": "needs the field {reader} in the template"})
        self._select = select.encode()
        self._numbers = NumberOptions(bits, facility_bits, unpadded == "yes", checksum == "xor")
        # With alternatives `.*` would belong to the first one only.
        self._begins_anywhere = (
            template.startswith(_SKIP) if template else pattern.startswith(".*") and "|" not in pattern
        )
        self._end = end
        self._ends = bytes.maketrans(_ENDS.get(end, b""), b"\n" * len(_ENDS.get(end, b"")))

    def read(self, text: bytes, *, cut: bool) -> Reading:
        """The card of a line; one without its beginning is noise, even if it matches, unless the
        pattern begins with `.*`, the template with `{skip}`.
        """
        if self._ignored and any(ignored.fullmatch(text) for ignored in self._ignored):
            return ()
        if self._begins_anywhere:
            text = text[-LONGEST_MATCHED_BYTES:]
        elif cut:
            return NoiseReason.SYNTAX
        if len(text) > LONGEST_MATCHED_BYTES:
            return NoiseReason.OVERSIZED
        found = self._pattern.fullmatch(text)
        if not found:
            return NoiseReason.SYNTAX
        fields = found.groupdict()
        if self._select and fields["reader"] != self._select:
            return ()
        if self._checks and not self._are_numbers(fields):
            return NoiseReason.SYNTAX
        if self._begins_anywhere and self._is_part_of_more(text, found):
            return NoiseReason.SYNTAX
        credential = credential_of(fields, self._numbers)
        return credential if isinstance(credential, NoiseReason) else (credential,)

    def read_unfinished(self, text: bytes, *, cut: bool) -> Reading:
        """A card if silence is what ends a line."""
        return self.read(text, cut=cut) if self._end == "silence" else NoiseReason.TRUNCATED

    def _parse(self, data: bytes) -> list[ReaderEvent]:
        return super()._parse(data.translate(self._ends))

    def _are_numbers(self, fields: Mapping[str, bytes | None]) -> bool:
        """False if a group of the installer's pattern took no characters, or other ones."""
        for name, is_number in self._checks:
            value = fields[name]
            if value is None or not is_number(value):
                return False
        return True

    def _is_part_of_more(self, text: bytes, found: re.Match[bytes]) -> bool:
        start = min(found.start(name) for name in _NUMBERS if name in found.groupdict())
        return bool(_PART_OF_MORE.fullmatch(text[:start]))


_NUMBERS = (*sorted(WORDS), "hex", "decimal", "id", "fc")
_SEPARABLE = rb"(?:0[xX])?[0-9A-Fa-f]+(?:[^0-9A-Za-z]+(?:0[xX])?[0-9A-Fa-f]+)*"
_DIGITS_OF = {
    "raw": re.compile(rb"(?:0[xX])?[0-9A-Fa-f]+"),
    "hex": re.compile(_SEPARABLE),
    "decimal": re.compile(rb"[0-9]+(?:[^0-9A-Za-z]+[0-9]+)*"),
    "bits": re.compile(rb"[0-9]+"),
}


def _of_template(template: str, separators: str) -> re.Pattern[bytes]:
    try:
        pattern = compile_template(template, separators)
    except ValueError as error:
        raise OptionError({"template": str(error)}) from None
    names = set(pattern.groupindex)
    if ("fc" in names) != ("cn" in names):
        raise OptionError({"template": "must have {fc} and {cn} together; a card number alone is {decimal}"})
    words = names & WORDS
    if not names & set(_NUMBERS) or len(words) > 1 or (words and names & {"hex", "decimal", "id", "fc"}):
        raise OptionError(
            {
                "template": "must have one of {raw}, {binary}, {hid}, or one or more of {hex}, {decimal}, "
                "{id}, {fc} with {cn}"
            }
        )
    return pattern


def _of_pattern(pattern: str) -> re.Pattern[bytes]:
    wrong = pattern_problem(pattern) or _groups_problem(pattern)
    if wrong:
        raise OptionError({"pattern": wrong})
    return re.compile(pattern.encode())


def _ignored(text: str, separators: str) -> re.Pattern[bytes]:
    try:
        return compile_template(text.strip(), separators)
    except ValueError as error:
        raise OptionError({"ignore": str(error)}) from None


def _groups_problem(pattern: str) -> str | None:
    groups = set(re.compile(pattern).groupindex)
    numbers = groups & set(_PATTERN_NUMBERS)
    unknown = sorted(groups - set(_PATTERN_NUMBERS) - {"bits"})
    if unknown:
        return f"has a group {unknown[0]}; known are {', '.join(_PATTERN_NUMBERS)} and bits"
    if len(numbers) != 1:
        return "must have exactly one of the groups (?P<raw>...), (?P<hex>...), (?P<decimal>...)"
    return None
