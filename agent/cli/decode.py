"""`badge-agent decode`: decode the bytes or bits of a reader, for an installer and for programs."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any, get_args

import click

from agent.readers.cards.badge_id import raw_badge_id
from agent.readers.cards.decoder import Decoder
from agent.readers.cards.formats import FORMATS
from agent.readers.events import (
    ConditionChange,
    Noise,
    NoiseReason,
    Outcome,
    RawCredential,
    ReaderEvent,
    Status,
)
from agent.readers.protocol import OptionError
from agent.readers.protocols import STANDALONE, make_protocol, options_of
from agent.readers.protocols.bits import LONGEST_WORD_BITS
from agent.settings import DEFAULT_FORMATS, Keypad, ParityPolicy
from agent.swipe import CardCheck, CardRead

_HIGHEST_FACILITY_CODE = 255  # of H10301, which 26-bit pads send
# A line of --stdin: enough for every format by name and some thousand frames in hex.
_LONGEST_QUERY_BYTES = 65_536

_CHECK_WORDS = {
    CardCheck.PARITY: "parity holds",
    CardCheck.CHECKSUM: "the frame's checksum holds",
    CardCheck.UPSTREAM: "parity was checked and removed by the converter",
    CardCheck.NONE: "nothing to check it by",
    CardCheck.FAILED: "PARITY FAILED",
}

_NEXT_STEPS = {
    NoiseReason.CHECKSUM: "Swipe again. If it stays: check baud rate, ground wire and cable length.",
    NoiseReason.PARITY: "No enabled format fits. Swipe again; if it stays, name the card's format with "
    "--formats, or check whether D0 and D1 are exchanged.",
    NoiseReason.LENGTH: "No card has this length, or the digits do not fit it. Check ground wire and cable.",
    NoiseReason.SYNTAX: "Not the protocol's form. Check protocol and baud rate: badge-agent protocols",
    NoiseReason.TRUNCATED: "The frame stops in the middle. Give all of its bytes, a line with its line end.",
    NoiseReason.OVERSIZED: "Longer than any card. Check protocol and baud rate: badge-agent protocols",
    NoiseReason.STRAY: "No frame starts here. Check protocol and baud rate; give bytes in hex with --hex.",
    NoiseReason.NULL: "All zeros or all ones: no card. Check the data wires and the reader's supply.",
    NoiseReason.SWAPPED: "Only the complement is a card: exchange D0 and D1.",
    NoiseReason.OVERRUN: "The UART lost a byte: lower the reader's baud rate, or the load of the machine.",
    NoiseReason.FRAMING: "A byte without a stop bit. Check baud rate, line_parity and ground wire.",
    NoiseReason.LINE_PARITY: "A byte with wrong parity. Check line_parity, ground wire and cable length.",
    NoiseReason.UNCONFIRMED: "Read only once, and confirm_reads requires more: hold the card to the reader.",
}


class _BadLineError(ValueError):
    """A line of --stdin that cannot be decoded; the message is the reply."""


def _named_formats(_context: click.Context, _option: click.Parameter, text: str | None) -> Sequence[str]:
    if text is None:
        return DEFAULT_FORMATS
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise click.BadParameter(f"unknown: {', '.join(unknown)}. Known: {', '.join(FORMATS)}.")
    return names


def _options(_context: click.Context, _option: click.Parameter, settings: Sequence[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise click.BadParameter(f"{key}: give it as KEY=VALUE")
        options[key] = value
    return options


@click.command("decode")
@click.argument("protocol", type=click.Choice(list(STANDALONE)), required=False)
@click.argument("text", nargs=-1, metavar="[TEXT_OR_HEX]...")
@click.option("--hex", "as_hex", is_flag=True, help="The bytes are given in hex.")
@click.option("--formats", callback=_named_formats, help="Enabled card formats, by commas.")
@click.option(
    "--parity",
    type=click.Choice(get_args(ParityPolicy)),
    default="reject",
    show_default=True,
    help="A card whose parity fails is noise, or a card marked as failed.",
)
@click.option(
    "--keypad",
    type=click.Choice(get_args(Keypad)),
    default="none",
    show_default=True,
    help="The keys that the reader has.",
)
@click.option(
    "--pin-facility-code",
    type=click.IntRange(0, _HIGHEST_FACILITY_CODE),
    default=0,
    show_default=True,
    help="With card26: the facility code of PINs.",
)
@click.option(
    "--option", "options", multiple=True, callback=_options, metavar="KEY=VALUE", help="Of the protocol."
)
@click.option("--stdin", "from_stdin", is_flag=True, help="Read JSON lines, answer each with one.")
@click.option("--json", "as_json", is_flag=True, help="Answer with one JSON object.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    protocol: str | None,
    text: Sequence[str],
    as_hex: bool,
    from_stdin: bool,
    as_json: bool,
    **reader: Any,  # noqa: ANN401 - click has checked them: the reader's settings, as in a line of --stdin
) -> None:
    r"""Decode a reader's bytes: card, key or noise.

    \b
    badge-agent decode bits 26:2F657AE
    badge-agent decode rfideas 061-04822 --option bits=24 --option delimiter=-
    badge-agent decode rdm6300 --hex 02 30313030363345394145 3235 03

    With --stdin, JSON lines: {"bits": 26, "raw": "2F657AE"} or
    {"protocol": "rdm6300", "frame": "<hex>"}, each with "formats", "parity",
    "keypad", "pin_facility_code" and "options" if wanted.
    Exit code 1 when no card was found or a line was malformed.
    """
    if from_stdin:
        if protocol or as_hex or reader["options"]:
            raise click.UsageError(
                "--stdin takes everything from its lines: no PROTOCOL, TEXT, --hex or --option."
            )
        context.exit(_answer_lines(sys.stdin.buffer, reader))
    if not protocol or not text:
        raise click.UsageError("Name a PROTOCOL and what it received, e.g. decode bits 26:2F657AE")
    try:
        options = _typed(protocol, reader["options"])
        events = _events(protocol, options, _hex_bytes(text) if as_hex else _line_bytes(text))
    except OptionError as error:
        raise click.UsageError(f"--option {error}") from None
    outcomes = _outcomes(events, _decoder(reader))
    if as_json:
        click.echo(_json_answer(outcomes))
    else:
        click.echo("\n".join(map(_words, outcomes)) or "Nothing: no card, no key and no noise.")
    context.exit(0 if any(isinstance(outcome, CardRead) for outcome in outcomes) else 1)


def _typed(protocol: str, options: Mapping[str, str]) -> dict[str, object]:
    """The options of a command line, with numbers converted from text."""
    known = options_of(protocol)
    return {
        key: int(value)
        if key in known and isinstance(known[key].default, int) and value.isdecimal()
        else value
        for key, value in options.items()
    }


def _hex_bytes(text: Sequence[str]) -> bytes:
    try:
        return bytes.fromhex("".join(text))
    except ValueError:
        raise click.BadParameter(
            "not hex: give two digits for every byte.", param_hint="TEXT_OR_HEX"
        ) from None


def _line_bytes(text: Sequence[str]) -> bytes:
    # surrogateescape: an argument of the shell need not be UTF-8
    return b"".join(line.encode("utf-8", "surrogateescape") + b"\r\n" for line in text)


def _events(protocol: str, options: Mapping[str, object], data: bytes) -> list[ReaderEvent]:
    """The events of these bytes followed by silence. Raises OptionError."""
    wire = make_protocol(protocol, options)
    return [*wire.receive_data(data, 0.0), *wire.handle_timeout(math.inf)]


def _decoder(reader: Mapping[str, Any]) -> Decoder:
    return Decoder(
        reader["formats"],
        parity=reader["parity"],
        keypad=reader["keypad"],
        pin_facility_code=reader["pin_facility_code"],
    )


def _outcomes(events: Iterable[ReaderEvent], decoder: Decoder) -> list[Outcome | Status]:
    return [
        decoder(event) if isinstance(event, RawCredential) else event
        for event in events
        if not isinstance(event, ConditionChange)
    ]


def _words(outcome: Outcome | Status) -> str:
    """An outcome as text."""
    if isinstance(outcome, Status):
        return f"Status: {outcome.text}"
    if isinstance(outcome, Noise):
        return f"Noise ({outcome.reason}). {_NEXT_STEPS[outcome.reason]}"
    if not isinstance(outcome, CardRead):
        return "Key: a keypad key. Which one is never shown."
    card = f"Card: {outcome.bits} bits, raw {outcome.raw}, {_CHECK_WORDS[outcome.check]}."
    if outcome.format:
        fields = {
            "facility code": outcome.facility_code,
            "card number": outcome.card_number,
            "issue": outcome.issue,
            "OEM code": outcome.oem,
        }
        named = ", ".join(f"{label} {number}" for label, number in fields.items() if number is not None)
        return f"{card}\n  {outcome.format}: {named}"
    if outcome.matches:
        return f"{card}\n  {' and '.join(outcome.matches)} fit: enable only the one your cards use."
    return (
        f"{card}\n  No enabled format fits; its default badge_id is {raw_badge_id(outcome.bits, outcome.raw)}"
    )


def _json_answer(outcomes: Iterable[Outcome | Status]) -> str:
    said = list(outcomes)
    answer: dict[str, Any] = {
        "outcomes": [_json_outcome(outcome) for outcome in said if not isinstance(outcome, Status)]
    }
    if status := [outcome.text for outcome in said if isinstance(outcome, Status)]:
        answer["status"] = status
    return json.dumps(answer)


def _json_outcome(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Noise):
        return {"kind": "noise", "reason": outcome.reason}
    if not isinstance(outcome, CardRead):
        return {"kind": "key"}
    return {
        "kind": "card",
        "bits": outcome.bits,
        "raw": outcome.raw,
        "check": outcome.check,
        "format": outcome.format,
        "facility_code": outcome.facility_code,
        "card_number": outcome.card_number,
        **({} if outcome.issue is None else {"issue": outcome.issue}),
        **({} if outcome.oem is None else {"oem": outcome.oem}),
        "matches": outcome.matches,
    }


def _answer_lines(stream: IO[bytes], reader: Mapping[str, Any]) -> int:
    """Reply to every line as it arrives; exit code 1 if one was malformed."""
    exit_code = 0
    while line := stream.readline(_LONGEST_QUERY_BYTES + 1):
        try:
            if len(line) > _LONGEST_QUERY_BYTES:
                _skip_rest(line, stream)
                raise _BadLineError(f"longer than {_LONGEST_QUERY_BYTES} bytes; it was skipped")
            answer = _answer(line, reader)
        except _BadLineError as error:
            answer = json.dumps({"error": str(error)})
            exit_code = 1
        click.echo(answer)
    return exit_code


def _skip_rest(line: bytes, stream: IO[bytes]) -> None:
    """Skip to the end of a line without buffering it."""
    while line and not line.endswith(b"\n"):
        line = stream.readline(_LONGEST_QUERY_BYTES)


def _answer(line: bytes, defaults: Mapping[str, Any]) -> str:
    try:
        query = json.loads(line)
    except (ValueError, RecursionError):
        raise _BadLineError("not JSON") from None
    if not isinstance(query, dict):
        raise _BadLineError("not a JSON object")
    reader = {key: query.get(key, default) for key, default in defaults.items()}
    wrong = _problem_in(reader)
    if wrong:
        raise _BadLineError(wrong)
    return _json_answer(_outcomes(_query_events(query, reader["options"]), _decoder(reader)))


def _problem_in(reader: Mapping[str, Any]) -> str | None:
    """Why the settings of a line of JSON are invalid; None if they are valid."""
    formats, code = reader["formats"], reader["pin_facility_code"]
    if not isinstance(formats, (list, tuple)) or not all(isinstance(name, str) for name in formats):
        return "formats: not a list of names"
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        return f"formats: unknown {', '.join(unknown)}; known: {', '.join(FORMATS)}"
    for key, allowed in (("parity", get_args(ParityPolicy)), ("keypad", get_args(Keypad))):
        if reader[key] not in allowed:
            return f"{key}: not one of {', '.join(allowed)}"
    # bool is an int to Python, and true is no number
    if not isinstance(code, int) or isinstance(code, bool) or not 0 <= code <= _HIGHEST_FACILITY_CODE:
        return f"pin_facility_code: not a number from 0 to {_HIGHEST_FACILITY_CODE}"
    return None if isinstance(reader["options"], dict) else "options: not a JSON object"


def _query_events(query: dict[str, Any], options: Mapping[str, object]) -> list[ReaderEvent]:
    if "protocol" not in query:
        return [_query_credential(query.get("bits"), query.get("raw"))]
    protocol, frame = query["protocol"], query.get("frame")
    if not isinstance(protocol, str) or protocol not in STANDALONE:
        raise _BadLineError(f"protocol: unknown; known: {', '.join(STANDALONE)}")
    try:
        data = bytes.fromhex(frame if isinstance(frame, str) else "missing")
    except ValueError:
        raise _BadLineError("frame: not hex, two digits for every byte") from None
    try:
        return _events(protocol, options, data)
    except OptionError as error:
        raise _BadLineError(f"options: {error}") from None


def _query_credential(bits: object, raw: object) -> RawCredential:
    # bool is an int to Python, and true is no number of bits
    if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= LONGEST_WORD_BITS:
        raise _BadLineError(f"bits: not a number from 1 to {LONGEST_WORD_BITS}")
    if not isinstance(raw, str) or not re.fullmatch("[0-9A-Fa-f]+", raw):
        raise _BadLineError("raw: not hex")
    value = int(raw, 16)
    if value >> bits:
        raise _BadLineError(f"raw: wider than {bits} bits")
    return RawCredential(bits, value)
