"""When the bytes of a frame arrived, if a later read or a silence ends the frame."""

from __future__ import annotations

from agent.readers.swipe_pipeline import MOMENT_US, ReadTime


class HeldBytes:
    """The reads of the bytes that one protocol holds, from the earliest one on."""

    def __init__(self) -> None:
        self._earliest: ReadTime | None = None
        self._have_waited = False  # some of them before they were read

    def interval(self, read: ReadTime, *, has_events: bool, within_frame: bool) -> ReadTime:
        """When the bytes of these events arrived: at this read, or at one whose bytes were held.

        `within_frame`: the protocol still holds bytes. If there are events, too, these are of this read.
        """
        earliest = self._earliest or read
        have_waited = self._have_waited or read.age_us > 0
        if has_events or not within_frame:
            self.reset()
        if within_frame:
            self._earliest = self._earliest or read
            self._have_waited = read.age_us > 0 if has_events else have_waited
        age_us = read.at.boot_us - earliest.at.boot_us + earliest.age_us
        return read._replace(age_us=age_us) if have_waited or age_us > MOMENT_US else read

    def reset(self) -> None:
        """No bytes are held."""
        self._earliest, self._have_waited = None, False
