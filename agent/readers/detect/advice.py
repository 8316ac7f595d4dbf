"""Advice for the installer on what was recorded at a port, and the configuration block."""

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
    """A fault of the installation that the recordings show, and its remedy."""

    text: str
    next: str


def advice(recordings: Sequence[Recording], candidates: Sequence[ProtocolMatch]) -> list[Advice]:
    """The faults that the recordings show; `candidates` are of these recordings, likeliest first."""
    if not any(recording.bytes for recording in recordings):
        return [
            Advice(
                "not one byte came",
                "is the reader powered, is its TX wire on this port's RX, is this the right port, "
                "and was a card presented?",
            )
        ]
    if not candidates:
        return [_unreadable(recordings)]
    best = candidates[0]
    found = []
    if best.swapped >= SWAPPED_IN_A_ROW and not best.cards:
        found.append(Advice("D0 and D1 are swapped: every bit is inverted", "exchange the data wires"))
    if best.is_random:
        found.append(
            Advice(
                f"floating ground or data wire: {best.credentials} reads, "
                f"{best.different_credentials} of them different",
                "connect the ground of reader and converter, and check both data wires",
            )
        )
    elif 1 < len(best.lengths) <= max(best.lengths) - min(best.lengths) + 1 <= _LOST_BITS_MAX + 1:
        lengths = ", ".join(map(str, sorted(best.lengths)))
        found.append(
            Advice(f"bits are lost: reads of {lengths} bits", "shorten or shield the cable, check the ground")
        )
    if best.withheld:
        found.append(
            Advice(
                f"{best.withheld} cards look like PINs typed at a pad, and are not shown",
                "set keypad if the reader has keys; for a card, give its number: --printed-number N",
            )
        )
    if best.keys:
        found.append(Advice(f"{best.keys} keys were pressed", "set keypad, so that PINs are never sent"))
    return found


def _unreadable(recordings: Sequence[Recording]) -> Advice:
    speeds = sorted({recording.baudrate for recording in recordings if recording.bytes})
    received = sum(recording.bytes for recording in recordings)
    if len({recording.baudrate for recording in recordings}) == 1:
        return Advice(
            f"{received} bytes came at {speeds[0]} baud, and no frame: wrong line speed or unknown protocol",
            "leave --baud out to try the others",
        )
    return Advice(
        f"{received} bytes came, and no frame at any line speed ({', '.join(map(str, speeds))})",
        "give the speed in the reader's manual with --baud; check that it is RS-232 or TTL as the "
        'adapter is; for lines of a form of their own: protocol = "line"',
    )


def reader_block(candidate: ProtocolMatch, card: Card, port: str) -> str:
    """The [[readers]] table for the configuration file."""
    lines = [
        "[[readers]]",
        'id = "RDR-101"        # your name for it',
        'zone_id = "ZONE-1"    # your name for where it is',
        f'port = "{port}"',
        f'protocol = "{candidate.protocol}"',
    ]
    if candidate.baudrate != PROTOCOLS[candidate.protocol].line.baudrate:
        lines.append(f"baudrate = {candidate.baudrate}")
    formats = ", ".join(f'"{name}"' for name in _formats_to_enable(card))
    if formats:
        lines.append(f"formats = [{formats}]")
    if card.printed and card.printed[0] == _ALL_BITS:
        lines.append('badge_id = "{decimal}"')
    return "\n".join(lines)


def _formats_to_enable(card: Card) -> list[str]:
    """The formats that must replace the default ones; empty if the default ones suffice."""
    names = [fit.format for fit in card.fits]
    if any(name in DEFAULT_FORMATS for name in names) and not _has_rare_number(card):
        return []
    printed = [name for name in names if f"card number of {name}" in card.printed]
    if printed:
        return printed[:1]
    # A default format of this length would reject the card; for other lengths its bits are its badge id.
    if card.printed or all(FORMATS[name].bits != card.bits for name in DEFAULT_FORMATS):
        return []
    checked = [name for name in names if FORMATS[name].parities]
    return [name for name in checked if not FORMATS[name].contested] or checked


def _has_rare_number(card: Card) -> bool:
    """True if the printed number occurs only in a format that is not enabled by default."""
    holders = [fit.format for fit in card.fits if f"card number of {fit.format}" in card.printed]
    return bool(holders) and not any(name in DEFAULT_FORMATS for name in holders)
