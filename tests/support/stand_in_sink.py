"""Takes the swipes of a reader in place of the queue in front of the outbox."""

from __future__ import annotations

from collections.abc import Callable

from agent.swipe import Swipe


def _nothing(_: Swipe) -> None:
    """Take it without a word."""


class MemorySink:
    """Keeps every swipe; `on_put` is called after each, in the reader's thread."""

    def __init__(self) -> None:
        self.kept: list[Swipe] = []
        self.refused: list[Swipe] = []
        self.flooding: set[str] = set()
        self.on_put: Callable[[Swipe], None] = _nothing

    def put(self, swipe: Swipe) -> None:
        self.kept.append(swipe)
        self.on_put(swipe)

    def set_flooding(self, reader_id: str, *, flooding: bool) -> None:
        (self.flooding.add if flooding else self.flooding.discard)(reader_id)

    def take_refused(self, _reader_id: str) -> list[Swipe]:
        refused, self.refused = self.refused, []
        return refused
