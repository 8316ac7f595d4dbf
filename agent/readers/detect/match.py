"""Recognises protocol, cards and wiring faults from recorded bytes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Literal, NamedTuple

from agent.readers.cards.decoder import KEY_BITS, Decoder
from agent.readers.cards.formats import FORMATS
from agent.readers.detect.line_shape import ends_in_checksum, seven_bit_parity, text_lines
from agent.readers.events import Key, Noise, NoiseReason, RawCredential, ReaderEvent, raw_hex
from agent.readers.framing.line_framer import LONGEST_PIN_DIGITS
from agent.readers.protocol import OptionError
from agent.readers.protocols import STANDALONE, make_protocol
from agent.readers.uart import LineErrors
from agent.settings import DEFAULT_FORMATS, Keypad, LineParity
from agent.swipe import CardCheck, CardRead

# These accept almost any line of digits, so another protocol that accepts the same bytes is likelier.
_TAKES_ANY_DIGITS = frozenset({"rfideas", "twn4", "wg2rs232", "wie232"})
_LINES_OF_DIGITS = _TAKES_ANY_DIGITS | {"parallax", "s4a"}
# The credentials of one card are equal. This many, most of them seen once, are not of one card.
_RANDOM_CREDENTIALS = 8
_RANDOM_SHARE = 0.7
# A long cable or a slow converter loses few bits; lengths further apart are different cards.
LOST_BITS_MAX = 4
_VOUCHED = (CardCheck.CHECKSUM, CardCheck.PARITY)
# Of the other pads' PINs any card with a low facility code may be one: it is shown.
_PADS: tuple[Keypad, ...] = ("burst8", "card26")

_FIVE_DIGITS_MAX = 99_999
ALL_BITS = "decimal of all bits"
REVERSED_BYTES = "bytes in reverse"

_NoCard = Literal["swapped", "withheld", "noise"]


class LineForm(NamedTuple):
    """The data bits and the parity of a byte on the line."""

    data_bits: int = 8
    parity: LineParity = "none"

    def __str__(self) -> str:
        """As installers write it: 7E1."""
        return f"{self.data_bits}{self.parity[0].upper()}1"


PLAIN = LineForm()
NO_ERRORS = LineErrors()

Chunk = tuple[float, bytes]
"""Seconds of silence, and the bytes received after it."""


@dataclass(frozen=True, slots=True)
class Recording:
    """The bytes received with one setting of the line; `asked` names the protocol that was polled."""

    baudrate: int
    chunks: Sequence[Chunk] = field(repr=False)
    asked: str = ""
    form: LineForm = PLAIN
    errors: LineErrors = NO_ERRORS  # that the kernel counted, if it counts

    @property
    def data(self) -> bytes:
        """All received bytes."""
        return b"".join(data for _, data in self.chunks)

    @property
    def bytes(self) -> int:
        """How many bytes were received."""
        return sum(len(data) for _, data in self.chunks)


@dataclass(frozen=True, slots=True)
class Fit:
    """A format that is valid for a credential, and the card's numbers in it."""

    format: str
    facility_code: int | None = field(repr=False)
    card_number: int | None = field(repr=False)
    issue: int | None = field(repr=False)
    oem: int | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Card:
    """A credential, read `times` times; `printed` names its numbers that equal the printed one."""

    bits: int
    raw: str = field(repr=False)
    check: CardCheck
    times: int
    fits: tuple[Fit, ...]
    printed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProtocolMatch:
    """A recording as parsed by one protocol."""

    protocol: str
    baudrate: int
    cards: tuple[Card, ...]  # most often read first
    lengths: frozenset[int]  # of all credentials but keypad keys
    credentials: int
    different_credentials: int
    swapped: int
    withheld: int  # credentials that may be a PIN, and are not shown
    keys: int
    noise: int
    form: LineForm = PLAIN
    errors: LineErrors = NO_ERRORS
    # The lines end in a checksum that this protocol does not know: it is another reader's.
    ignores_checksum: bool = False

    @property
    def is_random(self) -> bool:
        """True if most credentials were seen only once: they are not of one card."""
        return (
            self.credentials >= _RANDOM_CREDENTIALS
            and self.different_credentials > _RANDOM_SHARE * self.credentials
        )

    @property
    def has_line_errors(self) -> bool:
        """True if the kernel counted an error or more for each credential."""
        return any(self.errors) and sum(self.errors) >= self.credentials

    @property
    def card(self) -> Card | None:
        """The card that was presented, if any: the one with the printed number, else the most often read."""
        if self.is_random:
            return None
        printed = next((card for card in self.cards if card.printed), None)
        best = next(iter(self.cards), None)
        # A guess by lines of digits that leaves as much of the text unexplained.
        is_guess = (
            best is not None
            and best.check not in _VOUCHED
            and self.protocol in _LINES_OF_DIGITS
            and self.noise >= self.credentials
        )
        return printed or (None if self.ignores_checksum or is_guess else best)


