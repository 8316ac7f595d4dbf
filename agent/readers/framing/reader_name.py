"""The name of a reader in the lines of a board that has several: what the option `select` selects."""

from __future__ import annotations

import re

NAME_CHARACTER = "[A-Za-z0-9_.-]"


def names_reader(text: str, select: str) -> bool:
    """True if the name occurs in this text, not as a part of a longer one: Reader1 is not Reader11."""
    return bool(re.search(rf"(?<!{NAME_CHARACTER}){re.escape(select)}(?!{NAME_CHARACTER})", text))
