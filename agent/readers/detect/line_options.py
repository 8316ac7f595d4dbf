"""Options of the protocol `line` for text that no protocol knows; each suggestion has read the text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import NamedTuple

from agent.readers.cards.decoder import Decoder
from agent.readers.events import RawCredential
from agent.readers.framing.line_template import LONGEST_TEMPLATE, SKIPS_MAX
from agent.readers.framing.safe_pattern import LONGEST_MATCHED_BYTES
from agent.readers.protocol import OptionError
from agent.readers.protocols.custom_line import Line
from agent.settings import DEFAULT_FORMATS
from agent.swipe import CardCheck, CardRead

LineOptions = Mapping[str, str | int]

# A time or date, bytes with a separator, hex with a digit in it, or decimal digits.
_NUMBER = re.compile(
    r"(?P<time>(?<![0-9.])(?:(?:\d{4}-\d\d-\d\d[T ]?)?\d\d?:\d\d:\d\d(?:[.,]\d+)?|\d{4}-\d\d-\d\d"
    r"|\d+\.\d{1,6})(?![0-9A-Za-z:.]))"
    r"|(?P<bytes>(?<![0-9A-Za-z])(?:0x)?[0-9A-Fa-f]{1,4}(?P<separator>[ ,:.-])(?:0x)?[0-9A-Fa-f]{1,4}"
    r"(?:(?P=separator)(?:0x)?[0-9A-Fa-f]{1,4})+(?![0-9A-Za-z]))"
    r"|(?P<short>0x[0-9A-Fa-f]{1,3}(?![0-9A-Za-z]))"
    r"|(?:0x)?(?P<hex>(?<![0-9A-WYZa-wyz])(?!FC\d{1,5}\b.*\bC[CN]\W{0,3}\d)(?=[A-Fa-f]*[0-9])[0-9A-Fa-f]{4,}"
    r"(?=0x|(?![0-9A-Za-z])))"
    r"|(?P<decimal>[0-9]+)"
)
_FACILITY = re.compile(r"(?:\bfac|\bfc|(?:facility|\bsite)(?:[ _]?code)?)[^0-9A-Za-z]*$", re.IGNORECASE)
_CARD = re.compile(r"(?:\bcc|\bcn|\bcard(?:[ _]?(?:number|code|no\.?))?)[^0-9A-Za-z]*$", re.IGNORECASE)
_BITS_BEFORE = re.compile(r"(?:\bbits?|\bsize|\blen(?:gth)?|\bW|\bwiegand)[^0-9A-Za-z]*$", re.IGNORECASE)
_BITS_AFTER = re.compile(r"[ -]?bits?\b", re.IGNORECASE)
_LIKE_AN_ID = re.compile(r"(?:uid|id|tag|card|hex|raw|epc|number|code)[^0-9A-Za-z]*$", re.IGNORECASE)
_HEX_WORD = re.compile(r"(?:hex|raw|epc|0x)[^0-9A-Za-z]*$", re.IGNORECASE)
_BINARY = re.compile(r"[01]{20,}")
_FDXB = {"bits": 48, "facility_bits": 10}  # ISO 11784: a country of three digits, a number of twelve
_FDXB_NUMBER = re.compile(r"(?<![0-9])[0-9]{3}([ .]?)[0-9]{12}(?![0-9])")
# A facility code and a card number without words, as on 26-bit cards.
_PAIR = re.compile(r"(?<![0-9])([0-9]{3})([ ,:/-])([0-9]{5})(?![0-9])")
_HIGHEST_FACILITY, _HIGHEST_NUMBER = 255, 65_535
_VALUE = re.compile(r"[:=\[(-] ?-?$")  # in front of a number that is the value of a name
_ADJACENT_MAX = 2
_FEWEST_LONG_DIGITS = 16  # of a number that no card has in decimal: an EPC in hex without A to F
_LITERAL_DIGITS_MAX = 2  # a longer number may be a part of the card's, and is not shown
_FEWEST_CARD_DIGITS = 3
_MOST_COUNT_DIGITS = 3
_FEWEST_LETTERS = 3  # of a line that is ignored for its text
_IGNORED_MAX = 8
_FORMS_MAX = 8  # that are tried; random text has a form for each line
# Digits of a whole word with its parity bits -> its length.
_WORD_BITS = {7: (26,), 9: (34, 35)}
_SHORT_DIGITS, _SHORT_BITS, _LONG_DIGITS, _LONG_BITS = 6, 24, 8, 32


@dataclass(frozen=True, slots=True)
class _Number:
    """A number in a line: where it is, and what may be said of it in a template."""

    start: int
    end: int
    digits: str
    field: str  # that of a template, or "time" or "short" for what is no card's
    separator: str = ""
    likely: bool = False  # after a word as "UID"


class Suggestion(NamedTuple):
    """Options with which all lines of one form are cards, empty if none were found, and such a line."""

    options: LineOptions
    example: str


def suggestion(lines: Sequence[str]) -> Suggestion:
    """Options for the likeliest form of these lines; `lines` is not empty."""
    forms: dict[str, list[str]] = {}
    for line in lines:
        if len(line) <= LONGEST_MATCHED_BYTES:  # a longer one is no card of the protocol
            forms.setdefault(form_of(line), []).append(line)
    if not forms:
        return Suggestion({}, lines[0])
    likeliest = sorted(forms, key=lambda form: _worth(forms[form]), reverse=True)[:_FORMS_MAX]
    for form in likeliest:
        for options in _candidates(forms[form]):
            if _reads(options, forms[form]):
                others = [line for line in lines if form_of(line) != form]
                return Suggestion(_with_ignored(options, others, forms[form]), forms[form][0])
    return Suggestion({}, forms[likeliest[0]][0])


def form_of(line: str) -> str:
    """The line with # for each number: equal for lines that differ in their numbers only."""
    return _NUMBER.sub("#", line)


