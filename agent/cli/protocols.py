"""`badge-agent protocols`: the wire protocols and card formats a configuration can name."""

from __future__ import annotations

import inspect
import json
from typing import Any

import click

from agent.readers.cards.formats import FORMATS
from agent.readers.framing.screening import COMMON_OPTIONS
from agent.readers.protocol import Option
from agent.readers.protocols import PROTOCOLS, options_of
from agent.settings import DEFAULT_FORMATS


@click.command("protocols")
@click.option("--json", "as_json", is_flag=True, help="Answer with one JSON object.")
def command(*, as_json: bool) -> None:
    """List the wire protocols and card formats that a reader can be configured with."""
    if as_json:
        click.echo(json.dumps({"protocols": _protocols(), "formats": _formats()}))
        return
    click.echo("protocol = one of:")
    for name, protocol in PROTOCOLS.items():
        click.echo(f"  {name:<16}{protocol.line!s:<12}{_readers(name)}")
        for key, option in protocol.options.items():
            click.echo(f"  {'':<16}  options.{key} = {_default(option)}  {option.meaning}{_allowed(option)}")
    click.echo("  every protocol also has:")
    for key, option in COMMON_OPTIONS.items():
        click.echo(f"  {'':<16}  options.{key} = {_default(option)}  {option.meaning}{_allowed(option)}")
    click.echo("\nformats = any of (* enabled by default):")
    for known in FORMATS.values():
        mark = "*" if known.name in DEFAULT_FORMATS else " "
        click.echo(f"{mark} {known.name:<12}{f'{known.bits} bits':<12}{known.description}")
        if known.contested:
            click.echo(f"  {'':<24}use with care: {known.contested}")
    click.echo("\nTo find out what a card is: badge-agent decode PROTOCOL ...")


def _protocols() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "readers": _readers(name),
            "baudrate": protocol.line.baudrate,
            "data_bits": protocol.line.data_bits,
            "parity": protocol.line.parity,
            "stop_bits": protocol.line.stop_bits,
            "polled": protocol.polled,
            "options": {
                key: {"default": option.default, "meaning": option.meaning + _allowed(option)}
                for key, option in options_of(name).items()
            },
        }
        for name, protocol in PROTOCOLS.items()
    ]


def _formats() -> list[dict[str, str | int | bool]]:
    return [
        {
            "name": known.name,
            "description": known.description,
            "bits": known.bits,
            "default": known.name in DEFAULT_FORMATS,
            "contested": known.contested,
        }
        for known in FORMATS.values()
    ]


def _default(option: Option) -> str:
    return json.dumps(option.default)


def _allowed(option: Option) -> str:
    return f" ({' | '.join(option.allowed)})" if option.allowed else ""


def _readers(name: str) -> str:
    return (inspect.getdoc(PROTOCOLS[name]) or "").partition("\n")[0].removesuffix(".")
