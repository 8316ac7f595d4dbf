"""badge-agent setup: configures and starts an installed agent, interactively or unattended."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from agent.cli import check, config_option
from agent.cli.check.runner import Found
from agent.cli.check.snowflake import snowflake_steps
from agent.cli.console import Finding, show
from agent.cli.key.alter_user import compare, set_key
from agent.cli.operator_action import record
from agent.cli.setup.prompts import QUESTIONS, READER_KEYS, Reader, asked, filled, reader_options
from agent.cli.setup.reader_keys import give_keys
from agent.cli.state_access import give_up_root
from agent.config import loader as configuration
from agent.config.editor import Document, read_document, write_document
from agent.config.loader import settings_of
from agent.errors import AuthError, ConfigError, KeyFileError, NotPermittedError, SnowpipeError
from agent.keys import systemd_creds
from agent.keys.key_store import replacing_key
from agent.keys.keypair import KeyPair, load_private_key, new_key, parse_private_key, pem
from agent.keys.lookup import is_handed_over
from agent.keys.site_key import SiteKey, new_site_key, parse_site_key, read_site_key, write_site_key
from agent.owner import call_in_child
from agent.service import systemctl
from agent.service.key_rotation import pass_on
from agent.settings import Settings

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
    """Add an option for every question."""
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
    help=f"A reader, with the keys {', '.join(READER_KEYS)}. Join several formats with +. Default port: the "
    "only serial port of this machine. Repeat for each reader of this door.",
)
@click.option("--url", metavar="URL", help="URL of the account, if not the default one.")
@click.option(
    "--proxy-login-file", type=_FILE, help="A file of mode 0600 with one line, user:password, for the proxy."
)
@click.option(
    "--ca-file", type=_FILE, help="An additional certificate authority, for a proxy that inspects TLS."
)
@click.option(
    "--trust-clock", is_flag=True, help="Treat this machine's clock as correct without synchronisation."
)
@click.option("--private-key-file", type=_FILE, help="Use this key instead of making one.")
@click.option("--private-key-passphrase-file", type=_FILE, help="The passphrase of that key.")
@click.option(
    "--site-key",
    "site_key_file",
    type=_FILE,
    metavar="FILE",
    help="Replace card numbers by pseudonyms, with the key of this file. A file that does not exist is made, "
    "with the stored key or a new one. Take it to every door of the site, then delete it.",
)
@click.option(
    "--new-reader-key",
    "renewed_readers",
    multiple=True,
    metavar="ID",
    help="Give this OSDP reader a new key. A reader without a stored key gets one anyway.",
)
@click.option("--yes", is_flag=True, help="Do not ask; a missing answer is an error.")
@click.option("--no-start", is_flag=True, help="Do not start or restart the service.")
@config_option
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    readers: tuple[Reader, ...],
    url: str | None,
    proxy_login_file: Path | None,
    ca_file: Path | None,
    trust_clock: bool,
    private_key_file: Path | None,
    private_key_passphrase_file: Path | None,
    site_key_file: Path | None,
    renewed_readers: tuple[str, ...],
    yes: bool,
    no_start: bool,
    config: Path,
    **options: str | None,
) -> None:
    """Set up this door: key, configuration, service.

    Asks for values not given as options. Makes the private key and stores it for the service, encrypted
    if this machine supports it; writes the configuration; gives keys to OSDP readers; prints the SQL to
    run; checks; starts the service. It can be run again: the keys are kept, and so is every setting not
    given again.

    \b
    Exit code:
      0   done; the key may not be registered in Snowflake yet
      1   done, but a reader has no key, a check on this machine failed, or the service does not start
      2   an answer is missing
      77  not permitted: run it as root
      78  an answer is invalid, or the key or the present configuration cannot be used
    """  # noqa: D301 - click's escape for unwrapped lines
    config = config.absolute()
    _require_root(config)
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("not at a terminal: give every answer as an option, and --yes")
    before = read_document(config)
    source = _KeyFile(private_key_file, private_key_passphrase_file) if private_key_file else None
    source = source or _configured_key(before, config)
    wanted = source and load_private_key(source.path, source.passphrase_file)
    document = (filled if yes else asked)(before, options, readers)
    _put_more(document["snowflake"], url=url, proxy_login_file=proxy_login_file, ca_file=ca_file)
    if trust_clock:
        document.setdefault("clock", {})["trust"] = "always"
    site_key = _site_key(document, site_key_file)
    for name in ("private_key_file", "private_key_passphrase_file"):
        document["snowflake"].pop(name, None)
    _require_right(document, config)
    if not yes and not click.confirm(f"Write {config} and the key?", default=True):
        raise click.Abort

    with replacing_key(None):
        key, is_new = _store_key(wanted or None, source)
    is_new |= site_key is not None and _store_site_key(site_key, site_key_file)
    changed = _write(config, document, before) or is_new
    settings = configuration.load(config)
    reader_keys = give_keys(settings, renewed_readers)
    changed |= reader_keys.changed
    if is_new and is_handed_over(settings.agent.runtime_dir):
        pass_on(settings, key)  # else the check would use the key of the last rotation
    _print_sql(document["snowflake"]["user"], key)
    code = call_in_child(partial(_check, settings))
    if no_start:
        show(Finding("service", "ok", "unchanged", f"sudo systemctl enable --now {systemctl.UNIT}"))
    else:
        _start(config, changed=changed)
    if changed:
        record(settings, "setup", "configured this door", new_key=is_new)
    context.exit(code if reader_keys.complete else code or 1)


def _require_root(config: Path) -> None:
    """Raises NotPermittedError unless the configuration and the key can be written, which takes root."""
    for place in (config.parent, systemd_creds.ETC):
        nearest = next(path for path in (place, *place.parents) if path.exists())
        if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=True):
            raise NotPermittedError(f"this user may not write to {nearest}", hint="sudo badge-agent setup")


def _require_right(document: Document, config: Path) -> None:
    """Validate the document before anything is written. Raises ConfigError with every problem."""
    try:
        settings_of(document, config)
    except ConfigError as error:
        error.hint = "nothing was changed: correct these answers and run setup again"
        raise


def _put_more(
    snowflake: dict[str, Any], *, url: str | None, proxy_login_file: Path | None, ca_file: Path | None
) -> None:
    """Put what is an option only into the table [snowflake]; a login without its proxy is removed."""
    if url is not None:
        snowflake["url"] = url
    for name, path in (("proxy_login_file", proxy_login_file), ("ca_file", ca_file)):
        if path is not None:
            snowflake[name] = str(path.absolute())
    if "proxy" not in snowflake:
        snowflake.pop("proxy_login_file", None)


# --- the key ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _KeyFile:
    """An existing key file to import."""

    path: Path
    passphrase_file: Path | None


def _configured_key(before: Document, config: Path) -> _KeyFile | None:
    """The key file of the present configuration, to be imported as the service's credential."""
    named = settings_of(before, config).snowflake if before else None
    if named is None or named.private_key_file is None or not named.private_key_file.exists():
        return None
    return _KeyFile(named.private_key_file, named.private_key_passphrase_file)


