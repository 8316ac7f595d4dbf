"""Builds the Snowflake client from the settings, for the agent and for the commands."""

from __future__ import annotations

import time

from agent.clock.system_clock import boottime_s
from agent.keys.keypair import KeyPair
from agent.keys.lookup import load_key
from agent.settings import Settings
from agent.snowpipe.client import Client, ClientIdentity
from agent.snowpipe.http import Http
from agent.snowpipe.wire import PipeName


def make_client(
    settings: Settings, http: Http, *, key: KeyPair | None = None, may_lack_key: bool = False
) -> Client:
    """The way into the configured account, with its own key or with this one.

    Raises KeyFileError or NotPermittedError, unless it `may_lack_key`.
    """
    snowflake = settings.snowflake
    return Client(
        http,
        ClientIdentity(snowflake.account, snowflake.user, snowflake.role, snowflake.url),
        load_key=lambda: key or load_key(settings),
        wall_s=time.time,
        monotonic_s=boottime_s,
        may_lack_key=may_lack_key,
    )


def pipe_name(settings: Settings) -> PipeName:
    """The pipe that the rows go into."""
    snowflake = settings.snowflake
    return PipeName(snowflake.database, snowflake.schema, snowflake.pipe)
