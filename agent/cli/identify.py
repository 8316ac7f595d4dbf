"""`badge-agent identify`: recognise the reader on a serial port, its cards and its wiring faults."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence

import click

from agent.cli.console import Finding, show, table
from agent.errors import PortBusyError
from agent.readers.cards.badge_id import raw_badge_id
from agent.readers.cards.formats import FORMATS
from agent.readers.detect.advice import advice, reader_block
from agent.readers.detect.match import PLAIN, Card, Fit, LineForm, ProtocolMatch, Recording, match, ranked
from agent.readers.detect.osdp_search import OSDP_SPEEDS, OsdpReader, osdp_readers
from agent.readers.detect.own_uart import Advice, users_of
from agent.readers.detect.scan import BUDGET_S, SPEEDS, Attempt, survey
from agent.readers.port import Port
from agent.readers.port_names import stable_name_of
from agent.readers.protocol import PARITIES, LineSettings
from agent.settings import DEFAULT_FORMATS

_LISTEN_FIRST = 2  # line speeds, before a command is sent to a line

_NO_STABLE_NAME = Finding(
    "port",
    "warning",
    "has no name under /dev/serial/by-id, so it may get another number when it is plugged in again",
    "with one adapter that is no harm; with several, use the name under /dev/serial/by-path/",
)


@click.command(
    "identify", epilog="Example: badge-agent identify --port /dev/ttyUSB0 --printed-number 6547886"
)
@click.option("--port", required=True, metavar="DEVICE", help="The serial port: ls -l /dev/serial/by-id/")
@click.option("--baud", type=click.IntRange(50, 4_000_000), help="Listen at this line speed only.")
@click.option("--printed-number", type=click.IntRange(0), help="The number printed on the card.")
@click.option("--json", "as_json", is_flag=True, help="Answer with one JSON object.")
@click.pass_context
def command(
    context: click.Context, *, port: str, baud: int | None, printed_number: int | None, as_json: bool
) -> None:
    """Identify the reader on a serial port, while you present a card.

    Tries every protocol at the usual line speeds, with 8N1 and then 7E1, 8E1 and
    8O1, reports the card and wiring faults, and prints the block for the configuration.
    Ends when the card was read three times, or after a minute. A line on which
    nothing is received is searched for OSDP readers, which need no card for that.

    \b
    Exit code:
      0   a card or an OSDP reader was identified
      1   none was, or the port cannot be used
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    click.echo(f"Present one card to the reader about once a second ({BUDGET_S:.0f} s at most).", err=True)
    recordings, osdp = _survey(port, baud)
    users = users_of(port)
    if not as_json:
        for user in users:
            show(Finding("port", "warning", user.text, user.next))
    if osdp:
        _show_osdp(osdp, port, users, as_json=as_json)
        context.exit(0)
    candidates = ranked(
        candidate for recording in recordings for candidate in match(recording, printed_number)
    )
    best = candidates[0] if candidates else None
    findings = [*users, *advice(recordings, candidates)]
    stable_name = stable_name_of(port)
    if as_json:
        click.echo(json.dumps(_answer(recordings, candidates, findings, port, stable_name)))
    else:
        for found in findings[len(users) :]:
            show(Finding("line", "warning", found.text, found.next))
        if best is not None:
            _show(best, candidates, printed_number)
        if best is not None and best.card is not None:
            _show_block(best, best.card, port, stable_name)
    context.exit(0 if best is not None and best.card is not None else 1)


def _survey(port: str, baud: int | None) -> tuple[list[Recording], list[OsdpReader]]:
    """What was received, and the OSDP readers that answered on a line without a sound."""

    def open_line(baudrate: int, form: LineForm) -> Port:
        line = LineSettings(baudrate, form.data_bits, PARITIES[form.parity], hold_reset_lines=True)
        return Port(port, line)

    def trying(attempt: Attempt) -> None:
        form = "" if attempt.form == PLAIN else f", {attempt.form}"
        asked = f", polling as {attempt.asked} needs it" if attempt.asked else ""
        click.echo(f"  {attempt.baudrate} baud{form}{asked} ...", err=True)

    def searching(where: str) -> None:
        click.echo(f"  {where} ...", err=True)

    speeds = SPEEDS if baud is None else (baud,)
    recordings: list[Recording] = []
    try:
        for recording in survey(
            open_line, speeds, monotonic_s=time.monotonic, trying=trying, budget_s=BUDGET_S
        ):
            recordings.append(recording)
            if len(recordings) == min(_LISTEN_FIRST, len(speeds)) and not any(map(_bytes, recordings)):
                osdp_speeds = OSDP_SPEEDS if baud is None else (baud,)
                found = osdp_readers(open_line, osdp_speeds, monotonic_s=time.monotonic, trying=searching)
                if found:
                    return recordings, found
    except PortBusyError as error:
        raise PortBusyError(
            str(error),
            hint=f"if that is the agent: sudo systemctl stop badge-agent, and start it again when done. "
            f"Otherwise {error.hint}",
        ) from error
    return recordings, []


def _bytes(recording: Recording) -> int:
    return recording.bytes


