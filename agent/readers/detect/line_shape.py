"""The shape of text that no protocol knows, its template, and the line settings that its bytes show."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import xor
from typing import Literal

_FEWEST_BYTES = 12
_CLEAN_SHARE = 0.98
_LONGEST_SHAPE = 80
_LINE_END = re.compile(rb"[\r\n\x00\x02\x03]+")
# A number: bytes with a separator, hex with a digit in it, or decimal digits.
_NUMBER = re.compile(
    r"(?P<bytes>(?<![0-9A-Za-z])[0-9A-Fa-f]{1,3}(?P<separator>[ ,:.-])[0-9A-Fa-f]{1,3}"
    r"(?:(?P=separator)[0-9A-Fa-f]{1,3})+(?![0-9A-Za-z]))"
    r"|(?P<hex>(?<![0-9A-WYZa-wyz])(?=[A-Fa-f]*[0-9])[0-9A-Fa-f]{4,}(?![0-9A-Za-z]))"
    r"|(?P<decimal>[0-9]+)"
)
_FACILITY = re.compile(r"(?:\bfc|facility(?: code)?)[^0-9A-Za-z]*$", re.IGNORECASE)
_CARD = re.compile(r"(?:\bcc|\bcn|\bcard(?: number)?)[^0-9A-Za-z]*$", re.IGNORECASE)
_CHECKSUM_BYTES_MIN = 5  # of an identifier and its checksum

SevenBits = Literal["even", "odd"]


def text_lines(data: bytes) -> list[str]:
    """The lines of clean text, empty if the bytes are no text: another line speed, or binary frames."""
    lines = [line.strip() for line in _LINE_END.split(data) if line.strip()]
    text = b"".join(lines)
    printable = sum(0x20 <= byte < 0x7F for byte in text)  # noqa: PLR2004 - printable ASCII
    if len(text) < _FEWEST_BYTES or printable < _CLEAN_SHARE * len(text):
        return []
    return [line.decode("ascii", "replace") for line in lines]


def shape_of(lines: Sequence[str]) -> str:
    """The most frequent form of the lines with a number, with every digit as 0 and every letter as A."""
    return _masked(_example_of(lines))


def template_of(lines: Sequence[str]) -> tuple[str, str]:
    """A template for lines of the most frequent form, and the separators of its bytes.

    The longest number is the card, other numbers are skipped. A template is empty without a number.
    """
    line = _example_of(lines)
    numbers = list(_NUMBER.finditer(line))
    if not numbers:
        return "", ""
    card = max(numbers, key=lambda found: len(found[0]))
    named = {found: name for found in numbers if (name := _name_of(line[: found.start()]))}
    fields = named if sorted(named.values()) == ["{cn}", "{fc}"] else {card: _field(card)}
    parts, end, skips = [], 0, 0
    for found in numbers:
        skips += found not in fields
        parts += [line[end : found.start()], fields.get(found, "{skip}")]
        end = found.end()
    template = "".join([*parts, line[end:]])
    if skips > 3 or "|" in template or '"' in template:  # noqa: PLR2004 - what a template may have
        template = (
            "{skip}"
            + line[card.start() - 1 : card.start()]
            + _field(card)
            + ("{skip}" if line[card.end() :] else "")
        )
    return template, card["separator"] or ""


def seven_bit_parity(data: bytes) -> SevenBits | None:
    """The parity if every byte is seven bits of text with a parity bit, as 7E1 is received at 8N1."""
    if len(data) < _FEWEST_BYTES or all(byte < 0x80 for byte in data):  # noqa: PLR2004 - the eighth bit
        return None
    sums = {byte.bit_count() % 2 for byte in data}
    if len(sums) > 1 or not text_lines(bytes(byte & 0x7F for byte in data)):
        return None
    return "odd" if sums.pop() else "even"


def ends_in_checksum(lines: Iterable[str]) -> bool:
    """True if the last byte of every line of hex is the XOR, the sum or the negated sum of the others."""
    frames = [bytes.fromhex(line) for line in lines if re.fullmatch("(?:[0-9A-Fa-f]{2})+", line)]
    return bool(frames) and all(
        len(frame) >= _CHECKSUM_BYTES_MIN
        and frame[-1] in (reduce(xor, frame[:-1]), sum(frame[:-1]) & 0xFF, -sum(frame[:-1]) & 0xFF)
        for frame in frames
    )


def _example_of(lines: Sequence[str]) -> str:
    """A line of the most frequent form; of equally frequent ones that with the longest number."""
    frequency = Counter(map(_masked, lines))

    def likelihood(line: str) -> tuple[bool, int, int]:
        longest = max((len(found[0]) for found in _NUMBER.finditer(line)), default=0)
        return longest > 0, frequency[_masked(line)], longest

    return max(lines, key=likelihood)


def _name_of(text_before: str) -> str | None:
    """The field that the word in front of a number names."""
    if _FACILITY.search(text_before):
        return "{fc}"
    return "{cn}" if _CARD.search(text_before) else None


def _masked(line: str) -> str:
    return re.sub("[A-Za-z]", "A", re.sub("[0-9]", "0", line))[:_LONGEST_SHAPE]


def _field(found: re.Match[str]) -> str:
    if found["decimal"] or (found["hex"] or "").isdecimal():
        return "{decimal}"
    if found["hex"]:
        return "{hex}"
    return "{decimal}" if found["separator"] == "," else "{id}"
