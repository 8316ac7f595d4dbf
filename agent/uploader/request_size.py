"""How large the next append may be: learned from outcomes; pure.

A refused, broken or timed-out append is repeated with half of its rows, down to one; with each success the
limit grows again. What the refusal of a single row means is decided in refused_rows.py.
"""

from __future__ import annotations

from agent.settings import UploaderSettings

MAX_ROWS = 20_000
# Several requests fit into one second's bytes, so that the byte rate can be used in full.
_BATCHES_PER_SECOND = 6
_MOST_BYTES = 4_000_000  # bounds the memory, whatever the size of the backlog
_LEAST_BYTES = 256  # less than any row: one row at a time
# A size that failed is tried again after so many requests of half of it, each time after twice as many.
_FIRST_PROBE, _LAST_PROBE = 8, 512
_BREAKS_ON_THE_WAY = 2  # so many in a row have another cause than chance
_TIMED_OUT_S = 30.0


class RequestSize:
    """The limit of one append, in uncompressed bytes; `wire_bytes` is the configured limit of its body."""

    def __init__(self, settings: UploaderSettings) -> None:
        self._most = min(settings.max_bytes_per_second // _BATCHES_PER_SECOND, _MOST_BYTES)
        self.plain_bytes = self._most
        self.wire_bytes = settings.max_request_bytes
        self._failed_bytes: int | None = None  # the smallest size that failed
        self._successes = 0  # at the present limit
        self._probe_after = _FIRST_PROBE
        self._breaks = 0

    def accepted(self, size: int) -> None:
        """An append of `size` bytes was accepted."""
        self._breaks = 0
        if self._failed_bytes is not None and size >= self._failed_bytes:
            self._failed_bytes, self._probe_after = None, _FIRST_PROBE
        if size * 2 < self.plain_bytes or self.plain_bytes >= self._most:
            return
        larger, self._successes = min(self.plain_bytes * 2, self._most), self._successes + 1
        is_known_to_fail = self._failed_bytes is not None and larger >= self._failed_bytes
        if not is_known_to_fail or self._successes >= self._probe_after:
            self.plain_bytes, self._successes = larger, 0

    def broke(self, rows: int, size: int, elapsed_s: float) -> bool:
        """An append had no usable answer after `elapsed_s`. True if the next one has to be smaller."""
        self._breaks += 1
        if self._breaks < _BREAKS_ON_THE_WAY and elapsed_s < _TIMED_OUT_S:
            return False
        self._breaks = 0
        self._halve(rows, size, is_limit=True)
        return rows > 1

    def refused(self, rows: int, size: int, *, is_too_large: bool) -> bool:
        """An append of `rows` rows was refused. True if the next one is smaller."""
        self._halve(rows, size, is_limit=is_too_large)
        return rows > 1

    def _halve(self, rows: int, size: int, *, is_limit: bool) -> None:
        """`is_limit`: the size is the likely cause. A single row says nothing about sizes."""
        if is_limit and rows > 1:
            if self._failed_bytes is not None and size >= self._failed_bytes:
                self._probe_after = min(self._probe_after * 2, _LAST_PROBE)
            self._failed_bytes = min(size, self._failed_bytes or size)
        self._successes = 0
        self.plain_bytes = max(_LEAST_BYTES, min(self.plain_bytes, size) // 2)
