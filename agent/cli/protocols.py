"""`badge-agent protocols`: the wire protocols and card formats a configuration can name."""

from __future__ import annotations

import inspect
import json

import click

from agent.readers.protocol import LineSettings
from agent.readers.protocols import PROTOCOLS
from agent.readers.wiegand import DEFAULT_FORMATS, FORMATS


@click.command("protocols")
@click.option("--json", "as_json", is_flag=True, help="Answer with one JSON object.")
def command(*, as_json: bool) -> None:
    """List the wire protocols and card formats that a reader can be configured with."""
    if as_json:
        click.echo(json.dumps({"protocols": _protocols(), "formats": _formats()}))
        return
    click.echo("protocol = one of:")
    for name, factory in PROTOCOLS.items():
        line = factory().line
        click.echo(f"  {name:<12}{_line_words(line):<12}{_readers(name)}")
    click.echo("\nformats = any of (* enabled by default):")
    for known in FORMATS.values():
        mark = "*" if known.name in DEFAULT_FORMATS else " "
        click.echo(f"{mark} {known.name:<12}{f'{known.bits} bits':<12}{known.description}")
    click.echo("\nTo find out what a card is: badge-agent decode PROTOCOL ...")


def _protocols() -> list[dict[str, str | int]]:
    listed: list[dict[str, str | int]] = []
    for name, factory in PROTOCOLS.items():
        line = factory().line
        listed.append(
            {
                "name": name,
                "readers": _readers(name),
                "baudrate": line.baudrate,
                "data_bits": line.data_bits,
                "parity": line.parity,
                "stop_bits": line.stop_bits,
            }
        )
    return listed


def _formats() -> list[dict[str, str | int | bool]]:
    return [
        {
            "name": known.name,
            "description": known.description,
            "bits": known.bits,
            "default": known.name in DEFAULT_FORMATS,
        }
        for known in FORMATS.values()
    ]


def _line_words(line: LineSettings) -> str:
    return f"{line.baudrate} {line.data_bits}{line.parity}{line.stop_bits}"


def _readers(name: str) -> str:
    return (inspect.getdoc(PROTOCOLS[name]) or "").partition("\n")[0].removesuffix(".")
