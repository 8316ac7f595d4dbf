"""badge-agent setup: from an installed package to a running service, at a terminal or unattended."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from agent.cli import check, config_option
from agent.cli.check.runner import Found
from agent.cli.check.snowflake import snowflake_steps
from agent.cli.console import Finding, show
from agent.cli.key.alter_user import compare, set_key
from agent.cli.setup.prompts import QUESTIONS, READER_KEYS, Reader, asked, filled, reader_options
from agent.config import loader as configuration
from agent.config.editor import Document, read_document, write_document
from agent.config.loader import settings_of
from agent.errors import AuthError, ConfigError, KeyFileError, NotPermittedError, SnowpipeError
from agent.keys import systemd_creds
from agent.keys.keypair import KeyPair, load_private_key, new_key, parse_private_key, pem
from agent.keys.lookup import hand_over, is_handed_over
from agent.service import systemctl

_FILE = click.Path(path_type=Path, dir_okay=False)

_EPILOG = """\b
Examples:
  sudo badge-agent setup
  sudo badge-agent setup --yes --account MYORG-MYACCOUNT \\
    --user SFE_INGEST_USER --role SFE_INGEST_ROLE \\
    --database SNOWFLAKE_EXAMPLE --schema RAW_INGESTION \\
    --pipe SFE_BADGE_EVENTS_PIPE --agent-id hq-lobby-1 \\
    --reader id=RDR-101,zone=ZONE-LOBBY-1,protocol=rdm6300,direction=ENTRY
"""


def _answers(function: Callable[..., Any]) -> Callable[..., Any]:
    """An option for every question."""
    for question in reversed(QUESTIONS):
        name = f"--{question.option.replace('_', '-')}"
        function = click.option(name, question.option, metavar="NAME", help=f"{question.text}.")(function)
    return function


@click.command("setup", epilog=_EPILOG)
@_answers
@click.option(
    "--reader",
    "readers",
    callback=reader_options,
    multiple=True,
    metavar="KEY=VALUE,...",
    help=f"A reader, of: {', '.join(READER_KEYS)}. Several formats are joined by +. Without port: the only "
    "serial port there is. Give it again for each reader of this door.",
)
@click.option("--url", metavar="URL", help="Where the account answers, if not at its usual address.")
@click.option("--ca-file", type=_FILE, help="One more certificate authority, as of a proxy.")
@click.option("--trust-clock", is_flag=True, help="This machine's clock is right without synchronisation.")
@click.option("--private-key-file", type=_FILE, help="Take this key, instead of making one.")
@click.option("--private-key-passphrase-file", type=_FILE, help="The passphrase of that key.")
@click.option("--yes", is_flag=True, help="Ask nothing: what is not given and not configured is an error.")
@click.option("--no-start", is_flag=True, help="Leave the service as it is.")
@config_option
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    readers: tuple[Reader, ...],
    url: str | None,
    ca_file: Path | None,
    trust_clock: bool,
    private_key_file: Path | None,
    private_key_passphrase_file: Path | None,
    yes: bool,
    no_start: bool,
    config: Path,
    **options: str | None,
) -> None:
    """Set this door up: key, configuration, service.

    Asks for what is not given as an option. Makes the private key and stores it for the service,
    encrypted where this machine can; writes the configuration; prints the SQL to run; checks; starts.
    It can be run again: the key stays, and so does every setting that is not given anew.

    \b
    Exit code:
      0   done; Snowflake may not know the key yet
      1   done, but the check found something on this machine, or the service does not start
      2   an answer is missing
      77  only root may
      78  an answer is wrong, or the key or the present configuration cannot be used
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    config = config.absolute()
    _require_root(config)
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("nobody can answer here: give every answer as an option, and --yes")
    before = read_document(config)
    source = _KeyFile(private_key_file, private_key_passphrase_file) if private_key_file else None
    source = source or _configured_key(before, config)
    wanted = source and load_private_key(source.path, source.passphrase_file)
    document = (filled if yes else asked)(before, options, readers)
    _put_more(document, url=url, ca_file=ca_file, trust_clock=trust_clock)
    for name in ("private_key_file", "private_key_passphrase_file"):
        document["snowflake"].pop(name, None)
    _require_right(document, config)
    if not yes and not click.confirm(f"Write {config} and the key?", default=True):
        raise click.Abort

    key, is_new = _store_key(wanted or None, source)
    changed = _write(config, document, before) or is_new
    runtime_dir = configuration.load(config).agent.runtime_dir
    if is_new and is_handed_over(runtime_dir):
        hand_over(runtime_dir, key)  # else the check would find the one from the last rotation
    _tell_sql(document["snowflake"]["user"], key)
    code = _check(config)
    if no_start:
        show(Finding("service", "ok", "left as it is", f"sudo systemctl enable --now {systemctl.UNIT}"))
    else:
        _start(config, changed=changed)
    context.exit(code)