def _store_key(wanted: KeyPair | None, source: _KeyFile | None) -> tuple[KeyPair, bool]:
    """Store the service's key; returns it and whether it differs from the one before."""
    stored = systemd_creds.find()
    present = None if stored is None else _read_back(stored)
    if stored is not None and present is not None and wanted in (None, present):
        _show_key(present, stored, "unchanged")
        return present, False
    key = wanted or new_key()
    stored = systemd_creds.store(pem(key))
    if _read_back(stored) != key:
        raise KeyFileError(f"{stored.path}: reading the stored key back gives another key", hint="df -h /etc")
    if source is None:
        _show_key(key, stored, "new")
    else:
        spare = f"the file is no longer needed: sudo rm {shlex.quote(str(source.path))}"
        _show_key(key, stored, "imported", spare)
    return key, True


def _site_key(document: Document, file: Path | None) -> SiteKey | None:
    """The key to store; None to leave what is stored. Raises KeyFileError, also if there is none to use."""
    privacy = document.get("privacy", {})
    stored = systemd_creds.find("site_key")
    if file is not None:
        document["privacy"] = {**privacy, "card_numbers": "keyed"}
        if file.exists():
            return read_site_key(file)
        # Not a new one: the same command again, after the file was deleted, must not change every pseudonym.
        return parse_site_key(systemd_creds.read(stored), stored.path) if stored else new_site_key()
    needs_key = privacy.get("card_numbers") == "keyed" and not privacy.get("site_key_file")
    if needs_key and stored is None:
        raise KeyFileError(
            "[privacy] card_numbers is keyed, and no site key is stored",
            hint="add --site-key FILE: the file of another door of this site, or a new name",
        )
    return None


