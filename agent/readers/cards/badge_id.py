"""The badge id of a card: a reader's template filled with the card's fields, and the check of a template."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter

from agent.errors import quoted
from agent.swipe import LONGEST_NAME, CardCheck, CardRead

# A 26-bit card, to try templates on.
_SAMPLE_CARD = CardRead(26, "2F657AE", CardCheck.PARITY, "H10301", 123, 11_223, issue=0)
_DISTINGUISHING = frozenset({"raw", "decimal", "card_number"})


# A precision or a type such as g drops digits; c fails for large numbers; a fill other than 0 or an alignment
# to the left makes 1 and 10 one text.
_NUMBER_SPEC = re.compile(r"0?[1-9]?[0-9]?[dxXob]?")
_TEXT_SPEC = re.compile(r"(?:0?>)?(?:[1-9][0-9]?)?s?")


def badge_id(template: str, card: CardRead) -> str:
    """The badge id, 1 to LONGEST_NAME characters.

    If the card lacks a field of the template, or the result is too long for the column, it is the
    raw badge id, which every card has and no two cards share.
    """
    fields = {name: value for name, value in _fields(card).items() if value is not None}
    try:
        text = template.format_map(fields)
    except (LookupError, ValueError, AttributeError, TypeError):
        text = ""
    return text if 1 <= len(text) <= LONGEST_NAME else raw_badge_id(card.bits, card.raw)


def raw_badge_id(bits: int, raw: str) -> str:
    """The badge id of a card that no enabled format fits."""
    return f"{bits}:{raw}"


def badge_id_problem(template: str) -> str | None:
    """Why a template is invalid, as a sentence for the installer; None if it is valid."""
    problem = _template_problem(template)
    return problem and f"found {quoted(template)}: {problem}; fields: {', '.join(_fields(_SAMPLE_CARD))}"


def _fields(card: CardRead) -> Mapping[str, int | str | None]:
    """The fields that a template may name."""
    return {
        "bits": card.bits,
        "raw": card.raw,
        "decimal": int(card.raw, 16),
        "facility_code": card.facility_code,
        "card_number": card.card_number,
        "issue": card.issue,
    }


def _template_problem(template: str) -> str | None:
    sample = _fields(_SAMPLE_CARD)
    try:
        parsed = [part for part in Formatter().parse(template) if part[1] is not None]
        parts = [(str(name), spec or "", conversion) for _, name, spec, conversion in parsed]
        fields = {name for name, *_ in parts}
        unknown = sorted(fields - sample.keys())
        if unknown:
            return f"there is no field {{{unknown[0]}}}"
        if not fields & _DISTINGUISHING:
            return "without {card_number}, {raw} or {decimal} different cards would be one badge"
        for name, spec, conversion in parts:
            # Checked before rendering: a width of nine digits would take that much memory.
            is_text = conversion == "s" or isinstance(sample[name], str)
            if conversion in {"r", "a"} or not (_TEXT_SPEC if is_text else _NUMBER_SPEC).fullmatch(spec):
                return (
                    f"{{{name}:{spec}}} fails for some cards, or makes one badge of two: allowed are a "
                    "width of at most two digits, a 0 before it, and for numbers d, x, X, o or b after it"
                )
        text = template.format_map(sample)
    except (ValueError, OverflowError) as error:
        return f"not a template ({error})"
    if len(text) > LONGEST_NAME:
        return f"a badge_id has at most {LONGEST_NAME} characters, this makes {len(text)}"
    return None
