"""Compiles a line template, as `FC = {fc}, CC = {cn}`, to a regular expression of bounded time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from agent.readers.framing.reader_name import NAME_CHARACTER

LONGEST_TEMPLATE = 200
# Each {skip} multiplies the places that a failing match tries by the length of the line.
SKIPS_MAX = 3

_HEX, _DECIMAL = "[0-9A-Fa-f]", "[0-9]"
# The characters of each field; a number may have the separators of the options within.
FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "raw": _HEX,
        "hex": _HEX,
        "hid": _HEX,
        "id": _HEX,
        "decimal": _DECIMAL,
        "fc": _DECIMAL,
        "cn": _DECIMAL,
        "bits": _DECIMAL,
        "binary": "[01]",
        "reader": NAME_CHARACTER,
    }
)
_SEPARATED = frozenset({"hex", "id", "decimal"})
_PREFIXED = frozenset({"hex", "id", "raw", "hid"})  # sketches print 0x in front of a number or of each byte
_FIELD = re.compile(r"\{([a-z_]+)(?::([1-9][0-9]?))?\}")
_BLANKS = re.compile(r"(?:\\ |\\t)+")  # as re.escape() writes them


def compile_template(template: str, separators: str = "") -> re.Pattern[bytes]:
    """A pattern whose groups are the fields. Raises ValueError with a sentence for the installer.

    A field matches one digit or more, `{hex:8}` exactly eight, `{skip}` any text. Blanks match any
    number of blanks.
    """
    if not template or len(template) > LONGEST_TEMPLATE:
        raise ValueError(f"must be a template of 1 to {LONGEST_TEMPLATE} characters")
    parts: list[str] = []
    end, last_field_end = 0, -1
    names: set[str] = set()
    for found in _FIELD.finditer(template):
        name, digits = found[1], found[2]
        if name != "skip" and name not in FIELDS:
            raise ValueError(f"has a field {{{name}}}; known are {', '.join(FIELDS)}, skip")
        if name in names:
            raise ValueError(f"has the field {{{name}}} twice")
        if found.start() == last_field_end and name != "skip":
            raise ValueError(f"has no text between {{{name}}} and the field before it")
        parts += [_literal(template[end : found.start()]), _group(name, digits, separators)]
        end = found.end()
        if name != "skip":
            names.add(name)
            last_field_end = -1 if digits else end  # exact digits end without a text after them
    if len([part for part in parts if part == _SKIP]) > SKIPS_MAX:
        raise ValueError(f"has more than {SKIPS_MAX} times {{skip}}")
    return re.compile("".join([*parts, _literal(template[end:])]).encode("ascii"), re.DOTALL)


_SKIP = ".*?"


def _group(name: str, digits: str | None, separators: str) -> str:
    if name == "skip":
        return _SKIP
    one = FIELDS[name]
    prefix = "(?:0[xX])?" if name in _PREFIXED else ""
    many = prefix + (f"{one}{{{digits}}}" if digits else f"{one}+")
    if separators and name in _SEPARATED:
        between = f"[{re.escape(separators)}]+"
        many = f"{many}(?:{between}{prefix}{one}+)*"
    return f"(?P<{name}>{many})"


def _literal(text: str) -> str:
    return _BLANKS.sub("[ \\\\t]+", re.escape(text))
