"""badge-agent pseudonym: what the agent sends instead of a badge id with card_numbers = "keyed"."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from agent.cli import config_option
from agent.cli.state_access import load_as_owner
from agent.errors import ConfigError
from agent.keys.site_key import SiteKey, load_site_key, read_site_key

_HEADER = ["badge_id", "user_id"]


@click.command(
    "pseudonym",
    epilog="""
\b
  sudo badge-agent pseudonym --cardholders < cardholders.csv > keyed.csv
  sudo badge-agent pseudonym 123-45015
""",
)
@click.argument("badge_ids", metavar="[BADGE_ID]...", nargs=-1)
@click.option(
    "--cardholders", is_flag=True, help="Read a cardholders file on standard input, and print it keyed."
)
@click.option(
    "--site-key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Use the key of this file.",
)
@config_option
def command(badge_ids: tuple[str, ...], config: Path, *, cardholders: bool, site_key: Path | None) -> None:
    """Compute the pseudonyms of badge ids.

    Badge ids as the reader's badge_id template makes them, from the arguments or one per line on standard
    input: other users of this machine can see arguments. One pseudonym per line is printed.
    """
    if cardholders and badge_ids:
        raise click.UsageError("--cardholders reads standard input: name no badge ids")
    key = read_site_key(site_key) if site_key else load_site_key(load_as_owner(config, with_key=True))
    if cardholders:
        csv.writer(sys.stdout, lineterminator="\n").writerows(_keyed(key, sys.stdin))
        return
    for badge_id in badge_ids or filter(None, map(str.strip, sys.stdin)):
        click.echo(key.badge(badge_id))


def _keyed(key: SiteKey, lines: Iterable[str]) -> Iterator[list[str]]:
    """The lines of a cardholders file with pseudonyms. Raises ConfigError, which names no badge."""
    table = csv.reader(lines)
    if [name.strip("\ufeff ") for name in next(table, [])] != _HEADER:
        raise ConfigError("standard input: line 1 must be: badge_id,user_id")
    yield _HEADER
    for line in filter(None, table):
        if len(line) != len(_HEADER):
            raise ConfigError(f"standard input: line {table.line_num} must be badge_id,user_id")
        yield [key.badge(line[0].strip()), line[1].strip()]
