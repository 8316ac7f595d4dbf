"""Advice for the installer on what was recorded at a port, and the configuration block."""

from __future__ import annotations

import json
from collections.abc import Sequence

from agent.readers.cards.formats import FORMATS
from agent.readers.detect.line_options import suggestion
from agent.readers.detect.line_shape import masked, text_lines
from agent.readers.detect.match import (
    ALL_BITS,
    LOST_BITS_MAX,
    PLAIN,
    REVERSED_BYTES,
    Card,
    LineForm,
    ProtocolMatch,
    Recording,
)
from agent.readers.detect.own_uart import Advice
from agent.readers.protocols import PROTOCOLS
from agent.readers.wiring import SWAPPED_IN_A_ROW
from agent.settings import DEFAULT_FORMATS

_NULL_SHARE = 0.2


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
        return [_null_bytes(recordings) or _text(recordings) or _unreadable(recordings)]
    best = candidates[0]
    found = _of_line(best, recordings)
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
    elif 1 < len(best.lengths) <= max(best.lengths) - min(best.lengths) + 1 <= LOST_BITS_MAX + 1:
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


def _of_line(best: ProtocolMatch, recordings: Sequence[Recording]) -> list[Advice]:
    """Settings of the line, and text that the likeliest protocol does not explain."""
    found = []
    if best.form != PLAIN:
        bits = {7: "seven", 8: "eight"}[best.form.data_bits]
        named = " and ".join(_line_keys(best.form))
        found.append(
            Advice(
                f"the line has {bits} data bits and {best.form.parity} parity",
                f"{named}, as in the block below",
            )
        )
    if best.has_line_errors:
        found.append(
            Advice(
                f"the kernel counted {best.errors} at {best.baudrate} baud, {best.form}: the agent uses no "
                "frame with such an error",
                "check ground wire and cable; data bits, parity and stop bits are in the reader's manual",
            )
        )
    if best.ignores_checksum and best.card is None:
        found.append(
            Advice(
                f"each line ends in a checksum that {best.protocol} does not know: it is another reader's",
                'see its manual; if no protocol is for it: protocol = "line" with checksum = "xor"',
            )
        )
    if best.card is None and not (best.is_random or best.withheld or best.swapped or best.keys):
        found += [text] if (text := _text(recordings)) else []
    return found


def _text(recordings: Sequence[Recording]) -> Advice | None:
    """For clean text that no protocol knows: its shape without its numbers, and a template for it."""
    for recording in recordings:
        lines = text_lines(recording.data)
        if not lines:
            continue
        options, example = suggestion(lines)
        named = ", ".join(f"{key} = {_toml(value)}" for key, value in options.items())
        return Advice(
            f"clean text at {recording.baudrate} baud, of a form that no protocol has: {masked(example)}",
            f'protocol = "line" with options = {{ {named} }}; try it: badge-agent decode line --help'
            if options
            else "present a card; if these lines are one, the template has to be written by hand: "
            'README, "Readers that print a line"',
        )
    return None


def _toml(value: str | int) -> str:
    """A value as written in the configuration."""
    if isinstance(value, str) and '"' in value and "'" not in value:
        return f"'{value}'"
    return json.dumps(value)


def _null_bytes(recordings: Sequence[Recording]) -> Advice | None:
    """For a parity bit where the stop bit is expected: the driver gives NUL for these bytes."""
    for recording in recordings:
        data = recording.data
        rest = data.replace(b"\0", b"")
        if len(data) - len(rest) >= _NULL_SHARE * len(data) and text_lines(rest):
            return Advice(
                f"text with NUL bytes between at {recording.baudrate} baud: the line may have a parity bit",
                'set line_parity = "even" or "odd", as in the reader\'s manual',
            )
    return None


def _unreadable(recordings: Sequence[Recording]) -> Advice:
    speeds = sorted({recording.baudrate for recording in recordings if recording.bytes})
    forms = sorted({recording.form for recording in recordings if recording.bytes}, reverse=True)
    named = ", ".join(map(str, forms))
    received = sum(recording.bytes for recording in recordings)
    if len({recording.baudrate for recording in recordings}) == 1:
        return Advice(
            f"{received} bytes came at {speeds[0]} baud, {named}, and no frame: wrong line speed or unknown "
            "protocol",
            "leave --baud out to try the others",
        )
    return Advice(
        f"{received} bytes came, and no frame at any line speed ({', '.join(map(str, speeds))}) and {named}",
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
    lines += _line_keys(candidate.form)
    if card.printed and card.printed[0] in (ALL_BITS, REVERSED_BYTES):
        lines.append('badge_id = "{decimal}"')
    if card.printed and card.printed[0] == REVERSED_BYTES:
        lines.append('options = { byte_order = "reversed" }')
    return "\n".join(lines)


def _line_keys(form: LineForm) -> list[str]:
    """The keys of the configuration for a line other than 8N1."""
    data_bits = [] if form.data_bits == PLAIN.data_bits else [f"data_bits = {form.data_bits}"]
    return data_bits if form.parity == "none" else [*data_bits, f'line_parity = "{form.parity}"']


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
