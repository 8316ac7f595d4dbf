"""badge-agent watch: the door in one screen, or one JSON line per change."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import click

from agent.cli import config_option
from agent.cli.changes import Changes
from agent.cli.console import is_terminal, screen
from agent.cli.door_view import LOOK_EVERY_S, look_at, masked, note_cards, plain, view_of
from agent.cli.state_access import load_as_owner
from agent.settings import Settings

_QUIT_KEYS = b"qQ"
_HELP = "q: quit"


@click.command(
    "watch", epilog="Example: sudo badge-agent watch --json | mosquitto_pub -l -t doors/hq-lobby-1"
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object a line: the present state, then each change.",
)
@click.option(
    "--show-cards",
    is_flag=True,
    help="Show badge ids; without it all but their last two characters are hidden.",
)
@config_option
def command(config: Path, *, as_json: bool, show_cards: bool) -> int:
    """Show readers, swipes, outbox and uploader on one screen, as they change; q quits.

    Reads the outbox and the running agent's status file twice a second, without affecting the agent. A swipe
    is first "on disk", then "in Snowflake".
    """
    if not as_json and not is_terminal():
        raise click.UsageError("standard output is no terminal; for a program: --json")
    settings = load_as_owner(config)
    card = plain if show_cards else masked
    if show_cards:
        note_cards(settings)
    # Ctrl-C, and the end of a terminal or of a unit, are the ways to end it without a key.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        if as_json:
            _print_changes(settings, card)
        else:
            _draw(settings, card)
    return 0


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """A signal handler: end as Ctrl-C does."""
    raise KeyboardInterrupt


def _draw(settings: Settings, card: Callable[[str], str]) -> None:
    with _keys() as is_quit, screen() as draw:
        while True:
            draw(view_of(look_at(settings), settings, card=card, about=_HELP))
            if is_quit(LOOK_EVERY_S):
                return


def _print_changes(settings: Settings, card: Callable[[str], str]) -> None:
    changes = Changes(settings, card)
    while True:
        for line in changes.look():
            click.echo(line)
        time.sleep(LOOK_EVERY_S)


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Read single keys, without echo; yields a function that waits and returns True for a key to quit."""
    descriptor = sys.stdin.fileno()
    if not os.isatty(descriptor):
        yield _no_key
        return
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield lambda wait_s: _is_quit(descriptor, wait_s)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _is_quit(descriptor: int, wait_s: float) -> bool:
    if not select.select([descriptor], [], [], wait_s)[0]:
        return False
    keys = os.read(descriptor, 64)
    return not keys or any(key in _QUIT_KEYS for key in keys)  # no key: the terminal is gone


def _no_key(wait_s: float) -> bool:
    time.sleep(wait_s)
    return False
