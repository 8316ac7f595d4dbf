"""Watches the readers' ports while they are open: who else uses them, and drivers that hang."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence

from agent.log.message_ids import MessageId, fields
from agent.readers.detect.own_uart import Advice
from agent.readers.detect.port_users import port_advice
from agent.readers.reader import Reader
from agent.readers.session import PortSession

_log = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
# Opening takes milliseconds, on a busy machine a few seconds.
_HUNG_S = 20.0


class PortWatch:
    """For the main thread. Logs each problem of a port when it begins, and once when none is left."""

    def __init__(self, sessions: Sequence[PortSession]) -> None:
        self._sessions = sessions
        self._problems: dict[str, tuple[Advice, ...]] = {session.device: () for session in sessions}
        self._looked_at_s = 0.0
        self._looked_at: list[tuple[str | None, bool]] = []

    def problems(self, reader: Reader) -> tuple[Advice, ...]:
        """Why a reader's port is not open, else what is wrong with its use."""
        lost, found = reader.counts.problem, self._problems[str(reader.settings.port)]
        return found if lost is None or found else (Advice(str(lost), lost.hint),)

    def look(self) -> None:
        """Examine every port once a minute, and when one was opened or lost."""
        now_s = time.monotonic()
        ports = [
            (session.readers[0].counts.resolved_device, _is_hung(session, now_s))
            for session in self._sessions
        ]
        if ports == self._looked_at and now_s - self._looked_at_s < LOOK_EVERY_S:
            return
        self._looked_at, self._looked_at_s = ports, now_s
        for session, (device, is_hung) in zip(self._sessions, ports, strict=True):
            found: list[Advice] = []
            if is_hung:
                found = [_driver_hangs(session)]
            elif device is not None:
                try:
                    found = port_advice(session.device, own_pids=(os.getpid(),))
                except OSError:
                    continue  # no descriptor is free, or /proc cannot be read: at the next look
            self._update(session, tuple(found))

    def _update(self, session: PortSession, found: tuple[Advice, ...]) -> None:
        before, self._problems[session.device] = self._problems[session.device], found
        for one in found:
            if one not in before:
                _log.warning(
                    "reader %s: %s; %s",
                    session.ids,
                    one.text,
                    one.next,
                    extra=fields(MessageId.PORT_SHARED, reader=session.ids),
                )
        if before and not found:
            _log.info(
                "reader %s: the problem with its port has ended",
                session.ids,
                extra=fields(MessageId.PORT_ALONE, reader=session.ids),
            )


def _is_hung(session: PortSession, now_s: float) -> bool:
    """True if the driver has not returned from opening the port for longer than is normal."""
    since = session.opening_since
    return since is not None and now_s - since > _HUNG_S


def _driver_hangs(session: PortSession) -> Advice:
    return Advice(
        f"the driver of {session.device} does not return from opening it; the other readers are read",
        "unplug the adapter and plug it in again; if that does not help: sudo reboot",
    )
