"""badge-agent key rotate: from the SQL that registers the next key to the SQL that removes the last one."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from agent.cli import config_option
from agent.cli.console import Finding, show
from agent.cli.key.alter_user import describe, set_key, unset_key
from agent.config.loader import load
from agent.errors import AgentError, SnowpipeError
from agent.keys.key_store import key_store_of
from agent.keys.keypair import KeyPair, Slot, load_private_key
from agent.service.key_rotation import activate, is_accepted, other_slot, prepare, unfinished
from agent.settings import Settings

# An administrator is at it: soon at first, then often enough to be no trouble to anyone.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2, 15
_UNATTENDED_S = 600

_SLOTS: dict[str, Slot] = {"1": "RSA_PUBLIC_KEY", "2": "RSA_PUBLIC_KEY_2"}


@click.command("rotate", epilog="Example: sudo badge-agent key rotate")
@click.option(
    "--slot",
    type=click.Choice(list(_SLOTS)),
    help="Where the new key is registered, RSA_PUBLIC_KEY or RSA_PUBLIC_KEY_2 (else the one that is free).",
)
@click.option(
    "--private-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Take this key, instead of making one: doors of one user share their key.",
)
@click.option(
    "--yes", is_flag=True, help=f"Unattended: give up after {_UNATTENDED_S // 60} minutes, instead of never."
)
@config_option
def rotate(slot: str | None, private_key_file: Path | None, config: Path, *, yes: bool) -> None:
    """Change the private key, without a moment in which none is good.

    Makes the next key, prints the SQL that registers it beside the present one, waits until Snowflake
    takes it, has the running agent sign with it, and prints the SQL that removes the present one.
    Reading goes on all the while. Interrupted, it goes on with the same key when it is run again.
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("nobody is here to wait with: give --yes to wait for a limited time")
    settings = load(config)
    place = key_store_of(settings)
    cut_short = unfinished(settings, place)
    given = private_key_file and load_private_key(private_key_file)
    if cut_short is not None:
        click.echo("The running agent does not sign with the key in place yet; that comes first.")
    key = cut_short or prepare(place, given=given or None, slot=_SLOTS[slot] if slot else None)
    user = settings.snowflake.user
    number, others = ("2", "1") if key.slot == "RSA_PUBLIC_KEY_2" else ("1", "2")
    click.echo(
        "For your administrator, in Snowflake:\n"
        f"  {describe(user)}  -- if key {number} is the one in use, run this again with --slot {others}\n"
        f"  {set_key(user, key)}\n"
    )
    _wait(settings, key, limit_s=_UNATTENDED_S if yes else None)
    show(Finding("Snowflake", "ok", f"takes the new key, {key.fingerprint}"))
    if cut_short is None:
        place.switch()
    pid = activate(settings, key)
    if pid is None:
        show(Finding("agent", "warning", "does not run; its next start takes the new key"))
    else:
        show(Finding("agent", "ok", f"signs with the new key (pid {pid}, not restarted)"))
    click.echo(
        f"\nNow the old key can go. In Snowflake:\n  {unset_key(user, other_slot(key.slot))}\n"
        "Not before every door of this user has the new key."
    )


def _wait(settings: Settings, key: KeyPair, *, limit_s: float | None) -> None:
    """Return when Snowflake takes the key. Raises AgentError or SnowpipeError after the limit."""
    give_up_at = None if limit_s is None else time.monotonic() + limit_s
    said = ""
    for pause in _pauses():
        refusal = _refusal(settings, key)
        _over("")
        if refusal is None:
            return
        if give_up_at is not None and time.monotonic() + pause > give_up_at:
            refusal.hint = "once that is put right, the same command goes on with the same key"
            raise refusal
        if str(refusal) != said:
            said = str(refusal)
            click.echo(f"{said}: waiting (Ctrl-C ends it; the same command goes on with the same key)")
        _count_down(pause)


def _refusal(settings: Settings, key: KeyPair) -> AgentError | None:
    """Why Snowflake does not take the key, or None."""
    try:
        if is_accepted(settings, key):
            return None
    except SnowpipeError as error:
        return error
    return AgentError("Snowflake does not know the new key yet")


def _pauses() -> Iterator[int]:
    pause = _FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(pause * 2, _LONGEST_PAUSE_S)


def _count_down(seconds: int) -> None:
    for left in range(seconds, 0, -1):
        if sys.stdout.isatty():
            _over(f"next try in {left} s")
        time.sleep(1)


def _over(text: str) -> None:
    """Write over the line that counts down."""
    clear = "\r\x1b[K" if sys.stdout.isatty() else ""
    click.echo(clear + text, nl=False)
