"""A status report of parts that no thread runs, for the tests of what is made from it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.clock.system_clock import SystemClock, boottime_s
from agent.keys.keypair import load_private_key
from agent.outbox import Outbox
from agent.outbox.state_lock import StateLock
from agent.outbox.swipe_queue import SwipeQueue
from agent.readers.reader import Reader
from agent.readers.session import PortSession
from agent.service.port_watch import PortWatch
from agent.service.status import StatusReport
from agent.settings import ReaderSettings, UploaderSettings
from agent.snowpipe.channel import Channel
from agent.snowpipe.client import Client
from agent.snowpipe.http import Http
from agent.snowpipe.wire import PipeName
from agent.uploader.uploader import Uploader
from tests.support.fd_store import MemoryFdStore
from tests.support.pipe_model import snowflake_settings


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with closing(Outbox(tmp_path, agent_id="hq-lobby-1", lock=StateLock(tmp_path))) as outbox:
        yield outbox


@pytest.fixture
def queue() -> SwipeQueue:
    return SwipeQueue(["RDR-101"])


@pytest.fixture
def session(queue: SwipeQueue) -> Iterator[PortSession]:
    reader = ReaderSettings(
        id="RDR-101",
        zone_id="ZONE-LOBBY-1",
        port=Path("/dev/ttyUSB0"),
        protocol="rdm6300",
        formats=(),
        badge_id="{raw}",
    )
    with MemoryFdStore() as fd_store:
        yield PortSession([reader], sink=queue, clock=SystemClock(), changed=lambda: None, fd_store=fd_store)


@pytest.fixture
def reader(session: PortSession) -> Reader:
    return session.readers[0]


@pytest.fixture
def report(
    outbox: Outbox, session: PortSession, queue: SwipeQueue, rsa_key_file: Path
) -> Iterator[StatusReport]:
    http, clock = Http(ca_file=None), SystemClock("always")
    client = Client(
        http,
        snowflake_settings("http://127.0.0.1:9"),
        load_key=lambda: load_private_key(rsa_key_file),
        wall_s=time.time,
        monotonic_s=time.monotonic,
    )
    client.jwt.get()
    uploader = Uploader(
        outbox,
        lambda name, pipe: Channel(client, PipeName("DB", "SCHEMA", pipe or "PIPE"), name),
        UploaderSettings(),
        clock=clock,
        server_time=lambda: None,
        hold_unsynced_s=120,
        monotonic_s=boottime_s,
        random=random.random,
    )
    yield StatusReport(
        agent_id="hq-lobby-1",
        clock=clock,
        outbox=outbox,
        uploader=uploader,
        client=client,
        readers=session.readers,
        queue=queue,
        port_watch=PortWatch([session]),
    )
    http.close()
