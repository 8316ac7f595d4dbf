"""Builds the Snowflake client from the settings, for the agent and for the commands."""

from __future__ import annotations

import json
import time

from agent.clock.system_clock import boottime_s
from agent.keys.keypair import KeyPair
from agent.keys.lookup import load_key
from agent.settings import Settings
from agent.snowpipe.client import Client
from agent.snowpipe.connection import Proxy
from agent.snowpipe.http import Http
from agent.snowpipe.wire import PipeName


def make_http(settings: Settings) -> Http:
    """The connections to the configured account, through the configured proxy. Raises ConfigError."""
    snowflake = settings.snowflake
    proxy = Proxy(snowflake.proxy, snowflake.proxy_login_file) if snowflake.proxy else None
    return Http(ca_file=snowflake.ca_file, proxy=proxy)


def make_client(
    settings: Settings, http: Http, *, key: KeyPair | None = None, may_lack_key: bool = False
) -> Client:
    """A client of the configured account, with the configured key or with `key`.

    Raises KeyFileError or NotPermittedError, except with `may_lack_key`.
    """
    return Client(
        http,
        settings.snowflake,
        load_key=lambda: key or load_key(settings),
        wall_s=time.time,
        monotonic_s=boottime_s,
        may_lack_key=may_lack_key,
    )


def pipe_key(settings: Settings) -> str:
    """The configured account and pipe as one text, for the outbox: rows of another one get a new channel."""
    return _key_of(settings, pipe_name(settings))


def events_pipe_key(settings: Settings) -> str:
    """As pipe_key(), for the pipe of door events."""
    return _key_of(settings, events_pipe_name(settings))


def _key_of(settings: Settings, pipe: PipeName) -> str:
    return json.dumps([settings.snowflake.account.upper(), pipe.database, pipe.schema, pipe.pipe])


def pipe_of(key: str) -> PipeName:
    """The pipe of a pipe_key(); the requests go to the configured account, whichever the key names."""
    _, *names = json.loads(key)
    return PipeName(*names)


def pipe_name(settings: Settings) -> PipeName:
    """The configured pipe."""
    snowflake = settings.snowflake
    return PipeName(snowflake.database, snowflake.schema, snowflake.pipe)


def events_pipe_name(settings: Settings) -> PipeName:
    """The configured pipe of door events."""
    snowflake = settings.snowflake
    return PipeName(snowflake.database, snowflake.schema, snowflake.events_pipe)
