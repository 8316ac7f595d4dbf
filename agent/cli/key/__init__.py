"""badge-agent key: make the private key, rotate it, show its public half."""

from __future__ import annotations

import json
from pathlib import Path

import click

from agent.cli import config_option
from agent.cli.key.alter_user import describe, set_key
from agent.cli.key.rotate import rotate_command
from agent.cli.state_access import load_as_owner
from agent.config.loader import DEFAULT_CONFIG, load
from agent.errors import ConfigError
from agent.keys.keypair import KeyPair, generate_key, load_private_key
from agent.keys.lookup import find_key
from agent.settings import Settings
from agent.sql.names import name_problem

_GENERATE_EXAMPLE = "Example: badge-agent key generate --out rsa_key.p8 --user SFE_INGEST_USER"

_file_argument = click.argument("file", required=False, type=click.Path(path_type=Path))
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _name_option(_context: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    if name is not None and (wrong := name_problem(name)):
        raise click.BadParameter(f"the name {wrong}")
    return name


@click.group(epilog=_GENERATE_EXAMPLE)
def command() -> None:
    """Make or change the private key, and show the public key for Snowflake."""


command.add_command(rotate_command)


@command.command(epilog=_GENERATE_EXAMPLE)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write the key (else the configuration's private_key_file, else ./rsa_key.p8).",
)
@click.option(
    "--user",
    metavar="NAME",
    callback=_name_option,
    help="The Snowflake user (else the one in the configuration).",
)
@_json_option
@config_option
def generate(out: Path | None, user: str | None, config: Path, *, as_json: bool) -> None:
    """Make a new key and print the SQL that registers it.

    Writes a 2048-bit RSA key to a PKCS#8 file, readable by its owner only. Never overwrites an
    existing file.
    """
    settings = None if out and user else _settings_if_any(config)
    if settings:
        out, user = out or settings.snowflake.private_key_file, user or settings.snowflake.user
    path = (out or Path("rsa_key.p8")).absolute()
    key = generate_key(path)
    alter_user, describe_user = set_key(user, key), describe(user)
    if as_json:
        answer = {**_described(path, key), "alter_user": alter_user, "describe_user": describe_user}
        click.echo(json.dumps(answer))
        return
    click.echo(
        f"private key: {path} ({key.bits}-bit RSA, mode 0600)\n"
        f"fingerprint: {key.fingerprint}\n"
        "\n"
        "Register it in Snowflake, with a role that may alter the user:\n"
        f"  {alter_user}\n"
        "Compare: RSA_PUBLIC_KEY_FP must be the fingerprint above:\n"
        f"  {describe_user}\n"
        f'Next: set private_key_file = "{path}" in [snowflake] of the configuration, then: badge-agent check'
    )


@command.command(epilog="Example: badge-agent key fingerprint rsa_key.p8")
@_file_argument
@_json_option
@config_option
def fingerprint(file: Path | None, config: Path, *, as_json: bool) -> None:
    """Print the fingerprint of a private key.

    Compare it with the rows RSA_PUBLIC_KEY_FP and RSA_PUBLIC_KEY_2_FP of: DESC USER <user>;

    FILE is the private key (default: the agent's own).
    """
    path, key = _key(file, config)
    click.echo(json.dumps(_described(path, key)) if as_json else key.fingerprint)


@command.command(epilog="Example: badge-agent key public rsa_key.p8 --pem > rsa_key.pub")
@_file_argument
@click.option("--pem", is_flag=True, help="As a PEM file.")
@_json_option
@config_option
def public(file: Path | None, config: Path, *, pem: bool, as_json: bool) -> None:
    """Print the public key of a private key.

    As one line, for ALTER USER <user> SET RSA_PUBLIC_KEY='...'.

    FILE is the private key (default: the agent's own).
    """
    path, key = _key(file, config)
    if as_json:
        click.echo(json.dumps(_described(path, key)))
    else:
        click.echo(key.public_key_pem.rstrip() if pem else key.public_key_line)


def _key(file: Path | None, config: Path) -> tuple[Path, KeyPair]:
    if file:
        return file, load_private_key(file)
    return find_key(load_as_owner(config, with_key=True))


def _settings_if_any(config: Path) -> Settings | None:
    try:
        return load(config)
    except ConfigError as error:
        # A key is often made before the configuration; but a file named explicitly must exist.
        if config == DEFAULT_CONFIG and isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def _described(path: Path, key: KeyPair) -> dict[str, str | int]:
    return {
        "file": str(path),
        "bits": key.bits,
        "fingerprint": key.fingerprint,
        "public_key": key.public_key_line,
        "public_key_pem": key.public_key_pem,
    }
