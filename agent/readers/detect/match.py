"""What recorded bytes say about a reader: its protocol, its cards, and what is wrong with its wiring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Literal, get_args

from agent.readers.cards.decoder import KEY_BITS, Decoder
from agent.readers.cards.formats import FORMATS
from agent.readers.framing.line_framer import LONGEST_PIN_DIGITS
from agent.readers.protocol import OptionError
from agent.readers.protocols import PROTOCOLS, make_protocol
from agent.readers.wiring import SWAPPED_IN_A_ROW
from agent.settings import DEFAULT_FORMATS, Keypad
from agent.swipe import CardRead, Check, Frame, Key, Noise, Reason, Word, raw_hex

# These take almost any line of digits, so another protocol that reads the same bytes is likelier.
_TAKES_ANY_DIGITS = frozenset({"rfideas", "twn4", "wg2rs232", "wie232"})
# Words of one card are alike. That many, most of them seen once, come from nobody's card.
_RANDOM_WORDS = 8
_RANDOM_SHARE = 0.7
# Bits lost to a long cable or a slow converter are few; lengths further apart are different cards.
_LOST_BITS_MAX = 4
_VOUCHED = (Check.CHECKSUM, Check.PARITY)
_PADS: tuple[Keypad, ...] = tuple(pad for pad in get_args(Keypad) if pad != "none")

_FIVE_DIGITS_MAX = 99_999
_ALL_BITS = "decimal of all bits"

_NoCard = Literal["swapped", "withheld", "noise"]

Chunk = tuple[float, bytes]
"""Seconds of silence, and the bytes that came after it."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What came in at one line speed; `asked` names the protocol whose questions were sent."""

    baudrate: int
    chunks: Sequence[Chunk] = field(repr=False)
    asked: str = ""

    @property
    def bytes(self) -> int:
        """How many bytes came in."""
        return sum(len(data) for _, data in self.chunks)


@dataclass(frozen=True, slots=True)
class Fit:
    """A format that validates for a word, and the card's numbers in it."""

    format: str
    facility_code: int | None = field(repr=False)
    card_number: int | None = field(repr=False)
    issue: int | None = field(repr=False)
    oem: int | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Card:
    """A word that was read `times` times; `printed` says which of its numbers is the printed one."""

    bits: int
    raw: str = field(repr=False)
    check: Check
    times: int
    fits: tuple[Fit, ...]
    printed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hearing:
    """A recording as one protocol understands it."""

    protocol: str
    baudrate: int
    cards: tuple[Card, ...]  # most often read first
    lengths: frozenset[int]  # of all words, cards or not, that are no keys
    words: int
    different_words: int
    swapped: int
    withheld: int  # words that may be a PIN, which nobody is shown
    keys: int
    noise: int

    @property
    def is_random(self) -> bool:
        """True when most words were never seen again: no card sends them."""
        return self.words >= _RANDOM_WORDS and self.different_words > _RANDOM_SHARE * self.words

    @property
    def card(self) -> Card | None:
        """The card that was presented, if one can be told: with the printed number, else the most read."""
        if self.is_random:
            return None
        return next((card for card in self.cards if card.printed), next(iter(self.cards), None))


def hear(recording: Recording, printed_number: int | None = None) -> list[Hearing]:
    """What each protocol makes of a recording, the likeliest first; none that understands nothing."""
    hearings = [
        _hearing(name, recording.baudrate, _frames(name, recording.chunks), printed_number)
        for name in PROTOCOLS
        if recording.asked in ("", name) and _means_something_as_it_is(name)
    ]
    # Among garbage there are bytes that could be a key.
    understood = [heard for heard in hearings if heard.words or heard.keys > heard.noise]
    return sorted(understood, key=_likelihood, reverse=True)


def likeliest(hearings: Iterable[Hearing]) -> list[Hearing]:
    """Hearings of several recordings, the likeliest first."""
    return sorted(hearings, key=_likelihood, reverse=True)


@cache
def _means_something_as_it_is(name: str) -> bool:
    """False for a protocol that means nothing before the installer has told it something."""
    try:
        make_protocol(name)
    except OptionError:
        return False
    return True


def _likelihood(heard: Hearing) -> tuple[bool, bool, bool, int, bool, int, bool]:
    card = heard.card
    return (
        card is not None and bool(card.printed),
        card is not None,
        card is not None and card.check in _VOUCHED,
        -heard.noise,
        card is not None and any(fit.format in DEFAULT_FORMATS for fit in card.fits),
        card.times if card else heard.words + heard.keys,
        heard.protocol not in _TAKES_ANY_DIGITS,
    )


