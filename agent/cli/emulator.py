"""badge-agent emulator: a local Snowpipe Streaming server for tests and demos."""

from __future__ import annotations

from pathlib import Path

import click

from agent.errors import ConfigError

_FILE = click.Path(path_type=Path, dir_okay=False)

_EPILOG = """\b
Faults: POST rules as JSON to /_emulator/faults, on the port itself or on the
control address, for example
  {"do": "status", "on": "append", "status": 503, "retry_after": 2, "times": 3}
  {"do": "delay", "on": "any", "seconds": 1.5}
On requests (on?, times?):
  status (status, code?, message?, retry_after?, body?), drop_before,
  drop_after, delay (seconds), anything (seed, share?): generated answers
On rows:
  reject_rows (rows | field, value)
  refuse_rows (field, value, code? | max_rows | max_bytes)
Immediate:
  move (host, old), late_errors (seconds), jwt_age (seconds), refuse_role,
  refuse (seconds?), expire_tokens, revoke_key, restore_key,
  set_key (slot, public_key), unset_key (slot), stall_commits,
  resume_commits, invalidate_channel (channel?, code?, appends?, reopens?),
  delete_channel (channel?), clear

\b
Keys change at run time, as in Snowflake: ALTER USER ... SET RSA_PUBLIC_KEY_2 is
  {"do": "set_key", "slot": "RSA_PUBLIC_KEY_2", "public_key": "MIIBIjAN..."}

\b
Delete a channel, as Snowflake does after 30 idle days:
  curl -d '{"do": "delete_channel", "channel": "NAME"}' URL/_emulator/faults

\b
GET /_emulator/state returns the committed position of every channel and
the requests received.

\b
In addition to the pipes of --pipe there is RAW_BADGE_EVENTS-STREAMING, the
default pipe of the table: columns by name, no transformation.

\b
Committed rows: sqlite-utils rows DIR/snowflake.db V_INGESTION_METRICS
"""


@click.command("emulator", epilog=_EPILOG)
@click.option(
    "--port", type=click.IntRange(0, 65535), required=True, help="0 selects a free port and prints it."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address.")
@click.option(
    "--public-key",
    "public_keys",
    type=_FILE,
    required=True,
    multiple=True,
    help="The user's RSA_PUBLIC_KEY, a PEM file; give it twice for RSA_PUBLIC_KEY_2.",
)
@click.option("--account", required=True, metavar="ORG-ACCOUNT")
@click.option("--user", required=True, metavar="NAME")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Created if missing; holds snowflake.db. A restart continues with its state.",
)
@click.option("--database", default="SNOWFLAKE_EXAMPLE", show_default=True)
@click.option("--schema", default="RAW_INGESTION", show_default=True)
@click.option(
    "--pipe",
    "pipes",
    multiple=True,
    default=("SFE_BADGE_EVENTS_PIPE",),
    show_default=True,
    help="Repeat for more pipes.",
)
@click.option(
    "--events-pipe",
    "events_pipes",
    multiple=True,
    default=("SFE_DOOR_EVENTS_PIPE",),
    show_default=True,
    help="A pipe into RAW_DOOR_EVENTS.",
)
@click.option(
    "--commit-lag-seconds",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Delay from the 200 on an append to its commit.",
)
@click.option("--scoped-token-seconds", type=click.FloatRange(min=1), default=3600.0, show_default=True)
@click.option("--no-limits", is_flag=True, help="Do not limit request and byte rates per channel.")
@click.option("--tls-cert", type=_FILE, help="Serve HTTPS with this PEM certificate.")
@click.option("--tls-key", type=_FILE, help="The certificate's PEM key.")
def command(
    *,
    port: int,
    host: str,
    public_keys: tuple[Path, ...],
    account: str,
    user: str,
    state_dir: Path,
    database: str,
    schema: str,
    pipes: tuple[str, ...],
    events_pipes: tuple[str, ...],
    commit_lag_seconds: float,
    scoped_token_seconds: float,
    no_limits: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Serve Snowflake's Snowpipe Streaming API on this machine.

    The first line on stdout is `listening on http://HOST:PORT`, the second `control on
    http://HOST:PORT`. SIGTERM or SIGINT ends it; committed rows stay in the state directory.
    """
    try:
        from agent.emulator.server import serve  # noqa: PLC0415 - its libraries are an optional extra
        from agent.emulator.settings import Settings  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        if error.name not in ("aiohttp", "orjson"):
            raise
        raise ConfigError(
            f"the emulator needs {error.name}, which is not installed",
            hint="install it: pip install 'badge-agent[emulator]'",
        ) from error
    settings = Settings(
        public_key_files=public_keys,
        account=account,
        user=user,
        state_dir=state_dir,
        host=host,
        port=port,
        database=database,
        schema=schema,
        pipes=pipes,
        events_pipes=events_pipes,
        commit_lag_seconds=commit_lag_seconds,
        scoped_token_seconds=scoped_token_seconds,
        limits=not no_limits,
        tls_cert_file=tls_cert,
        tls_key_file=tls_key,
    )
    serve(settings, click.echo)
