"""What to do about what was heard on a port: advice for the installer, and the configuration block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.readers.cards.formats import FORMATS
from agent.readers.detect.match import _ALL_BITS, _LOST_BITS_MAX, Card, ProtocolMatch, Recording
from agent.readers.protocols import PROTOCOLS
from agent.readers.wiring import SWAPPED_IN_A_ROW
from agent.settings import DEFAULT_FORMATS


@dataclass(frozen=True, slots=True)
class Advice:
    """What the recordings say about the installation, and what to do about it."""

    text: str
    next: str


def advice(recordings: Sequence[Recording], hearings: Sequence[ProtocolMatch]) -> list[Advice]:
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


def reader_block(heard: ProtocolMatch, card: Card, port: str) -> str:
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
