"""Detects readers that are silent for too long or send mostly noise."""

from __future__ import annotations

import logging
import math
from collections import deque

from agent.log.message_ids import MessageId, fields

_log = logging.getLogger(__name__)

# A card at the edge of the field damages a few frames, and a converter's boot banner has a dozen
# lines. A loose data wire or a wrong baud rate makes this much noise within seconds.
NOISY_PER_MINUTE = 30
# Hysteresis: a reader near one threshold must not change its state all day.
QUIET_PER_MINUTE = 10
_WINDOW_S = 60.0


class LineMonitor:
    """The states `silent` and `noisy` of one reader; each change is one log line.

    Times are seconds of one monotonic clock. `expect_within_s` None: the reader may always be silent.
    `silent` and `noisy` are written by the reader's thread only, read by any.
    """

    def __init__(self, reader_id: str, *, expect_within_s: float | None) -> None:
        self._reader_id = reader_id
        self._expect_within_s = math.inf if expect_within_s is None else expect_within_s
        self._last_bytes_s = math.inf
        self._noise_s: deque[float] = deque(maxlen=NOISY_PER_MINUTE)
        self.silent = False
        self.noisy = False

    def port_opened(self, now_s: float) -> None:
        """The port was opened or reopened: the silence is counted from now."""
        self._last_bytes_s = now_s

    def port_lost(self) -> None:
        """The port was lost: both states end, without a log line."""
        self._last_bytes_s = math.inf
        self._noise_s.clear()
        self.silent = self.noisy = False

    def bytes_received(self, now_s: float) -> None:
        """Bytes were received."""
        self._last_bytes_s = now_s
        if self.silent:
            self.silent = False
            _log.info(
                "reader %s: sends again",
                self._reader_id,
                extra=fields(MessageId.READER_HEARD, reader=self._reader_id),
            )

    def noise_received(self, now_s: float) -> None:
        """A frame or a credential was noise."""
        self._noise_s.append(now_s)
        if not self.noisy and self._within_window(NOISY_PER_MINUTE, now_s):
            self.noisy = True
            _log.warning(
                "reader %s: noisy: %d frames within a minute were not a card; check ground wire, "
                "data wires and cable length, then protocol and baud rate: badge-agent identify --help",
                self._reader_id,
                NOISY_PER_MINUTE,
                extra=fields(MessageId.READER_NOISY, reader=self._reader_id),
            )

    def update(self, now_s: float) -> bool:
        """Apply the passing of time; True if a state changed."""
        before = self.silent, self.noisy
        if not self.silent and now_s - self._last_bytes_s >= self._expect_within_s:
            self.silent = True
            _log.warning(
                "reader %s: silent: its port is open, but no bytes came for %g seconds; "
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
        """Seconds until update() may change a state if no bytes arrive; infinite if never."""
        wait_s = math.inf if self.silent else self._last_bytes_s + self._expect_within_s - now_s
        if self.noisy:
            wait_s = min(wait_s, self._noise_s[-QUIET_PER_MINUTE] + _WINDOW_S - now_s)
        return max(0.0, wait_s)

    def _within_window(self, count: int, now_s: float) -> bool:
        """True if the last `count` noise events came within a minute."""
        return len(self._noise_s) >= count and now_s - self._noise_s[-count] < _WINDOW_S
