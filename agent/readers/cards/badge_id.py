"""What a card is called in the table: the reader's template filled with the card's fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from types import MappingProxyType

from agent.errors import quoted
from agent.swipe import CardRead

# The column BADGE_ID is VARCHAR(50) NOT NULL.
LONGEST_BADGE_ID = 50


def badge_id(template: str, card: CardRead) -> str:
    """The badge id, 1-50 characters.

    A template that needs a field the card does not have, or makes an id the column cannot
    hold, gives way to `{bits}:{raw}`, which every card has and which no two cards share.
    """
    fields = {
        "bits": card.bits,
        "raw": card.raw,
        "decimal": int(card.raw, 16),
        "facility_code": card.facility_code,
        "card_number": card.card_number,
        "issue": card.issue,
    }
    try:
        text = template.format_map({name: value for name, value in fields.items() if value is not None})
    except (LookupError, ValueError, AttributeError, TypeError):
        text = ""
    return text if 1 <= len(text) <= LONGEST_BADGE_ID else f"{card.bits}:{card.raw}"


# A 26-bit card, to try templates on.
_SAMPLE_CARD: Mapping[str, int | str] = MappingProxyType(
    {
        "bits": 26,
        "raw": "2F657AE",
        "decimal": 49_698_734,
        "facility_code": 123,
        "card_number": 11_223,
        "issue": 0,
    }
)


_TELLS_CARDS_APART = frozenset({"raw", "decimal", "card_number"})


def badge_id_problem(template: str) -> str | None:
    """A format template over the fields of a card."""
    wrong = _template_problem(template)
    return wrong and f"found {quoted(template)}: {wrong}; fields: {', '.join(_SAMPLE_CARD)}"


def _template_problem(template: str) -> str | None:
    try:
        parts = [(name, spec or "") for _, name, spec, _ in Formatter().parse(template) if name is not None]
        fields = {name for name, _ in parts}
        unknown = sorted(fields - _SAMPLE_CARD.keys())
        if unknown:
            return f"there is no field {{{unknown[0]}}}"
        if not fields & _TELLS_CARDS_APART:
            return "without {card_number}, {raw} or {decimal} different cards would be one badge"
        # Checked before rendering: a width of nine digits would take that much memory.
        if any("{" in spec or re.search(r"[1-9]\d\d", spec) for _, spec in parts):
            return "a width must be a number of at most two digits"
        badge_id = template.format_map(_SAMPLE_CARD)
    except (ValueError, OverflowError) as error:
        return f"not a template ({error})"
    if len(badge_id) > LONGEST_BADGE_ID:
        return f"a badge_id has at most {LONGEST_BADGE_ID} characters, this makes {len(badge_id)}"
    return None
