"""Options that every protocol has: bytes and bits in another order, and cards that must be read twice."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from agent.readers.events import KEY_BITS, Noise, NoiseReason, RawCredential, ReaderEvent
from agent.readers.protocol import LineSettings, Option, WireProtocol

_BYTE_BITS = 8
# A held card is repeated every 50 to 200 ms; a ghost of a module without a card comes once.
_CONFIRM_WITHIN_S = 1.0
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

COMMON_OPTIONS: Mapping[str, Option] = MappingProxyType(
    {
        "byte_order": Option(
            "reversed: the bytes of a card are exchanged, first with last",
            "normal",
            allowed=("normal", "reversed"),
        ),
        "bit_order": Option(
            "reversed: the bits of each byte are exchanged, first with last",
            "normal",
            allowed=("normal", "reversed"),
        ),
        "confirm_reads": Option(
            "2: a card is valid once it was read twice within a second; for modules that report tags "
            "without a tag, and repeat a held one",
            1,
            low=1,
            high=2,
        ),
    }
)


class ScreenedProtocol(WireProtocol):
    """A protocol whose credentials are reordered, and held until a second equal one confirms them.

    Credentials that are not whole bytes keep their order. A read that is not confirmed in time is noise.
    """

    def __init__(
        self,
        inner: WireProtocol,
        *,
        byte_order: str = "normal",
        bit_order: str = "normal",
        confirm_reads: int = 1,
    ) -> None:
        self._inner = inner
        self._reverses_bytes = byte_order == "reversed"
        self._reverses_bits = bit_order == "reversed"
        self._confirms = confirm_reads > 1
        # The time of the last read of each card of the last second, and whether it was confirmed.
        self._reads: dict[RawCredential, tuple[float, bool]] = {}

    @property
    def inner(self) -> WireProtocol:
        """The protocol whose credentials these are."""
        return self._inner

    @property
    def line(self) -> LineSettings:  # type: ignore[override] # that of the protocol's class
        """The default line settings of its readers."""
        return self._inner.line

    @property
    def repeats_while_held(self) -> bool:  # type: ignore[override] # that of the protocol's class
        """Whether its readers repeat a card while it is held."""
        return self._inner.repeats_while_held

    def receive_data(self, data: bytes, now: float) -> list[ReaderEvent]:
        """Parse received bytes; return the events they complete, in order."""
        return [*self._expired(now), *self._screened(self._inner.receive_data(data, now), now)]

    def data_to_send(self, now: float) -> bytes:
        """The request that is due at `now`, empty if none is."""
        return self._inner.data_to_send(now)

    def next_timeout(self) -> float | None:
        """When the inner protocol or the wait for a confirmation has work."""
        times = [read_s + _CONFIRM_WITHIN_S for read_s, _ in self._reads.values()]
        inner = self._inner.next_timeout()
        return min(times if inner is None else [*times, inner], default=None)

    def handle_timeout(self, now: float) -> list[ReaderEvent]:
        """The events of the inner protocol, and noise for reads that were not confirmed in time."""
        events = self._screened(self._inner.handle_timeout(now), now)
        return [*events, *self._expired(now)]

    def is_within_frame(self) -> bool:
        """True while the inner protocol holds bytes of an unfinished frame."""
        return self._inner.is_within_frame()

    def reset(self) -> None:
        """Discard held bytes and reads: the port was reopened."""
        self._inner.reset()
        self._reads.clear()

    def _screened(self, events: list[ReaderEvent], now: float) -> list[ReaderEvent]:
        screened: list[ReaderEvent] = []
        for event in events:
            if not isinstance(event, RawCredential) or event.bits in KEY_BITS:
                screened.append(event)
                continue
            credential = self._reordered(event)
            if self._is_confirmed(credential, now):
                screened.append(credential)
        return screened

    def _reordered(self, credential: RawCredential) -> RawCredential:
        bits, value = credential.bits, credential.value
        if bits % _BYTE_BITS or not (self._reverses_bytes or self._reverses_bits):
            return credential
        data = value.to_bytes(bits // _BYTE_BITS, "big")
        if self._reverses_bits:
            data = data.translate(_REVERSED)
        return credential._replace(value=int.from_bytes(data, "little" if self._reverses_bytes else "big"))

    def _is_confirmed(self, credential: RawCredential, now: float) -> bool:
        if not self._confirms:
            return True
        identity = credential._replace(signal_strength=None)
        before = self._reads.pop(identity, None)
        self._reads[identity] = (now, before is not None)
        return before is not None

    def _expired(self, now: float) -> list[ReaderEvent]:
        """Forget the reads of more than a second ago; those that were not confirmed are noise."""
        old = [card for card, (read_s, _) in self._reads.items() if now >= read_s + _CONFIRM_WITHIN_S]
        confirmed = [self._reads.pop(card)[1] for card in old]
        return [Noise(NoiseReason.UNCONFIRMED) for is_confirmed in confirmed if not is_confirmed]
