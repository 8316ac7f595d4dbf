"""Collects adjacent bytes that are not a frame, so that a burst of noise is few events."""

from __future__ import annotations

from agent.readers.events import Noise, NoiseReason

# A quarter of a second at 9600 baud: long enough that a burst is a few events, short enough
# that noise without a pause is counted too.
LONGEST_RUN_BYTES = 256


class NoiseRun:
    """One Noise per run of bytes that share a reason, cut every LONGEST_RUN_BYTES.

    A run never ends because a call ends: however the stream is divided, the same events result.
    With `secret` the bytes may hold a PIN, and the events do not contain them.
    """

    def __init__(self, *, secret: bool = False) -> None:
        self._secret = secret
        self._reason = NoiseReason.STRAY
        self._raw = bytearray()

    def __bool__(self) -> bool:
        return bool(self._raw)

    def add(self, raw: bytes, reason: NoiseReason | None = None) -> list[Noise]:
        """Add bytes; return the runs that they end. Without a reason they continue the run that is
        held, the rest of an invalid frame, and are stray if none is.
        """
        ended: list[Noise] = []
        if raw and reason is not None and reason is not self._reason:
            ended += self.end()
            self._reason = reason
        self._raw += raw
        if len(self._raw) >= LONGEST_RUN_BYTES:
            whole = len(self._raw) - len(self._raw) % LONGEST_RUN_BYTES
            for start in range(0, whole, LONGEST_RUN_BYTES):
                ended.append(self._noise(self._raw[start : start + LONGEST_RUN_BYTES]))
            del self._raw[:whole]
        return ended

    def end(self) -> list[Noise]:
        """End and return the run that is held, if any."""
        run = [self._noise(self._raw)] if self._raw else []
        self.reset()
        return run

    def alone(self, raw: bytes, reason: NoiseReason) -> list[Noise]:
        """The run that is held, then an event of its own for these bytes."""
        return [*self.end(), *self.add(raw, reason), *self.end()]

    def reset(self) -> None:
        """Discard the run that is held."""
        self._reason = NoiseReason.STRAY
        self._raw.clear()

    def _noise(self, raw: bytearray) -> Noise:
        return Noise(self._reason, b"" if self._secret else bytes(raw))