def _require_root(config: Path) -> None:
    """What is to be written must be writable; as a rule that takes root. Raises NotPermittedError."""
    for place in (config.parent, systemd_creds.ETC):
        nearest = next(path for path in (place, *place.parents) if path.exists())
        if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=True):
            raise NotPermittedError(
                f"setup writes below {nearest}, which this user may not", hint="sudo badge-agent setup"
            )


def _require_right(document: Document, config: Path) -> None:
    """Every problem at once, before anything is changed. Raises ConfigError."""
    try:
        settings_of(document, config)
    except ConfigError as error:
        error.hint = "nothing was changed: correct these answers, and run setup again"
        raise


def _put_more(document: Document, *, url: str | None, ca_file: Path | None, trust_clock: bool) -> None:
    if url is not None:
        document["snowflake"]["url"] = url
    if ca_file is not None:
        document["snowflake"]["ca_file"] = str(ca_file.absolute())
    if trust_clock:
        document.setdefault("clock", {})["trust"] = "always"


# --- the key ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _KeyFile:
    """A key to be taken over."""

    path: Path
    passphrase_file: Path | None


def _configured_key(before: Document, config: Path) -> _KeyFile | None:
    """The file that the configuration names so far; the service gets its key as its credential."""
    named = settings_of(before, config).snowflake if before else None
    if named is None or named.private_key_file is None or not named.private_key_file.exists():
        return None
    return _KeyFile(named.private_key_file, named.private_key_passphrase_file)


def _store_key(wanted: KeyPair | None, source: _KeyFile | None) -> tuple[KeyPair, bool]:
    """The key that the service has from now on, and whether it is another one than before."""
    stored = systemd_creds.find()
    present = None if stored is None else _read_back(stored)
    if stored is not None and present is not None and wanted in (None, present):
        _show_key(present, stored, "as before")
        return present, False
    key = wanted or new_key()
    stored = systemd_creds.store(pem(key))
    if _read_back(stored) != key:
        raise KeyFileError(f"{stored.path}: does not give back the key that was stored", hint="df -h /etc")
    if source is None:
        _show_key(key, stored, "new")
    else:
        spare = f"the service needs the file no more: sudo rm {shlex.quote(str(source.path))}"
        _show_key(key, stored, "taken over", spare)
    return key, True


def _read_back(stored: systemd_creds.StoredKey) -> KeyPair:
    """The key as the next start will find it."""
    return parse_private_key(systemd_creds.read(stored), stored.path)


def _show_key(key: KeyPair, stored: systemd_creds.StoredKey, what: str, following: str = "") -> None:
    how = "encrypted for this machine" if stored.encrypted else "readable by root alone"
    show(Finding("key", "ok", f"{what}, {key.fingerprint}, {how}: {stored.path}", following))


# --- configuration, SQL, check, service ---------------------------------------------------------


def _write(config: Path, document: Document, before: Document) -> bool:
    """Put the configuration in place; whether that changed anything."""
    if document == before:
        show(Finding("configuration", "ok", f"{config}, as before"))
        return False
    _, kept = write_document(config, document)
    show(Finding("configuration", "ok", f"{config}" + (f"; the one before is {kept}" if kept else "")))
    return True


def _tell_sql(user: str, key: KeyPair) -> None:
    click.echo(
        "\nFor your administrator, in Snowflake:\n"
        f"  {set_key(user, key)}\n"
        f"  {compare(user, key)}\n"
        "Where another door uses this user already, the first line would lock that door out: give this one\n"
        "a user of its own, or that door's key (--private-key-file).\n"
        "Where user, role, table or pipe are not there yet: sudo badge-agent sql\n"
    )


def _check(config: Path) -> int:
    """Everything that must be right, shown; 1 where something on this machine is not."""
    network = {step.name for step in snowflake_steps(configuration.load(config))}
    founds = list(check.shown(map(_told_above, check.look(config))))
    if any(found.exit_code and found.finding.name in network for found in founds):
        click.echo(
            "Swipes are kept until Snowflake takes them; what is still missing: sudo badge-agent check"
        )
    local = {found.exit_code for found in founds if found.finding.name not in network}
    return 1 if local - {0, SnowpipeError.exit_code} else 0


def _told_above(found: Found) -> Found:
    """A key that is not registered yet needs no second page of SQL."""
    if found.finding.name == "JWT" and found.exit_code == AuthError.exit_code:
        return replace(
            found, finding=replace(found.finding, next="the SQL above; then: sudo badge-agent check")
        )
    return found


def _start(config: Path, *, changed: bool) -> None:
    by_hand = f"badge-agent run --config {config}"
    if not systemctl.is_installed():
        show(Finding("service", "warning", f"there is no systemd with {systemctl.UNIT} here", by_hand))
    elif config != configuration.DEFAULT_CONFIG:
        text = f"not started: it reads {configuration.DEFAULT_CONFIG}"
        show(Finding("service", "warning", text, by_hand))
    else:
        was_active = systemctl.is_active()
        systemctl.enable_and_start()
        if was_active and changed:
            systemctl.restart()
        show(Finding("service", "ok", "runs, and starts with the machine", "sudo badge-agent status"))
