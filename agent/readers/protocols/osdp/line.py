"""Whose turn it is on an OSDP line: one command, then its reply or a timeout, reader by reader."""

from __future__ import annotations

from operator import attrgetter

from agent.readers.events import Noise, NoiseReason, ReaderEvent
from agent.readers.protocols.osdp.frame import FrameBuffer
from agent.readers.protocols.osdp.link import RETRY_S, Link

_BITS_PER_BYTE = 10  # 8N1
# A reader begins its reply within 200 ms of the command's last byte; USB adapters and this process add some.
REPLY_WAIT_S = 0.25
_GAP_S = 0.15  # the longest pause in a frame: some adapters deliver in pieces 110 ms apart
_REPLY_MAX_BYTES = 256  # more than a reply to any command of the agent: noise must not keep the turn
_REST_MAX_S = 0.03  # of a wrong length: bytes that are read late count as late, and make the turn longer
_IDLE_BYTES = 2  # before a command the line is idle for two characters
_DAMAGED = Noise(NoiseReason.CHECKSUM)
_DUE = attrgetter("due_s")
_RETRY_MAX_S = 1.6  # a reader is asked at least so often, that it is back within two seconds


class OsdpLine:
    """The readers of one line, in turn: of those that are due, the one that is due for the longest time.

    So a reader that does not answer costs the others one reply time now and then: `retry_s` grows with the
    number of readers.
    """

    def __init__(self, baudrate: int) -> None:
        self._byte_s = _BITS_PER_BYTE / baudrate
        self._links: list[Link] = []
        self._buffer = FrameBuffer()
        self.active: Link | None = None  # the one that has to reply
        self._free_s = 0.0
        self._ends_s = self._ends_at_the_latest_s = 0.0

    def add(self, link: Link) -> None:
        """Put a reader on the line."""
        self._links.append(link)
        for each in self._links:
            each.retry_s = min(max(RETRY_S, REPLY_WAIT_S * len(self._links)), _RETRY_MAX_S)

    def reset(self) -> None:
        """The port was opened."""
        self._buffer.clear()
        self.active, self._free_s = None, 0.0

    @property
    def is_within_frame(self) -> bool:
        """Whether a reply has begun and not ended."""
        return len(self._buffer) > 0

    def rest_s(self, now: float) -> float:
        """Seconds in which a reply that has begun cannot end, at most _REST_MAX_S; 0 if none has begun."""
        return max(0.0, min(self._buffer.missing * self._byte_s, self._ends_s - now, _REST_MAX_S))

    def next_timeout(self, link: Link) -> float | None:
        """When this reader's command is due, or its reply overdue; None while it is another one's turn."""
        if self.active is not None:
            return self._ends_s if self.active is link else None
        if self._next() is not link or not link.is_used:
            return None
        return max(link.due_s, self._free_s)

    def data_to_send(self, link: Link, now: float) -> bytes:
        """The command that is due, if it is this reader's turn."""
        if self.active is not None or self._next() is not link or now < max(link.due_s, self._free_s):
            return b""
        command = link.command(now)
        self.active = link
        self._buffer.clear()
        self._ends_s = now + len(command) * self._byte_s + REPLY_WAIT_S
        self._ends_at_the_latest_s = self._ends_s + max(_GAP_S, _REPLY_MAX_BYTES * self._byte_s)
        return command

    def receive(self, link: Link, data: bytes, now: float) -> list[ReaderEvent]:
        """The events of bytes that were received while this reader has to reply."""
        for reply in self._buffer.feed(data):
            if (events := link.receive(reply, now)) is not None:
                self._end_turn(now)
                return events
        if now >= self._ends_at_the_latest_s:
            return self._no_reply(link, now)
        if self.is_within_frame:
            self._ends_s = min(max(self._ends_s, now + _GAP_S), self._ends_at_the_latest_s)
        return []

    def handle_timeout(self, link: Link, now: float) -> list[ReaderEvent]:
        """The events of a reply that is overdue: what was held may be one after noise."""
        if self.active is not link or now < self._ends_s:
            return []
        for reply in self._buffer.flush():
            if (events := link.receive(reply, now)) is not None:
                self._end_turn(now)
                return events
        return self._no_reply(link, now)

    def _no_reply(self, link: Link, now: float) -> list[ReaderEvent]:
        noise = [_DAMAGED] if self._buffer.damaged or self.is_within_frame else []
        self._end_turn(now)
        return [*noise, *link.no_reply(now)]

    def _end_turn(self, now: float) -> None:
        self.active = None
        self._buffer.clear()
        self._free_s = now + _IDLE_BYTES * self._byte_s

    def _next(self) -> Link:
        return min(self._links, key=_DUE)
