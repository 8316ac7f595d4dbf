"""Snowflake Scripting, as far as the scripts use it: taken apart, and run on another engine.

Known: DECLARE of exceptions and integers, SELECT ... INTO, IF ... THEN ... END IF, RAISE, RETURN,
EXCEPTION WHEN OTHER, and any statement of the engine itself, with `:name` for variables and arguments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sqlglot
from sqlglot import TokenType

_BODY = re.compile(r"\$\$(?P<body>.*)\$\$", re.DOTALL)
_BEGIN = re.compile(
    r"\s*(?P<word>DECLARE\b|BEGIN\b(?!\s+TRANSACTION)|IF \((?P<condition>[^()]*)\) THEN|EXCEPTION\b(?!\s*\()"
    r"|WHEN OTHER THEN)\s*"
)
_DECLARED = re.compile(
    r"(?P<name>\w+) (?:INTEGER|EXCEPTION \((?P<number>-\d+),\s*(?P<text>'.*')\))", re.DOTALL
)
_INTO = re.compile(r"\s+INTO (?P<names>:\w+(?:, :\w+)*)\s")
_VARIABLE = re.compile(r"(?<![:\w]):(?P<name>[a-z_]+)")


class RaisedError(Exception):
    """An exception that a block declares; the text is its message."""


def steps(statement: str) -> Iterator[tuple[str, str]]:
    """The steps of a block: a word of the language (or an empty one), and the text after it."""
    found = _BODY.search(statement)
    assert found is not None, f"no block: {statement[:60]}"
    body, begin = found["body"], 0
    for token in sqlglot.tokenize(body, read="snowflake"):
        if token.token_type is not TokenType.SEMICOLON:
            continue
        text, begin = body[begin : token.start], token.end + 1
        while word := _BEGIN.match(text):
            text = text[word.end() :]
            name = word["word"].partition(" ")[0]
            yield (name, word["condition"] or "") if name == "IF" else (word["word"], "")
        yield "", text.strip()
    assert not body[begin:].strip(), "a block ends with a semicolon"


def inner_statements(statement: str) -> list[str]:
    """The SQL statements of a block, with variables as NULL and without INTO."""
    return [
        _VARIABLE.sub("NULL", _INTO.sub(" ", text))
        for word, text in steps(statement)
        if not word and re.match(r"(SELECT|INSERT|DELETE|UPDATE|ALTER)\b", text)
    ]


def run(statement: str, execute: Callable[[str], Any], arguments: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401, C901 - of any type; one branch per construct
    """Run a block, or a procedure's body; `execute` returns the first row. Returns the value of RETURN."""
    values = dict(arguments or {})
    exceptions: dict[str, str] = {}
    skipping = False
    for word, text in steps(statement):
        if word == "IF":
            skipping = not execute(f"SELECT {_with_values(text, values, prefix='')}")[0]
        elif word == "EXCEPTION":
            return None
        elif text == "END IF":
            skipping = False
        elif word or skipping:
            continue
        elif (declared := _DECLARED.fullmatch(text)) is not None:
            values[declared["name"]] = None
            exceptions[declared["name"]] = (declared["text"] or "").strip("'")
        elif text.startswith("RAISE "):
            raise RaisedError(exceptions[text.removeprefix("RAISE ")])
        elif text.startswith("RETURN "):
            return execute(f"SELECT {_with_values(text.removeprefix('RETURN '), values, prefix='')}")[0]
        elif (into := _INTO.search(text)) is not None:
            row = execute(_with_values(_INTO.sub(" ", text), values))
            values |= dict(zip(into["names"].replace(":", "").split(", "), row, strict=True))
        elif text != "END":
            execute(_with_values(text, values))
    return None


def _with_values(text: str, values: Mapping[str, object], *, prefix: str = ":") -> str:
    """The text with the value of each variable in its place, outside of quotes."""
    pieces = re.split(r"('(?:[^']|'')*')", text)
    for name, value in values.items():
        pattern = rf"(?<![:\w]){prefix}{name}\b"
        pieces[::2] = [
            re.sub(pattern, lambda _, value=value: _literal(value), piece) for piece in pieces[::2]
        ]
    return "".join(pieces)


def _literal(value: object) -> str:
    if value is None or isinstance(value, int):
        return "NULL" if value is None else str(value)
    return "'" + str(value).replace("'", "''") + "'"