def _frames(name: str, chunks: Sequence[Chunk]) -> list[Frame]:
    wire = make_protocol(name)
    frames: list[Frame] = []
    for silence_s, data in chunks:
        if wire.partial and silence_s * 1000 >= wire.silence_ms:
            frames += wire.silence()
        frames += wire.feed(data)
    return [*frames, *wire.silence()]


def _hearing(name: str, baudrate: int, frames: Sequence[Frame], printed_number: int | None) -> Hearing:
    words = [frame for frame in frames if isinstance(frame, Word)]
    counted = Counter(word for word in words if word.bits not in KEY_BITS)
    cards: list[Card] = []
    outcomes: Counter[_NoCard] = Counter()
    for word, times in counted.items():
        card = _card(name, word, times, printed_number)
        if isinstance(card, Card):
            cards.append(card)
        else:
            outcomes[card] += times
    return Hearing(
        protocol=name,
        baudrate=baudrate,
        cards=tuple(sorted(cards, key=lambda card: -card.times)),
        lengths=frozenset(word.bits for word in counted),
        words=counted.total(),
        different_words=len(counted),
        swapped=outcomes["swapped"],
        withheld=outcomes["withheld"],
        keys=sum(isinstance(frame, Key) for frame in frames) + len(words) - counted.total(),
        noise=sum(isinstance(frame, Noise) for frame in frames) + outcomes["noise"],
    )


def _card(protocol: str, word: Word, times: int, printed_number: int | None) -> Card | _NoCard:
    """The card of a word, or what it is instead."""
    fits = _fits(word)
    printed = () if printed_number is None else _reproductions(word, fits, printed_number)
    if not printed and _could_be_typed(protocol, word):
        return "withheld"
    outcome = _decoder(DEFAULT_FORMATS)(word)
    if isinstance(outcome, CardRead):
        check = outcome.check
    elif isinstance(outcome, Noise) and outcome.reason is Reason.SWAPPED and not printed:
        return "swapped"
    elif any(FORMATS[fit.format].parities for fit in fits):
        check = Check.PARITY if word.check is Check.NONE else word.check
    else:
        return "noise"
    return Card(word.bits, raw_hex(word.bits, word.value), check, times, fits, printed)


def _could_be_typed(protocol: str, word: Word) -> bool:
    """True for what some pad may have sent: nobody has said yet whether there is one."""
    if any(isinstance(_decoder((), pad)(word), Key) for pad in _PADS):
        return True
    digits = raw_hex(word.bits, word.value)
    return protocol in _TAKES_ANY_DIGITS and digits.isdigit() and len(digits) <= LONGEST_PIN_DIGITS


def _fits(word: Word) -> tuple[Fit, ...]:
    fits = []
    for name in FORMATS:
        outcome = _decoder((name,))(word)
        if isinstance(outcome, CardRead) and outcome.format:
            numbers = outcome.facility_code, outcome.card_number, outcome.issue, outcome.oem
            fits.append(Fit(name, *numbers))
    return tuple(fits)


@cache
def _decoder(formats: tuple[str, ...], keypad: Keypad = "none") -> Decoder:
    return Decoder(formats, keypad=keypad)


def _reproductions(word: Word, fits: Iterable[Fit], printed_number: int) -> tuple[str, ...]:
    """Every way in which the printed number is in a word; those that can be configured come first."""
    ways = [f"card number of {fit.format}" for fit in fits if fit.card_number == printed_number]
    ways += [
        f"facility code and card number of {fit.format}"
        for fit in fits
        if fit.facility_code is not None and _in_one(fit.facility_code, fit.card_number) == printed_number
    ]
    ways += [way for way, number in _numbers(word).items() if number == printed_number]
    return tuple(ways)