def match(recording: Recording, printed_number: int | None = None) -> list[ProtocolMatch]:
    """The protocols that find cards or keys in a recording, the likeliest first."""
    chunks, form = recording.chunks, recording.form
    if parity := seven_bit_parity(recording.data):
        form = LineForm(7, parity)
        chunks = [(silence_s, bytes(byte & 0x7F for byte in data)) for silence_s, data in chunks]
    has_checksum = ends_in_checksum(text_lines(recording.data))
    candidates = [
        replace(
            _candidate(name, recording.baudrate, _events(name, chunks), printed_number),
            form=form,
            errors=recording.errors,
            ignores_checksum=has_checksum and name in _TAKES_ANY_DIGITS,
        )
        for name in STANDALONE
        if recording.asked in ("", name) and _works_without_options(name)
    ]
    # Random bytes contain some that are valid keys.
    understood = [
        candidate for candidate in candidates if candidate.credentials or candidate.keys > candidate.noise
    ]
    return sorted(understood, key=_likelihood, reverse=True)


def ranked(candidates: Iterable[ProtocolMatch]) -> list[ProtocolMatch]:
    """The matches of several recordings, the likeliest first."""
    return sorted(candidates, key=_likelihood, reverse=True)


@cache
def _works_without_options(name: str) -> bool:
    """False for a protocol that requires options."""
    try:
        make_protocol(name)
    except OptionError:
        return False
    return True


def _likelihood(candidate: ProtocolMatch) -> tuple[bool, bool, bool, bool, int, bool, int, bool]:
    card = candidate.card
    return (
        card is not None and bool(card.printed),
        card is not None,
        not candidate.has_line_errors,
        card is not None and card.check in _VOUCHED,
        -candidate.noise,
        card is not None and any(fit.format in DEFAULT_FORMATS for fit in card.fits),
        card.times if card else candidate.credentials + candidate.keys,
        candidate.protocol not in _TAKES_ANY_DIGITS,
    )


def _events(name: str, chunks: Sequence[Chunk]) -> list[ReaderEvent]:
    wire = make_protocol(name)
    events: list[ReaderEvent] = []
    now_s = 0.0
    for silence_s, data in chunks:
        now_s += silence_s
        events += wire.handle_timeout(now_s)
        events += wire.receive_data(data, now_s)
    return [*events, *wire.handle_timeout(math.inf)]


def _candidate(
    name: str, baudrate: int, events: Sequence[ReaderEvent], printed_number: int | None
) -> ProtocolMatch:
    credentials = [event for event in events if isinstance(event, RawCredential)]
    counted = Counter(credential for credential in credentials if credential.bits not in KEY_BITS)
    cards: list[Card] = []
    outcomes: Counter[_NoCard] = Counter()
    for credential, times in counted.items():
        card = _card(name, credential, times, printed_number)
        if isinstance(card, Card):
            cards.append(card)
        else:
            outcomes[card] += times
    return ProtocolMatch(
        protocol=name,
        baudrate=baudrate,
        cards=tuple(sorted(cards, key=lambda card: -card.times)),
        lengths=frozenset(credential.bits for credential in counted),
        credentials=counted.total(),
        different_credentials=len(counted),
        swapped=outcomes["swapped"],
        withheld=outcomes["withheld"],
        keys=sum(isinstance(event, Key) for event in events) + len(credentials) - counted.total(),
        noise=sum(isinstance(event, Noise) for event in events) + outcomes["noise"],
    )


