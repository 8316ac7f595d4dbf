"""Adjacent bytes that are no frame, gathered so that a burst of noise is few events."""

from __future__ import annotations

from agent.readers.events import Noise, NoiseReason

# A quarter of a second at 9600 baud: long enough that a burst is a few events, short enough
# that a line which never falls silent still shows in the counters.
LONGEST_RUN_BYTES = 256


class NoiseRun:
    """One Noise per run of bytes that share a reason, cut every LONGEST_RUN_BYTES.

    Runs end where the bytes say so, never where a call of feed() ends: however the stream is
    cut, the same noise comes out. With `secret` the bytes may hold a PIN, and none is passed on.
    """

    def __init__(self, *, secret: bool = False) -> None:
        self._secret = secret
        self._reason = NoiseReason.STRAY
        self._raw = bytearray()

    def __bool__(self) -> bool:
        return bool(self._raw)

    def add(self, raw: bytes, reason: NoiseReason | None = None) -> list[Noise]:
        """Take bytes; return the runs that ended. Without a reason they belong to what came
        before them, the rest of a refused frame, and are stray if nothing did.
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
        """Return the run that is held, if any; what comes next has nothing to do with it."""
        run = [self._noise(self._raw)] if self._raw else []
        self.reset()
        return run

    def alone(self, raw: bytes, reason: NoiseReason) -> list[Noise]:
        """Bytes that are an event of their own, after the run that they end."""
        return [*self.end(), *self.add(raw, reason), *self.end()]

    def reset(self) -> None:
        """Forget what is held."""
        self._reason = NoiseReason.STRAY
        self._raw.clear()

    def _noise(self, raw: bytearray) -> Noise:
        return Noise(self._reason, b"" if self._secret else bytes(raw))
