"""Makes noise of the frames in which the kernel counted an error of the serial line."""

from __future__ import annotations

from collections.abc import Sequence

from agent.readers.events import Noise, NoiseReason, ReaderEvent, Status
from agent.readers.uart import LineErrors


class DamagedFrames:
    """The frames of one wire protocol with a damaged or lost byte.

    The counters are read after each read of bytes, and do not name the byte. So all frames that end in these
    bytes are noise, and the frame that is unfinished after them. A valid checksum does not change that: most
    frames have none or a weak one, and readers repeat a card that is held.
    """

    def __init__(self) -> None:
        self._reason: NoiseReason | None = None

    def screened(
        self, events: list[ReaderEvent], errors: LineErrors, *, within_frame: bool
    ) -> list[ReaderEvent]:
        """The events of received bytes or of a timer, given the errors since the previous call.

        `within_frame`: the protocol now holds bytes of an unfinished frame.
        """
        reason = _reason_of(errors) or self._reason
        self._reason = reason if within_frame else None
        return events if reason is None else _noise_of(events, reason)

    def reset(self) -> None:
        """The port was reopened."""
        self._reason = None


def _noise_of(events: Sequence[ReaderEvent], reason: NoiseReason) -> list[ReaderEvent]:
    return [
        event if isinstance(event, Status) else Noise(reason, event.raw if isinstance(event, Noise) else b"")
        for event in events
    ]


def _reason_of(errors: LineErrors) -> NoiseReason | None:
    if errors.overrun:
        return NoiseReason.OVERRUN
    if errors.framing:
        return NoiseReason.FRAMING
    return NoiseReason.LINE_PARITY if errors.parity else None