def _card(protocol: str, credential: RawCredential, times: int, printed_number: int | None) -> Card | _NoCard:
    """The card of a credential, or why it is none."""
    fits = _fits(credential)
    printed = () if printed_number is None else _reproductions(credential, fits, printed_number)
    if not printed and _could_be_typed(protocol, credential):
        return "withheld"
    outcome = _decoder(DEFAULT_FORMATS)(credential)
    if isinstance(outcome, CardRead):
        check = outcome.check
    elif isinstance(outcome, Noise) and outcome.reason is NoiseReason.SWAPPED and not printed:
        return "swapped"
    elif any(FORMATS[fit.format].parities for fit in fits):
        check = CardCheck.PARITY if credential.check is CardCheck.NONE else credential.check
    else:
        return "noise"
    return Card(credential.bits, raw_hex(credential.bits, credential.value), check, times, fits, printed)


def _could_be_typed(protocol: str, credential: RawCredential) -> bool:
    """True if some keypad may have sent it: whether the reader has one is not known yet."""
    if any(isinstance(_decoder((), pad)(credential), Key) for pad in _PADS):
        return True
    digits = raw_hex(credential.bits, credential.value)
    return protocol in _TAKES_ANY_DIGITS and digits.isdigit() and len(digits) <= LONGEST_PIN_DIGITS


def _fits(credential: RawCredential) -> tuple[Fit, ...]:
    fits = []
    for name in FORMATS:
        outcome = _decoder((name,))(credential)
        if isinstance(outcome, CardRead) and outcome.format:
            numbers = outcome.facility_code, outcome.card_number, outcome.issue, outcome.oem
            fits.append(Fit(name, *numbers))
    return tuple(fits)


@cache
def _decoder(formats: tuple[str, ...], keypad: Keypad = "none") -> Decoder:
    return Decoder(formats, keypad=keypad)


def _reproductions(credential: RawCredential, fits: Iterable[Fit], printed_number: int) -> tuple[str, ...]:
    """The fields that equal the printed number, those that can be configured first."""
    ways = [f"card number of {fit.format}" for fit in fits if fit.card_number == printed_number]
    ways += [
        f"facility code and card number of {fit.format}"
        for fit in fits
        if fit.facility_code is not None and _in_one(fit.facility_code, fit.card_number) == printed_number
    ]
    ways += [way for way, number in _numbers(credential).items() if number == printed_number]
    return tuple(ways)


def _numbers(credential: RawCredential) -> Mapping[str, int]:
    """Numbers that are printed on cards besides the card number of a format."""
    bits, value = credential.bits, credential.value
    numbers = {ALL_BITS: value}
    for low in (32, 24, 16):
        if bits > low:
            numbers[f"low {low} bits"] = value & (1 << low) - 1
    if bits > 2:  # noqa: PLR2004 - the two parity bits themselves
        numbers["bits between the outer parity bits"] = value >> 1 & (1 << bits - 2) - 1
    if bits % 8 == 0:
        numbers[REVERSED_BYTES] = int.from_bytes(value.to_bytes(bits // 8, "big"), "little")
    numbers["low 24 bits as 3 and 5 digits"] = (value >> 16 & 0xFF) * 100_000 + (value & 0xFFFF)
    return MappingProxyType(numbers)


def _in_one(facility_code: int, card_number: int | None) -> int | None:
    """The number on clamshell cards: three digits of facility code and five of card number."""
    if card_number is None or card_number > _FIVE_DIGITS_MAX:
        return None
    return facility_code * 100_000 + card_number