def _numbers(word: Word) -> Mapping[str, int]:
    """What is printed on cards besides the card number of a format."""
    bits, value = word.bits, word.value
    numbers = {_ALL_BITS: value}
    for low in (32, 24, 16):
        if bits > low:
            numbers[f"low {low} bits"] = value & (1 << low) - 1
    if bits > 2:  # noqa: PLR2004 - the two parity bits themselves
        numbers["bits between the outer parity bits"] = value >> 1 & (1 << bits - 2) - 1
    if bits % 8 == 0:
        numbers["bytes in reverse"] = int.from_bytes(value.to_bytes(bits // 8, "big"), "little")
    numbers["low 24 bits as 3 and 5 digits"] = (value >> 16 & 0xFF) * 100_000 + (value & 0xFFFF)
    return MappingProxyType(numbers)


def _in_one(facility_code: int, card_number: int | None) -> int | None:
    """As on clamshell cards: three digits of facility code and five of card number."""
    if card_number is None or card_number > _FIVE_DIGITS_MAX:
        return None
    return facility_code * 100_000 + card_number


# --- what is wrong, and what to write into the configuration -------------------------------------


@dataclass(frozen=True, slots=True)
class Advice:
    """What the recordings say about the installation, and what to do about it."""

    text: str
    next: str


def advice(recordings: Sequence[Recording], hearings: Sequence[Hearing]) -> list[Advice]:
    """What is wrong, as far as it can be heard; `hearings` are of these recordings, likeliest first."""
    if not any(recording.bytes for recording in recordings):
        return [
            Advice(
                "not one byte came",
                "is the reader powered, is its TX wire on this port's RX, is this the right port, "
                "and was a card presented?",
            )
        ]
    if not hearings:
        return [_unreadable(recordings)]
    best = hearings[0]
    found = []
    if best.swapped >= SWAPPED_IN_A_ROW and not best.cards:
        found.append(
            Advice("D0 and D1 are swapped: every word is a card upside down", "exchange the data wires")
        )
    if best.is_random:
        found.append(
            Advice(
                f"floating ground or data wire: {best.words} words, {best.different_words} of them different",
                "connect the ground of reader and converter, and check both data wires",
            )
        )
    elif 1 < len(best.lengths) <= max(best.lengths) - min(best.lengths) + 1 <= _LOST_BITS_MAX + 1:
        lengths = ", ".join(map(str, sorted(best.lengths)))
        found.append(
            Advice(f"bits are lost: words of {lengths} bits", "shorten or shield the cable, check the ground")
        )
    if best.withheld:
        found.append(
            Advice(
                f"{best.withheld} words look like PINs typed at a pad, and are not shown",
                "set keypad if the reader has keys; for a card, give its number: --printed-number N",
            )
        )
    if best.keys:
        found.append(Advice(f"{best.keys} keys were pressed", "set keypad, so that PINs are never sent"))
    return found


def _unreadable(recordings: Sequence[Recording]) -> Advice:
    speeds = sorted({recording.baudrate for recording in recordings if recording.bytes})
    heard = sum(recording.bytes for recording in recordings)
    if len({recording.baudrate for recording in recordings}) == 1:
        return Advice(
            f"{heard} bytes came at {speeds[0]} baud, and no frame: wrong line speed or an unknown protocol",
            "leave --baud out to try the others",
        )
    return Advice(
        f"{heard} bytes came, and no frame at any line speed ({', '.join(map(str, speeds))})",
        "give the speed in the reader's manual with --baud; check that it is RS-232 or TTL as the "
        'adapter is; for lines of a form of their own: protocol = "line"',
    )


def reader_block(heard: Hearing, card: Card, port: str) -> str:
    """The [[readers]] table for the configuration file."""
    lines = [
        "[[readers]]",
        'id = "RDR-101"        # your name for it',
        'zone_id = "ZONE-1"    # your name for where it is',
        f'port = "{port}"',
        f'protocol = "{heard.protocol}"',
    ]
    if heard.baudrate != PROTOCOLS[heard.protocol].line.baudrate:
        lines.append(f"baudrate = {heard.baudrate}")
    formats = ", ".join(f'"{name}"' for name in _formats_to_enable(card))
    if formats:
        lines.append(f"formats = [{formats}]")
    if card.printed and card.printed[0] == _ALL_BITS:
        lines.append('badge_id = "{decimal}"')
    return "\n".join(lines)


def _formats_to_enable(card: Card) -> list[str]:
    """Formats that the default ones have to be replaced by; empty if those will do."""
    names = [fit.format for fit in card.fits]
    if any(name in DEFAULT_FORMATS for name in names) and not _has_rare_number(card):
        return []
    printed = [name for name in names if f"card number of {name}" in card.printed]
    if printed:
        return printed[:1]
    # A default format of its length would make noise of the card; of other lengths the bits will do.
    if card.printed or all(FORMATS[name].bits != card.bits for name in DEFAULT_FORMATS):
        return []
    checked = [name for name in names if FORMATS[name].parities]
    return [name for name in checked if not FORMATS[name].contested] or checked


def _has_rare_number(card: Card) -> bool:
    """True if the printed number is there only in a format that is not on by default."""
    holders = [fit.format for fit in card.fits if f"card number of {fit.format}" in card.printed]
    return bool(holders) and not any(name in DEFAULT_FORMATS for name in holders)
