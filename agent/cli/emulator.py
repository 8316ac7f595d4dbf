"""badge-agent emulator: a local Snowpipe Streaming server to try the agent against."""

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
  status (status, code?, message?, retry_after?), drop_before, drop_after,
  delay (seconds)
On rows:
  reject_rows (rows | field, value)
  refuse_rows (field, value, code? | max_rows | max_bytes)
At once:
  refuse (seconds?), expire_tokens, revoke_key, restore_key,
  set_key (slot, public_key), unset_key (slot), stall_commits,
  resume_commits, invalidate_channel (channel?, code?, appends?, reopens?),
  delete_channel (channel?), clear

\b
Keys as in Snowflake, while it runs: ALTER USER ... SET RSA_PUBLIC_KEY_2 is
  {"do": "set_key", "slot": "RSA_PUBLIC_KEY_2", "public_key": "MIIBIjAN..."}

\b
What Snowflake does with a channel that nobody used for 30 days, at once:
  curl -d '{"do": "delete_channel", "channel": "NAME"}' URL/_emulator/faults

\b
GET /_emulator/state tells what every channel has committed, and which
requests were seen.

\b
Beside the pipes that --pipe names there is RAW_BADGE_EVENTS-STREAMING, which
every table has: columns by name, nothing computed.

\b
Committed rows: sqlite-utils rows DIR/snowflake.db V_INGESTION_METRICS
"""


@click.command("emulator", epilog=_EPILOG)
@click.option(
    "--port", type=click.IntRange(0, 65535), required=True, help="0 takes any free port and prints it."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address.")
@click.option(
    "--public-key",
    "public_keys",
    type=_FILE,
    required=True,
    multiple=True,
    help="The user's RSA_PUBLIC_KEY, a PEM file; a second time for RSA_PUBLIC_KEY_2.",
)
@click.option("--account", required=True, metavar="ORG-ACCOUNT")
@click.option("--user", required=True, metavar="NAME")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Made if missing; holds snowflake.db. Started again on it, the emulator goes on where it was.",
)
@click.option("--database", default="SNOWFLAKE_EXAMPLE", show_default=True)
@click.option("--schema", default="RAW_INGESTION", show_default=True)
@click.option(
    "--pipe",
    "pipes",
    multiple=True,
    default=("SFE_BADGE_EVENTS_PIPE",),
    show_default=True,
    help="Give it again for more pipes.",
)
@click.option(
    "--commit-lag-seconds",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="From the 200 on an append to its commit.",
)
@click.option("--scoped-token-seconds", type=click.FloatRange(min=1), default=3600.0, show_default=True)
@click.option("--no-limits", is_flag=True, help="Lift the request and byte rates per channel.")
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
    commit_lag_seconds: float,
    scoped_token_seconds: float,
    no_limits: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Serve Snowflake's Snowpipe Streaming API on this machine.

    The first line on stdout is `listening on http://HOST:PORT`, the second `control on
    http://HOST:PORT`. SIGTERM or SIGINT ends it; what is committed stays in the state directory.
    """
    try:
        from agent.emulator.server import serve  # noqa: PLC0415 - its libraries are an optional extra
        from agent.emulator.settings import Settings  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        if error.name not in ("aiohttp", "orjson"):
            raise
        raise ConfigError(
            f"the emulator needs {error.name}, which is not installed",
            hint="Install it: pip install 'badge-agent[emulator]'",
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
        commit_lag_seconds=commit_lag_seconds,
        scoped_token_seconds=scoped_token_seconds,
        limits=not no_limits,
        tls_cert_file=tls_cert,
        tls_key_file=tls_key,
    )
    serve(settings, click.echo)
