"""Whether what comes from a reader is plausible: nothing for too long, or too much that is no card."""

from __future__ import annotations

import logging
import math
from collections import deque

from agent.log.message_ids import MessageId, fields

_log = logging.getLogger(__name__)

# A card that dances at the edge of the field spoils a few frames, a converter's boot banner is a
# dozen lines. A loose data wire or a wrong line speed makes as much within seconds.
NOISY_PER_MINUTE = 30
# Quiet is well below noisy, so that a line at the border does not change its state all day.
QUIET_PER_MINUTE = 10
_WINDOW_S = 60.0


class LineMonitor:
    """Watches one open reader; its findings are one line in the log when they begin, one when they end.

    Times are seconds of one monotonic clock. `expect_within_s` None: it may be silent for ever.
    `silent` and `noisy` are written by the reader's thread only, read by any.
    """

    def __init__(self, reader_id: str, *, expect_within_s: float | None) -> None:
        self._reader_id = reader_id
        self._expect_within_s = math.inf if expect_within_s is None else expect_within_s
        self._heard_s = math.inf
        self._noise_s: deque[float] = deque(maxlen=NOISY_PER_MINUTE)
        self.silent = False
        self.noisy = False

    def port_opened(self, now_s: float) -> None:
        """The port was opened, perhaps anew: the silence begins now."""
        self._heard_s = now_s

    def port_lost(self) -> None:
        """The port was lost: what was found belongs to a line that is no more."""
        self._heard_s = math.inf
        self._noise_s.clear()
        self.silent = self.noisy = False

    def bytes_received(self, now_s: float) -> None:
        """Bytes came."""
        self._heard_s = now_s
        if self.silent:
            self.silent = False
            _log.info(
                "reader %s: is heard again",
                self._reader_id,
                extra=fields(MessageId.READER_HEARD, reader=self._reader_id),
            )

    def noise_received(self, now_s: float) -> None:
        """A frame or a word was no card."""
        self._noise_s.append(now_s)
        if not self.noisy and self._within_window(NOISY_PER_MINUTE, now_s):
            self.noisy = True
            _log.warning(
                "reader %s: noisy: %d frames or words within a minute that are no card; check ground wire, "
                "data wires and cable length, then protocol and baud rate: badge-agent identify --help",
                self._reader_id,
                NOISY_PER_MINUTE,
                extra=fields(MessageId.READER_NOISY, reader=self._reader_id),
            )

    def update(self, now_s: float) -> bool:
        """See what time alone has changed; True if something has."""
        before = self.silent, self.noisy
        if not self.silent and now_s - self._heard_s >= self._expect_within_s:
            self.silent = True
            _log.warning(
                "reader %s: silent: its port is open, but nothing came for %g seconds; "
                "is the reader powered and its data wire connected?",
                self._reader_id,
                self._expect_within_s,
                extra=fields(MessageId.READER_SILENT, reader=self._reader_id),
            )
        if self.noisy and not self._within_window(QUIET_PER_MINUTE, now_s):
            self.noisy = False
            _log.info(
                "reader %s: quiet again",
                self._reader_id,
                extra=fields(MessageId.READER_QUIET, reader=self._reader_id),
            )
        return before != (self.silent, self.noisy)

    def wait_s(self, now_s: float) -> float:
        """After how long update() may have something to say if nothing comes; infinite if never."""
        waits = [math.inf]
        if not self.silent:
            waits.append(self._heard_s + self._expect_within_s - now_s)
        if self.noisy:
            waits.append(self._noise_s[-QUIET_PER_MINUTE] + _WINDOW_S - now_s)
        return max(0.0, min(waits))

    def _within_window(self, count: int, now_s: float) -> bool:
        """True if the last `count` noises came within a minute."""
        return len(self._noise_s) >= count and now_s - self._noise_s[-count] < _WINDOW_S
