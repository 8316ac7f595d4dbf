"""badge-agent sql: the scripts that an administrator runs in Snowflake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from agent.cli import config_option
from agent.cli.state_access import load_as_owner
from agent.errors import ConfigError, NotPermittedError
from agent.keys.keypair import KeyPair
from agent.keys.lookup import load_key
from agent.settings import Settings, SnowflakeSettings
from agent.sql.plan import DEFAULT_ROLE, DOORS_PER_PIPE, PIPES_PER_TABLE, Plan
from agent.sql.scripts import SCRIPTS, STANDARD, dashboard, every_script, script

DASHBOARD = "dashboard"

_EPILOG = """\b
Examples:
  badge-agent sql --config config.toml | less
  badge-agent sql --only views > views.sql
  badge-agent sql --only dashboard > streamlit_app.py
  badge-agent sql --pipes 3 --allow-ip 203.0.113.0/24
"""


@click.command("sql", epilog=_EPILOG)
@click.option(
    "--only",
    type=click.Choice([*SCRIPTS, DASHBOARD]),
    help=f"Print one script only; without it: {', '.join(STANDARD)}. {DASHBOARD} is a Streamlit app.",
)
@click.option(
    "--pipes",
    "pipe_count",
    type=click.IntRange(1, PIPES_PER_TABLE),
    default=1,
    show_default=True,
    help=f"Number of pipes, one per {DOORS_PER_PIPE:,} doors.",
)
@click.option(
    "--allow-ip",
    "allowed_networks",
    multiple=True,
    metavar="CIDR",
    help="Network (IPv4 or IPv6) from which the key may be used; repeat for more.",
)
@click.option(
    "--warehouse",
    default="COMPUTE_WH",
    show_default=True,
    help="Warehouse of alerts and of the dynamic table, also named where a statement needs one.",
)
@config_option
def command(
    *, only: str | None, pipe_count: int, allowed_networks: tuple[str, ...], warehouse: str, config: Path
) -> None:
    """Print the SQL that creates the objects in a Snowflake account.

    With the names of the configuration: database, schemas, table and pipes; role, service user, key
    and grants; the settings for the doors; the monitoring views; the procedures that delete old rows and
    erase persons. Every script can be run again.
    """
    settings = load_as_owner(config, with_key=True)
    snowflake = settings.snowflake
    key = _key(settings) if only in (None, "access") else None
    plan = replace(
        plan_for(snowflake),
        pipe_count=pipe_count,
        public_key_line=key.public_key_line if key else None,
        fingerprint=key.fingerprint if key else None,
        key_slot=key.slot if key else "RSA_PUBLIC_KEY",
        allowed_networks=allowed_networks,
        warehouse_name=warehouse,
    )
    if only == DASHBOARD:
        click.echo(dashboard(plan), nl=False)
    else:
        click.echo(script(plan, only) if only else every_script(plan), nl=False)


def plan_for(snowflake: SnowflakeSettings) -> Plan:
    """The plan with the configured names. Raises ConfigError for names that Snowflake does not accept."""
    return Plan(
        account=snowflake.account,
        database_name=snowflake.database,
        schema_name=snowflake.schema,
        pipe_name=snowflake.pipe,
        events_pipe_name=snowflake.events_pipe,
        user_name=snowflake.user,
        role_name=snowflake.role or DEFAULT_ROLE,
    )


def _key(settings: Settings) -> KeyPair | None:
    """The configured key, or None: on a machine without the key the script gets a placeholder."""
    try:
        return load_key(settings)
    except (ConfigError, NotPermittedError) as error:
        click.echo(f"note: the script has a placeholder for the public key: {error}", err=True)
        return None