def _show_osdp(readers: Sequence[OsdpReader], port: str, users: Sequence[Advice], *, as_json: bool) -> None:
    stable_name = stable_name_of(port)
    blocks = "\n\n".join(_osdp_block(reader, stable_name or port) for reader in readers)
    if as_json:
        found = [
            {
                "baudrate": reader.baudrate,
                "address": reader.address,
                "requires_key": reader.contact.refuses_key,
                "offers_secure_channel": reader.contact.offers_secure_channel,
                "identity": identity._asdict() if (identity := reader.contact.identity) else None,
            }
            for reader in readers
        ]
        answer = {"identified": True, "port": port, "lasting_port": stable_name, "protocol": "osdp"}
        answer |= {"baudrate": readers[0].baudrate, "osdp": found, "config": blocks}
        answer |= {"findings": [dataclasses.asdict(user) for user in users]}
        click.echo(json.dumps(answer))
        return
    for reader in readers:
        contact = reader.contact
        who = "" if contact.identity is None else f", {contact.identity}"
        security = {True: ", with the secure channel", False: ", without the secure channel", None: ""}
        how = ", which requires a key" if contact.refuses_key else security[contact.offers_secure_channel]
        click.echo(f"OSDP reader at {reader.baudrate} baud, address {reader.address}{who}{how}")
    click.echo(f"\nFor the configuration file, or let setup write it and set the key:\n\n{blocks}")
    if stable_name is None:
        click.echo()
        show(_NO_STABLE_NAME)


def _osdp_block(reader: OsdpReader, port: str) -> str:
    """The [[readers]] table for the configuration file."""
    secure = "none" if reader.contact.offers_secure_channel is False else "required"
    return "\n".join(
        [
            "[[readers]]",
            f'id = "RDR-{101 + reader.address}"        # your name for it',
            'zone_id = "ZONE-1"    # your name for where it is',
            f'port = "{port}"',
            'protocol = "osdp"',
            f"baudrate = {reader.baudrate}",
            f'options = {{ address = {reader.address}, secure = "{secure}" }}',
        ]
    )


def _show(best: ProtocolMatch, candidates: Sequence[ProtocolMatch], printed_number: int | None) -> None:
    form = "" if best.form == PLAIN else f", {best.form}"
    click.echo(f"Protocol {best.protocol} at {best.baudrate} baud{form}{_alternatives(best, candidates)}")
    if best.is_random:
        return
    for card in best.cards:
        times = "once" if card.times == 1 else f"{card.times} times"
        click.echo(f"\nCard: {card.bits} bits, raw {card.raw}, check {card.check}, read {times}")
        if card.fits:
            rows = [_row(fit, card) for fit in card.fits]
            table(("", "format", "facility code", "card number", "issue", ""), rows)
        else:
            click.echo(
                f"  No format of the table fits; its default badge_id is {raw_badge_id(card.bits, card.raw)}"
            )
        if card.printed:
            click.echo(f"  The printed number is its {', '.join(card.printed)}.")
        elif printed_number is not None:
            click.echo("  The printed number is in none of its fields.")


def _alternatives(best: ProtocolMatch, candidates: Sequence[ProtocolMatch]) -> str:
    """Other protocols that read the same card as often: the bytes fit all of them."""
    if best.card is None:
        return ""
    names = sorted(
        {candidate.protocol for candidate in candidates if _is_as_good(candidate, best)} - {best.protocol}
    )
    return f" (the same bytes can also be read as {', '.join(names)})" if names else ""


def _is_as_good(candidate: ProtocolMatch, best: ProtocolMatch) -> bool:
    return (
        candidate.card is not None
        and best.card is not None
        and (candidate.baudrate, candidate.form) == (best.baudrate, best.form)
        and candidate.noise <= best.noise
        and candidate.card.times >= best.card.times
    )


def _row(fit: Fit, card: Card) -> tuple[str, ...]:
    mark = "->" if f"card number of {fit.format}" in card.printed else ""
    numbers = (fit.facility_code, fit.card_number, fit.issue)
    remark = FORMATS[fit.format].contested
    if fit.format in DEFAULT_FORMATS:
        remark = "enabled by default"
    return mark, fit.format, *("" if number is None else str(number) for number in numbers), remark


def _show_block(best: ProtocolMatch, card: Card, port: str, stable_name: str | None) -> None:
    click.echo("\nFor the configuration file:\n")
    click.echo(reader_block(best, card, stable_name or port))
    if stable_name is None:
        click.echo()
        show(_NO_STABLE_NAME)


def _answer(
    recordings: Sequence[Recording],
    candidates: Sequence[ProtocolMatch],
    findings: Sequence[Advice],
    port: str,
    stable_name: str | None,
) -> dict[str, object]:
    best = candidates[0] if candidates else None
    card = best.card if best is not None else None
    heard_bytes: dict[str, int] = {}
    for recording in recordings:
        speed = str(recording.baudrate)
        heard_bytes[speed] = heard_bytes.get(speed, 0) + recording.bytes
    return {
        "identified": card is not None,
        "port": port,
        "lasting_port": stable_name,
        "protocol": best.protocol if best is not None else None,
        "baudrate": best.baudrate if best is not None else None,
        "cards": [_json_card(seen) for seen in best.cards] if best is not None and card is not None else [],
        "findings": [dataclasses.asdict(found) for found in findings],
        "bytes": heard_bytes,
        "config": reader_block(best, card, stable_name or port)
        if best is not None and card is not None
        else None,
    }


def _json_card(card: Card) -> dict[str, object]:
    return {
        "bits": card.bits,
        "raw": card.raw,
        "check": card.check,
        "times": card.times,
        "formats": [
            {
                **dataclasses.asdict(fit),
                "default": fit.format in DEFAULT_FORMATS,
                "contested": FORMATS[fit.format].contested,
            }
            for fit in card.fits
        ],
        "printed": list(card.printed),
    }
