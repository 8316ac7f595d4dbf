"""A simulated machine: true time, and clocks that NTP, power cuts and operators change."""

from __future__ import annotations

import uuid

from agent.clock.reading import ClockReading
from agent.clock.sync_marks import GROWTH, LARGEST_ERROR_US, SyncMarks

TRUE_START_US = 1_772_366_400_000_000  # 2026-03-01T12:00:00Z


class ClockRig:
    """Without a battery clock: after each boot the wall clock begins at `wakes_at_us` of itself.

    `drift` is how much faster than true time its crystal runs; NTP, while it is there, takes it out.
    """

    def __init__(self, *, drift: float = 0.0, wakes_at_us: int = 0) -> None:
        self.true_us = TRUE_START_US
        self.wakes_at_us = wakes_at_us
        self.drift = drift
        self.has_ntp = False
        self.boot()

    def boot(self, *, off_s: float = 10.0) -> None:
        """Power comes back after so long."""
        self.true_us += int(off_s * 1e6)
        self.boot_id = str(uuid.uuid4())
        self._boot_us = 0.0
        self._offset_us = self.wakes_at_us
        self._is_set = False
        self._confirmed_us = 0.0
        self.has_ntp = False

    @property
    def boot_us(self) -> int:
        return int(self._boot_us)

    @property
    def true_offset_us(self) -> int:
        return self.true_us - self.boot_us

    def advance(self, seconds: float) -> None:
        """Advance the time, also while suspended: both clocks count a suspend."""
        us = round(seconds * 1e6)
        self.true_us += us
        self._boot_us += us if self.has_ntp else us * (1 + self.drift)
        if self.has_ntp:
            self._confirmed_us = self._boot_us

    def ntp_comes(self) -> None:
        """A time server answers: the clock is set, and stays correct from now on."""
        self.has_ntp = True
        self._is_set = True
        self._offset_us = self.true_offset_us
        self._confirmed_us = self._boot_us

    def ntp_goes(self) -> None:
        """The network is lost; for some hours the kernel still reports the clock as synchronised."""
        self.has_ntp = False

    def set_by_hand(self, off_s: float) -> None:
        """An operator sets the clock, off by so much: settimeofday(2) makes it count as unsynchronised."""
        self.ntp_goes()
        self._is_set = False
        self._offset_us = self.true_offset_us + int(off_s * 1e6)

    def wrongly_synchronised(self, off_s: float) -> None:
        """A time server with a wrong time answers."""
        self.ntp_comes()
        self._offset_us += int(off_s * 1e6)

    def now(self) -> ClockReading:
        error_us = int((self._boot_us - self._confirmed_us) * GROWTH)
        trusted = self._is_set and error_us < LARGEST_ERROR_US
        return ClockReading(
            self._offset_us + self.boot_us,
            self.boot_id,
            self.boot_us,
            trusted,
            error_us if trusted else 0,
        )


class MarkedClockRig(ClockRig):
    """The same machine, but adjtimex(2) is forbidden: only the file of the time service shows a correction.

    A clock set by hand leaves the mark as it is.
    """

    _POLL_S = 1_000.0

    def boot(self, *, off_s: float = 10.0) -> None:
        super().boot(off_s=off_s)
        self._mark_us: int | None = None
        self.start_process()

    def start_process(self) -> None:
        """The agent is started: it has not seen any mark being made."""
        self._marks = SyncMarks()

    def advance(self, seconds: float) -> None:
        while self.has_ntp and seconds > self._POLL_S:
            super().advance(self._POLL_S)
            seconds -= self._POLL_S
            self._mark()
        super().advance(seconds)

    def ntp_comes(self) -> None:
        super().ntp_comes()
        self._mark()

    def set_by_hand(self, off_s: float) -> None:
        super().set_by_hand(off_s)
        self._is_set = True

    def _mark(self) -> None:
        self._mark_us = self._offset_us + self.boot_us
        self.now()  # the agent reads the clock every ten seconds

    def now(self) -> ClockReading:
        wall_us = self._offset_us + self.boot_us
        confirmed = self._marks.judge(self._mark_us, wall_us, self.boot_us)
        if confirmed is None:
            return ClockReading(wall_us, self.boot_id, self.boot_us, trusted=False)
        return ClockReading(
            wall_us,
            self.boot_id,
            self.boot_us,
            trusted=True,
            max_error_us=confirmed.max_error_us,
            is_inherited=confirmed.is_inherited,
        )