def _store_site_key(key: SiteKey, file: Path | None) -> bool:
    """Store the service's site key; returns whether it differs from the one before."""
    stored = systemd_creds.find("site_key")
    if file is not None and not file.exists():
        write_site_key(file, key)  # first: a stored key of which there is no copy cannot be taken to a door
    if stored is not None and systemd_creds.read(stored) == key.line:
        show(Finding("site key", "ok", f"unchanged, {key.fingerprint}"))
        return False
    systemd_creds.store(key.line, "site_key")
    following = f"for the other doors of this site: --site-key {shlex.quote(str(file))}; then delete the file"
    show(Finding("site key", "ok", f"stored, {key.fingerprint}", following))
    return True


def _read_back(stored: systemd_creds.StoredKey) -> KeyPair:
    """The key as the next start will load it."""
    return parse_private_key(systemd_creds.read(stored), stored.path)


def _show_key(key: KeyPair, stored: systemd_creds.StoredKey, what: str, following: str = "") -> None:
    how = "encrypted for this machine" if stored.encrypted else "readable by root only"
    show(Finding("key", "ok", f"{what}, {key.fingerprint}, {how}: {stored.path}", following))


# --- configuration, SQL, check, service ---------------------------------------------------------


def _write(config: Path, document: Document, before: Document) -> bool:
    """Write the configuration; returns whether it changed."""
    if document == before:
        show(Finding("configuration", "ok", f"{config}, unchanged"))
        return False
    _, kept = write_document(config, document)
    show(Finding("configuration", "ok", f"{config}" + (f"; backup of the old one: {kept}" if kept else "")))
    return True


def _print_sql(user: str, key: KeyPair) -> None:
    click.echo(
        "\nFor your administrator, in Snowflake:\n"
        f"  {set_key(user, key)}\n"
        f"  {compare(user, key)}\n"
        "If another door uses this user, the first line would invalidate its key: give this door a user of\n"
        "its own, or the other door's key (--private-key-file).\n"
        "To create user, role, table and pipe: sudo badge-agent sql\n"
    )


def _check(settings: Settings) -> int:
    """Run and show all checks, which give up root; 1 if one on this machine failed."""
    # Before the checks, and with the key as it is now stored: the service may still have the one before.
    give_up_root(settings, with_key=True)
    network = {step.name for step in snowflake_steps(settings)}
    founds = list(check.shown(map(_without_repeated_sql, check.run_checks(settings.path))))
    if any(found.exit_code and found.finding.name in network for found in founds):
        click.echo("Swipes are kept until Snowflake accepts them; to check again: sudo badge-agent check")
    local = {found.exit_code for found in founds if found.finding.name not in network}
    return 1 if local - {0, SnowpipeError.exit_code} else 0


def _without_repeated_sql(found: Found) -> Found:
    """For a key that is not registered yet, refer to the SQL printed before."""
    if found.finding.name == "JWT" and found.exit_code == AuthError.exit_code:
        return replace(
            found, finding=replace(found.finding, next="the SQL above; then: sudo badge-agent check")
        )
    return found


def _start(config: Path, *, changed: bool) -> None:
    by_hand = f"badge-agent run --config {config}"
    if not systemctl.is_installed():
        show(Finding("service", "warning", f"systemd or {systemctl.UNIT} is not installed", by_hand))
    elif config != configuration.DEFAULT_CONFIG:
        text = f"not started: it reads {configuration.DEFAULT_CONFIG}"
        show(Finding("service", "warning", text, by_hand))
    else:
        was_active = systemctl.is_active()
        systemctl.enable_and_start()
        if was_active and changed:
            systemctl.restart()
        show(Finding("service", "ok", "running, enabled at boot", "sudo badge-agent status"))
