"""When the bytes of a frame arrived that ends with a later read than its own, or with a silence."""

from __future__ import annotations

from agent.readers.swipe_pipeline import ReadTime


class HeldBytes:
    """The reads of the bytes that one protocol holds, from the earliest one on."""

    def __init__(self) -> None:
        self._earliest: ReadTime | None = None
        self._have_waited = False  # some of them before they were read

    def read(self, read: ReadTime, *, has_events: bool, within_frame: bool) -> ReadTime:
        """When the bytes of these events arrived: with the newest read, or with one of those before it.

        `within_frame`: the protocol still holds bytes. After an event they end with the newest read.
        """
        earliest = self._earliest or read
        have_waited = self._have_waited or read.age_us > 0
        if has_events or not within_frame:
            self.reset()
        if within_frame:
            self._earliest = self._earliest or read
            self._have_waited = read.age_us > 0 if has_events else have_waited
        if not have_waited:
            return read
        return read._replace(age_us=read.at.boot_us - earliest.at.boot_us + earliest.age_us)

    def reset(self) -> None:
        """No bytes are held."""
        self._earliest, self._have_waited = None, False
