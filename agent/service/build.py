"""Builds the agent from its settings: the only place where the packages are wired together."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from agent.clock.system_clock import Clock, SystemClock, boottime_s
from agent.outbox import Outbox
from agent.outbox.external.connection import is_there
from agent.outbox.generation import machine_id
from agent.readers.cards.cardholders import Cardholders
from agent.readers.session import ReaderSession
from agent.service.fd_store import StoredPorts
from agent.service.snowflake import make_client, make_http, pipe_name
from agent.service.status import StatusReport
from agent.settings import Settings
from agent.snowpipe.channel import Channel
from agent.snowpipe.client import Client
from agent.swipe import Swipe
from agent.uploader.uploader import Uploader


@dataclass(frozen=True, slots=True)
class Agent:
    """The parts of a running agent."""

    settings: Settings
    clock: Clock
    client: Client
    outbox: Outbox
    uploader: Uploader
    readers: list[ReaderSession]
    status_report: StatusReport


def build(settings: Settings, *, kept: Callable[[], None], changed: Callable[[], None]) -> Agent:
    """Check the settings, then open the outbox; starts nothing.

    `kept` is called after swipes were stored on disk, `changed` when a reader's status changed.
    Raises ConfigError, KeyFileError, NotPermittedError or OutboxError.
    """
    clock = SystemClock(settings.clock.trust)
    # At the first start a bad key is an error: an installer is present to correct it. A door that has worked
    # before must store swipes even without a key; the uploader then reports why none is sent.
    has_worked = is_there(settings.agent.state_dir)
    client = make_client(settings, make_http(settings), may_lack_key=has_worked)
    outbox = open_outbox(settings)
    cardholders = Cardholders(settings.cardholders_file)

    def keep(swipes: list[Swipe]) -> None:
        outbox.keep(*swipes)
        kept()

    uploader = open_uploader(settings, outbox, client, clock)
    held_ports = StoredPorts()
    readers = [
        ReaderSession(
            reader,
            keep=keep,
            user_of=cardholders.user_of,
            clock=clock,
            changed=changed,
            fd_store=held_ports.of(reader.id, str(reader.port)),
        )
        for reader in settings.readers
    ]
    held_ports.clear_others()
    status_report = StatusReport(
        agent_id=settings.agent.id,
        clock=clock,
        outbox=outbox,
        uploader=uploader,
        client=client,
        readers=readers,
    )
    return Agent(settings, clock, client, outbox, uploader, readers, status_report)


def open_outbox(settings: Settings) -> Outbox:
    """The configured outbox. Raises OutboxInUseError, OutboxError or NotPermittedError."""
    return Outbox(
        settings.agent.state_dir,
        agent_id=settings.agent.id,
        machine_id=machine_id(),
        reserve_bytes=settings.outbox.reserve_bytes,
    )


def open_uploader(settings: Settings, outbox: Outbox, client: Client, clock: Clock) -> Uploader:
    """The uploader from the outbox to the configured pipe."""
    return Uploader(
        outbox,
        lambda name: Channel(client, pipe_name(settings), name),
        settings.uploader,
        clock=clock,
        server_time=lambda: client.server_clock.last,
        hold_unsynced_s=settings.clock.hold_unsynced_seconds,
        monotonic_s=boottime_s,  # continues during suspend
        random=random.random,
    )
