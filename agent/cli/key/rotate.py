"""badge-agent key rotate: replace the private key of a running agent."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from agent.cli import config_option
from agent.cli.console import Finding, show
from agent.cli.key.alter_user import describe, set_key, unset_key
from agent.cli.operator_action import record
from agent.config.loader import load
from agent.errors import AgentError, SnowpipeError
from agent.keys.key_store import key_store_of, replacing_key
from agent.keys.keypair import KeyPair, Slot, load_private_key
from agent.service.key_rotation import activate, is_accepted, other_slot, prepare, unfinished
from agent.settings import Settings

# Between two attempts: short at first, as an administrator is running the SQL, then longer.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2, 15
_UNATTENDED_S = 600

_SLOTS: dict[str, Slot] = {"1": "RSA_PUBLIC_KEY", "2": "RSA_PUBLIC_KEY_2"}


@click.command("rotate", epilog="Example: sudo badge-agent key rotate")
@click.option(
    "--slot",
    type=click.Choice(list(_SLOTS)),
    help="Where to register the new key: RSA_PUBLIC_KEY or RSA_PUBLIC_KEY_2 (else the slot not in use).",
)
@click.option(
    "--private-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Use this key instead of making one: doors with the same user share one key.",
)
@click.option("--yes", is_flag=True, help=f"Do not ask; give up after {_UNATTENDED_S // 60} minutes.")
@config_option
def rotate_command(slot: str | None, private_key_file: Path | None, config: Path, *, yes: bool) -> None:
    """Change the private key without interrupting delivery.

    Makes a new key, prints the SQL that registers it as the user's second key, waits until Snowflake
    accepts it, makes the running agent sign with it, and prints the SQL that removes the old one.
    Readers are not interrupted. After Ctrl-C, run it again: it continues with the same key.
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("not at a terminal: add --yes to wait for a limited time")
    settings = load(config)
    with replacing_key(settings.snowflake.private_key_file):
        _rotate(
            settings,
            slot=_SLOTS[slot] if slot else None,
            private_key_file=private_key_file,
            limit_s=_UNATTENDED_S if yes else None,
        )


def _rotate(
    settings: Settings, *, slot: Slot | None, private_key_file: Path | None, limit_s: float | None
) -> None:
    store = key_store_of(settings)
    interrupted = unfinished(settings, store)
    given = private_key_file and load_private_key(private_key_file)
    if interrupted is not None:
        click.echo("Completing an earlier rotation: the running agent does not use the stored key yet.")
    key = interrupted or prepare(store, given=given or None, slot=slot)
    user = settings.snowflake.user
    number, others = ("2", "1") if key.slot == "RSA_PUBLIC_KEY_2" else ("1", "2")
    click.echo(
        "For your administrator, in Snowflake:\n"
        f"  {describe(user)}  -- if key {number} is the one in use, run this again with --slot {others}\n"
        f"  {set_key(user, key)}\n"
    )
    _wait(settings, key, limit_s=limit_s)
    show(Finding("Snowflake", "ok", f"accepts the new key, {key.fingerprint}"))
    if interrupted is None:
        store.switch()
    record(settings, "key_rotate", "stored a new private key", fingerprint=key.fingerprint)
    pid = activate(settings, key)
    if pid is None:
        show(Finding("agent", "warning", "not running; its next start uses the new key"))
    else:
        show(Finding("agent", "ok", f"signs with the new key (pid {pid}, not restarted)"))
    click.echo(
        f"\nRemove the old key, in Snowflake:\n  {unset_key(user, other_slot(key.slot))}\n"
        "Only after every door with this user has the new key."
    )


def _wait(settings: Settings, key: KeyPair, *, limit_s: float | None) -> None:
    """Return when Snowflake accepts the key. Raises AgentError or SnowpipeError after the limit."""
    give_up_at = None if limit_s is None else time.monotonic() + limit_s
    reported = ""
    for pause in _pauses():
        refusal = _refusal(settings, key)
        _rewrite_line("")
        if refusal is None:
            return
        if give_up_at is not None and time.monotonic() + pause > give_up_at:
            refusal.hint = "correct that, then run the same command: it continues with the same key"
            raise refusal
        if str(refusal) != reported:
            reported = str(refusal)
            click.echo(f"{reported}: waiting (Ctrl-C to stop; run again to continue with the same key)")
        _count_down(pause)


def _refusal(settings: Settings, key: KeyPair) -> AgentError | None:
    """Why Snowflake does not accept the key, or None."""
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
            _rewrite_line(f"next try in {left} s")
        time.sleep(1)


def _rewrite_line(text: str) -> None:
    """Replace the countdown line on a terminal."""
    clear = "\r\x1b[K" if sys.stdout.isatty() else ""
    click.echo(clear + text, nl=False)