def _numbers(line: str) -> list[_Number]:
    numbers: list[_Number] = []
    for found in _NUMBER.finditer(line):
        before, after = line[: found.start()], line[found.end() :]
        name = found.lastgroup or "hex"
        start = found.start("hex") if name == "hex" else found.start()
        digits = line[start : found.end()]
        numbers.append(
            _Number(
                start,
                found.end(),
                digits,
                _field(name, digits, before, after, found["separator"]),
                found["separator"] or "",
                likely=bool(_LIKE_AN_ID.search(before)),
            )
        )
    return numbers


def _field(name: str, digits: str, before: str, after: str, separator: str | None) -> str:
    if name in ("time", "short"):
        return name
    if separator:
        groups = digits.split(separator)
        # As printed in decimal: no leading zeros, and bytes of one or three digits.
        is_decimal = all(group.isdecimal() and str(int(group)) == group for group in groups)
        return "decimal" if is_decimal and (separator == "," or {len(g) for g in groups} != {2}) else "id"
    if digits.isdecimal() and _FACILITY.search(before):
        return "fc"
    if (
        digits.isdecimal()
        and len(digits) <= _MOST_COUNT_DIGITS
        and (_BITS_BEFORE.search(before) or _BITS_AFTER.match(after))
    ):
        return "bits"
    if _BINARY.fullmatch(digits):
        return "binary"
    if not digits.isdecimal() or _HEX_WORD.search(before) or len(digits) >= _FEWEST_LONG_DIGITS:
        return "hex"
    return "cn" if _CARD.search(before) else "decimal"


def _worth(lines: Sequence[str]) -> tuple[int, int, int, int]:
    """How likely lines of this form are those of a card."""
    numbers = _numbers(lines[0])
    fields = {number.field for number in numbers}
    longest = max((len(n.digits) for n in numbers if n.field not in ("time", "short", "bits")), default=0)
    return (
        longest >= _FEWEST_CARD_DIGITS,
        {"fc", "cn"} <= fields,
        len(lines),
        longest,
    )


