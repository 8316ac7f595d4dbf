"""Checks that an installer's regular expression takes bounded time on any line of a reader."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_PATTERN = 200
# A failing match takes at most some 160**3 steps with these: tens of milliseconds, and that only
# on a line made for it.
LONGEST_MATCHED_BYTES = 160
OPEN_REPEATS_MAX = 2
ALTERNATIVES_MAX = 4

_TOKENS = re.compile(
    r"(?P<around>\((?:\?:|\?P<[A-Za-z_]\w*>|(?!\?))|\)|\^|\$)"
    r"|(?P<repeat>[*+?]\??|\{\d*,?\d*\}\??)"
    r"|(?P<either>\|)"
    r"|(?P<atom>\[\^?\]?(?:\\.|[^\]\\\[])*\]|\\x[0-9A-Fa-f]{2}|\\[dDsSwWtrn]|\\\W|[^\\\[\]^$(){}*+?|])"
)


@dataclass(slots=True)
class _Atom:
    """One character or class of the pattern: the bytes it matches, and whether their number varies."""

    takes: frozenset[int]
    varies: bool = False
    may_lack: bool = False


_Row = list[_Atom | None]
"""The atoms of a pattern in order; None where an alternative begins."""


def pattern_problem(pattern: str) -> str | None:
    """Why a pattern is invalid, as a sentence for the installer; None if it is valid.

    Only a subset with bounded matching time is allowed: characters, classes, groups and a few
    alternatives; repetition of a character or class, never of a group; and few repetitions whose
    end the next character does not determine.
    """
    if not pattern or len(pattern) > LONGEST_PATTERN:
        return f"must be a regular expression of 1 to {LONGEST_PATTERN} characters"
    row = _row(pattern)
    if isinstance(row, str):
        return row
    try:
        re.compile(pattern.encode("ascii"))
    except (re.error, UnicodeEncodeError, OverflowError) as error:
        return f"is no regular expression for ASCII text: {error}"
    if row.count(None) > ALTERNATIVES_MAX:
        return f"has more than {ALTERNATIVES_MAX} alternatives ( | )"
    if sum(_is_open(row[place:]) for place in range(len(row))) > OPEN_REPEATS_MAX:
        return (
            f"has more than {OPEN_REPEATS_MAX} repetitions that could end in more than one place; "
            "let each be followed by a character that it does not take itself"
        )
    return None


def _row(pattern: str) -> _Row | str:
    row: _Row = []
    repeatable: _Atom | None = None
    place = 0
    while place < len(pattern):
        token = _TOKENS.match(pattern, place)
        if token is None:
            return f"has something at character {place + 1} that is not allowed here, or not closed"
        if token.lastgroup == "atom":
            repeatable = _atom(token[0])
            row.append(repeatable)
        elif token.lastgroup == "repeat":
            if repeatable is None:
                return (
                    f"repeats a group at character {place + 1}; only a character or a class can be repeated"
                )
            repeatable.varies = not re.fullmatch(r"\{\d+\}\??", token[0])
            repeatable.may_lack = token[0].startswith(("*", "?", "{0", "{,"))
            repeatable = None
        else:
            repeatable = None
            if token.lastgroup == "either":
                row.append(None)
        place = token.end()
    return row


def _atom(text: str) -> _Atom:
    try:
        atom = re.compile(text.encode("ascii", "replace"))
    except re.error:
        return _Atom(frozenset())  # as [z-a]: the whole pattern does not compile either
    return _Atom(frozenset(byte for byte in range(256) if atom.fullmatch(bytes([byte]))))


def _is_open(row: Sequence[_Atom | None]) -> bool:
    """True if the first atom repeats, and the next mandatory one shares a character with it."""
    first, *following = row
    if first is None or not first.varies:
        return False
    for atom in following:
        if atom is None or atom.takes & first.takes:
            return True
        if not atom.may_lack:
            return False
    return False
