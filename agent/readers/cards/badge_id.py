"""What a card is called in the table: the reader's template filled with the card's fields."""

from __future__ import annotations

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