def _candidates(lines: Sequence[str]) -> Iterator[LineOptions]:
    """Options for lines of one form, the most certain first: numbers that agree, then each one alone."""
    # The one that shows most: a number in hex may consist of decimal digits in the others.
    line = max(
        lines,
        key=lambda line: (
            sum(n.field == "hex" or (n.field == "id" and not n.digits.isdigit()) for n in _numbers(line)),
            max((len(n.digits) for n in _numbers(line)), default=0),
        ),
    )
    numbers = _numbers(line)
    counts = [number for number in numbers if number.field == "bits"][:1]
    pair = [number for number in numbers if number.field in ("fc", "cn")]
    cards = sorted(
        (n for n in numbers if n.field in ("hex", "decimal", "id", "binary", "cn")),
        key=lambda n: (n.field == "binary", n.likely, len(n.digits)),
        reverse=True,
    )
    if len({n.field for n in pair}) == len(pair) == 2:  # noqa: PLR2004 - both fields
        equal = [n for n in cards if n.field in ("hex", "decimal")]
        yield from _variants(line, [*pair, *counts, *_one_of_each(equal)])
        yield from _variants(line, [*pair, *counts])
        yield from _variants(line, pair)
    yield from _without_words(line)
    alone = [other for n in cards if len(n.digits) >= _FEWEST_CARD_DIGITS for other in _readings(n)]
    several = _one_of_each([n for n in alone if n.field in ("hex", "decimal", "id")])
    if len(several) > 1:
        yield from _variants(line, [*several, *counts])
    for number in alone:
        if counts:
            yield from _variants(line, [number, *counts])
        yield from _variants(line, [number])


def _readings(number: _Number) -> list[_Number]:
    """The fields that a number may be, alone: a card number without a facility code is the whole number."""
    if number.field == "cn":
        return [replace(number, field="decimal", likely=True)]
    if number.separator:
        return [number, replace(number, field="id" if number.field == "decimal" else "decimal")]
    return [number]


def _one_of_each(numbers: Sequence[_Number]) -> list[_Number]:
    by_field: dict[str, _Number] = {}
    for number in numbers:
        by_field.setdefault(number.field, number)
    return list(by_field.values())


def _without_words(line: str) -> Iterator[LineOptions]:
    """Two numbers whose digits say what they are: an animal's transponder, a 26-bit card as `061,04822`."""
    if found := _FDXB_NUMBER.search(line):
        fields = f"{{fc}}{found[1]}{{cn}}" if found[1] else "{fc:3}{cn:12}"
        yield {"template": _around(line, found, fields), **_FDXB}
    found = _PAIR.search(line)
    if found and int(found[1]) <= _HIGHEST_FACILITY and int(found[3]) <= _HIGHEST_NUMBER:
        yield {"template": _around(line, found, f"{{fc}}{found[2]}{{cn}}")}


def _around(line: str, found: re.Match[str], fields: str) -> str:
    return _template(line[: found.start()], {}) + fields + _template(line[found.end() :], {})


def _variants(line: str, chosen: Sequence[_Number]) -> Iterator[LineOptions]:
    """The template with these numbers as fields, and with the options that their digits may need."""
    if _leaves_a_part(line, chosen):
        return
    options: dict[str, str | int] = {"template": _template(line, {n: f"{{{n.field}}}" for n in chosen})}
    separator = next((number.separator for number in chosen if number.separator), "")
    if separator:
        options["separators"] = separator
        yield {**options, "checksum": "xor"}
    main = next((number for number in chosen if number.field == "hex"), None)
    if main and len(chosen) == 1:
        for bits in _WORD_BITS.get(len(main.digits), ()):
            yield {"template": _template(line, {main: "{raw}"}), "bits": bits}
    yield options
    if main is not None:
        bits = _SHORT_BITS if len(main.digits) <= _SHORT_DIGITS else _LONG_BITS
        yield {**options, "bits": bits, "unpadded": "yes"}
    yield {**options, "unpadded": "yes"}


