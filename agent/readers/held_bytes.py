"""When the bytes of a frame arrived, if a later read or a silence ends the frame."""

from __future__ import annotations

from agent.readers.swipe_pipeline import MOMENT_US, ReadTime


class HeldBytes:
    """The earliest read of the bytes that one protocol holds."""

    def __init__(self) -> None:
        self._earliest: ReadTime | None = None

    def interval(self, read: ReadTime, *, has_events: bool, within_frame: bool) -> ReadTime:
        """When the bytes of these events arrived: at this read, or at one whose bytes were held.

        `within_frame`: the protocol still holds bytes. If there are events, too, these are of this read.
        """
        earliest = self._earliest or read
        self._earliest = (read if has_events else earliest) if within_frame else None
        age_us = read.at.boot_us - earliest.at.boot_us + earliest.age_us
        return read._replace(age_us=age_us) if age_us > MOMENT_US else read

    def reset(self) -> None:
        """No bytes are held."""
        self._earliest = None
