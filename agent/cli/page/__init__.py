"""badge-agent page: the door as a web page on the loopback interface, while the command runs."""

from __future__ import annotations

import contextlib
import secrets
import signal
from pathlib import Path

import click

from agent.cli import config_option
from agent.cli.door_view import look_at, masked, note_cards, plain, view_of
from agent.cli.page.html import document
from agent.cli.page.server import PageServer
from agent.cli.state_access import load_as_owner
from agent.cli.watch import interrupt
from agent.errors import AgentError

_TOKEN_BYTES = 16
_ABOUT = "changes every 2 seconds; Ctrl-C on the command line ends it"


@click.command("page", epilog="Example: ssh -t -L 8765:127.0.0.1:8765 DOOR sudo badge-agent page")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8765, show_default=True, help="0: any free port."
)
@click.option(
    "--show-cards",
    is_flag=True,
    help="Show badge ids; without it all but their last two characters are hidden.",
)
@config_option
def command(config: Path, port: int, *, show_cards: bool) -> int:
    """Show the screen of `watch` as a web page on 127.0.0.1 until Ctrl-C.

    The address has a random token, so that other users of this machine cannot see the page. The page has no
    script. It cannot change anything.
    """
    settings = load_as_owner(config)
    card = plain if show_cards else masked
    look_at(settings)  # raises without permission
    if show_cards:
        note_cards(settings)
    token = secrets.token_urlsafe(_TOKEN_BYTES)

    def page() -> str:
        return document(view_of(look_at(settings), settings, card=card, about=_ABOUT))

    try:
        server = PageServer(port, token, page)
    except OSError as error:
        raise AgentError(
            f"127.0.0.1 port {port}: {error.strerror}", hint="choose another one, or any free one: --port 0"
        ) from error
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    with contextlib.suppress(KeyboardInterrupt), server:
        click.echo(server.url)
        click.echo(f"from another machine: ssh -L {server.port}:127.0.0.1:{server.port} DOOR; Ctrl-C ends it")
        server.serve()
    return 0