def _leaves_a_part(line: str, chosen: Sequence[_Number]) -> bool:
    """True if a number beside a chosen one is left out: cards that differ in it would be one card."""
    starts = {number.start for number in chosen}
    numbers = _numbers(line)
    for one, other in pairwise(numbers):
        left_out = one if other.start in starts else other
        if (one.start in starts) == (other.start in starts) or left_out.field in ("time", "short", "bits"):
            continue
        if _is_text(line, left_out):
            continue
        between = line[one.end : other.start]
        if len(between) <= _ADJACENT_MAX and not any(map(str.isalpha, between)):
            return True
    return False


def _template(line: str, fields: Mapping[_Number, str]) -> str:
    """The line with these fields; other numbers, and text that may be a part of one, are skipped."""
    parts: list[str] = []
    end = 0
    for number in _numbers(line):
        field = next((text for n, text in fields.items() if n.start == number.start), None)
        parts.append(_literal(line[end : number.start]))
        parts.append(field or (number.digits if _is_text(line, number) else "{skip}"))
        end = number.end
    text = "".join([*parts, _literal(line[end:])])
    text = re.sub(r"(?:\{skip\})+", "{skip}", text)
    while text.count("{skip}") > SKIPS_MAX:
        text = _without_a_skip(text)
    return text


def _is_text(line: str, number: _Number) -> bool:
    """True for a number that belongs to the words around it, as in `44bit` or `door1`."""
    return len(number.digits) <= _LITERAL_DIGITS_MAX and not _VALUE.search(line[: number.start])


def _literal(text: str) -> str:
    """Text of a line, without what may be a part of a card's number."""
    return re.sub(r"[0-9A-Za-z]*[0-9][0-9A-Za-z]*", lambda found: _short_or_skip(found[0]), text)


def _short_or_skip(text: str) -> str:
    return text if sum(map(str.isdecimal, text)) <= _LITERAL_DIGITS_MAX else "{skip}"


def _without_a_skip(text: str) -> str:
    """With one skip less: the first two fields are joined if both are skips, else the last two."""
    fields = list(re.finditer(r"\{[a-z]+(?::\d+)?\}", text))
    if fields[0][0] == fields[1][0] == "{skip}":
        return "{skip}" + text[fields[1].end() :]
    return text[: fields[-2].start()] + "{skip}"


def _reads(options: LineOptions, lines: Sequence[str]) -> bool:
    """True if every line is a card with these options, and a whole word has the right parity."""
    if len(str(options["template"])) > LONGEST_TEMPLATE:
        return False
    try:
        protocol = Line(**options)  # type: ignore[arg-type] # the options of this module
    except OptionError:
        return False
    events = list(chain.from_iterable(protocol.receive_data(f"{line}\r\n".encode(), 0.0) for line in lines))
    cards = [Decoder(DEFAULT_FORMATS)(event) for event in events if isinstance(event, RawCredential)]
    if len(cards) < len(lines) or not all(isinstance(card, CardRead) for card in cards):
        return False
    is_word = "{raw}" in str(options["template"])
    return not is_word or all(isinstance(card, CardRead) and card.check is CardCheck.PARITY for card in cards)


def _with_ignored(options: LineOptions, others: Sequence[str], lines: Sequence[str]) -> LineOptions:
    """The same, with templates for the lines that have no card of their own, so that they are no noise."""
    found = Counter(filter(None, map(_ignored, others))).most_common(_IGNORED_MAX)
    ignore = "|".join(template for template, _ in found)
    if not ignore or len(ignore) > LONGEST_TEMPLATE:
        return options
    with_them = {**options, "ignore": ignore}
    return with_them if _reads(with_them, lines) else options


def _ignored(line: str) -> str:
    """A template for lines of this form; empty if it would match too much."""
    numbers = _numbers(line)
    text = _template(line, {})
    if "|" in text or '"' in text or sum(map(str.isalpha, text.replace("{skip}", ""))) < _FEWEST_LETTERS:
        return "{hex}" if len(numbers) == 1 and numbers[0].digits == line else ""
    return text
