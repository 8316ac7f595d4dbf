"""Reads a TOML table key by key and collects problems, each with the path of its key."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from agent.errors import quoted, type_name

_LONGEST_TEXT = 255  # Snowflake's longest identifier

Choice = TypeVar("Choice")
Default = TypeVar("Default")


class Table:
    """One table of the document; a missing or empty ("") key gives the default.

    Every key that is read counts as known; report_unknown_keys() reports the others.
    """

    def __init__(self, values: Mapping[str, object], name: str, problems: list[str]) -> None:
        self._values = values
        self._name = name
        self._problems = problems
        self._known: set[str] = set()
        self._children: list[Table] = []

    def problem(self, key: str, text: str) -> None:
        """Add a problem with a key."""
        self._problems.append(f"{self._where(key)}: {text}")

    def require(self, *keys: str) -> None:
        """Report each of these keys that is not set."""
        for key in keys:
            if self._take(key) is None:
                self.problem(key, "missing; it has no default and must be set")

    def text(self, key: str, default: Default, *, longest: int = _LONGEST_TEXT) -> str | Default:
        """Printable text of at most `longest` characters."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, str) or len(value) > longest or not value.isprintable():
            what = "1" if isinstance(value, str) else 'text in "quotes", 1'
            self.problem(key, f"found {quoted(value)}; must be {what} to {longest} printable characters")
            return default
        return value

    def integer(self, key: str, default: Default, *, low: int, high: int) -> int | Default:
        """A whole number from `low` to `high`."""
        value = self._take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.problem(key, f"found {quoted(value)}; must be a whole number from {low} to {high}")
            return default
        return value

    def boolean(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.problem(key, f"found {quoted(value)}; must be true or false, without quotes")
            return default
        return value

    def number(self, key: str, default: float, *, low: float, high: float) -> float:
        """A finite number from `low` to `high`."""
        value = self._take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.problem(key, f"found {quoted(value)}; must be a number from {low:g} to {high:g}")
            return default
        return value

    def choice(self, key: str, default: Default, *, allowed: Collection[Choice]) -> Choice | Default:
        """One of the allowed words."""
        value = self._take(key)
        if value is None:
            return default
        for word in allowed:
            if word == value:
                return word
        self.problem(key, _not_allowed(value, [str(word) for word in allowed]))
        return default

    def words(self, key: str, default: tuple[str, ...], *, allowed: Collection[str]) -> tuple[str, ...]:
        """A list of allowed words without duplicates."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, list):
            self.problem(key, f'found {quoted(value)}; must be a list: ["...", "..."]')
            return default
        for index, word in enumerate(value):
            if not isinstance(word, str) or word not in allowed:
                self.problem(f"{key}[{index}]", _not_allowed(word, allowed))
            elif word in value[:index]:
                self.problem(f"{key}[{index}]", f"found {quoted(word)} twice; name it once")
        return tuple(word for word in value if isinstance(word, str))

    def path(self, key: str, default: Default, *, base: Path) -> Path | Default:
        """A file or directory; relative paths start at `base`.

        Problems never quote the value: a key or passphrase pasted here must not reach a log.
        """
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, str) or not value.isprintable():
            self.problem(key, f'found {type_name(value)} that cannot be one; must be a file name in "quotes"')
            return default
        return base / value

    def values(self) -> Mapping[str, object]:
        """Every key with its value, unchecked; a key set to "" counts as absent."""
        return {key: value for key in self._values if (value := self._take(key)) is not None}

    def table(self, key: str) -> Table:
        """The table of that name; an empty one where it is not set."""
        # Not _take(): "" is the default of a value, not of a table.
        self._known.add(key)
        value = self._values.get(key)
        if value is not None and not isinstance(value, dict):
            self.problem(key, f"found {type_name(value)}; must be a table headed [{self._where(key)}]")
        return self._child(key, value)

    def tables(self, key: str) -> list[Table]:
        """The array of tables of that name, at least one."""
        value = self._take(key)
        if not value:
            self.problem(key, f"missing; there must be at least one, headed [[{key}]]")
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.problem(
                key, f"found {type_name(value)}; each one must be headed [[{key}]], with two brackets"
            )
            return []
        return [self._child(f"{key}[{index}]", item) for index, item in enumerate(value)]

    def report_unknown_keys(self) -> None:
        """Report every key, here and in nested tables, that was not read."""
        for key in self._values:
            if key not in self._known:
                self.problem(key, f"unknown key{_meant(key, self._known)}; known: {_listed(self._known)}")
        for child in self._children:
            child.report_unknown_keys()

    def _take(self, key: str) -> object:
        self._known.add(key)
        value = self._values.get(key)
        return None if value == "" else value

    def _where(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key

    def _child(self, key: str, values: object) -> Table:
        child = Table(values if isinstance(values, dict) else {}, self._where(key), self._problems)
        self._children.append(child)
        return child


def _not_allowed(value: object, allowed: Collection[str]) -> str:
    meant = _meant(value, allowed) if isinstance(value, str) else ""
    return f"found {quoted(value)}{meant}; allowed: {_listed(allowed)}"


def _meant(word: str, known: Iterable[str]) -> str:
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[close[0]]}?)" if close else ""


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))
