"""Builds the agent from its settings: the only place where the packages are wired together."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agent import __version__
from agent.clock.system_clock import Clock, SystemClock, boottime_s
from agent.door_event import DoorEvent
from agent.errors import KeyFileError, NotPermittedError, OutboxError
from agent.keys.reader_keys import ReaderKeys, load_reader_keys
from agent.keys.site_key import site_key_of
from agent.log.message_ids import MessageId, fields
from agent.outbox import Heartbeats, Outbox, disk_room
from agent.outbox.external.connection import is_there
from agent.outbox.external.previous_run import last_run
from agent.outbox.generation import machine_id
from agent.outbox.state_lock import StateLock
from agent.outbox.swipe_queue import SwipeQueue
from agent.readers.cards.cardholders import Cardholders
from agent.readers.port_names import rival_of
from agent.readers.session import PortSession, PreviousRun
from agent.readers.shared_port import by_port, one_of_each_port
from agent.service.durability import DeliveryState
from agent.service.event_log import EventLog
from agent.service.fd_store import LastRepeats, StoredPorts
from agent.service.heartbeats import DoorHeartbeats
from agent.service.port_watch import PortWatch
from agent.service.snowflake import events_pipe_key, make_client, make_http, pipe_key, pipe_of
from agent.service.status import StatusReport
from agent.service.write_loop import WriteLoop
from agent.settings import ReaderSettings, Settings
from agent.snowpipe.channel import Channel
from agent.snowpipe.client import Client
from agent.swipe import Swipe
from agent.uploader.uploader import Uploader

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Readers:
    """The parts of an agent that take swipes: they work without an outbox. `lock`: of the state directory."""

    settings: Settings
    clock: Clock
    client: Client
    lock: StateLock
    queue: SwipeQueue
    sessions: list[PortSession]
    port_watch: PortWatch
    last_repeats: LastRepeats
    delivery_state: DeliveryState
    event_log: EventLog


@dataclass(frozen=True, slots=True)
class Agent:
    """The parts of a running agent."""

    settings: Settings
    clock: Clock
    client: Client
    outbox: Outbox
    uploader: Uploader
    write_loop: WriteLoop
    status_report: StatusReport
    delivery_state: DeliveryState
    run_before: tuple[str, str]  # its version, and how it ended; see EventWriter.note_start()


def build_readers(settings: Settings, *, changed: Callable[[], None]) -> Readers:
    """Check the settings, take the lock of the state directory, and build the readers; starts nothing.

    `changed` is called when a reader's status changed.
    Raises ConfigError, KeyFileError, NotPermittedError or OutboxError.
    """
    clock = SystemClock(settings.clock.trust)
    # At the first start a bad key is an error: an installer is present to correct it. A door that has worked
    # before must store swipes even without a key; the uploader then reports why none is sent.
    has_worked = is_there(settings.agent.state_dir)
    client = make_client(settings, make_http(settings), may_lack_key=has_worked)
    site_key = site_key_of(settings)
    lock = StateLock(settings.agent.state_dir)
    run_before = last_run(settings.agent.state_dir, clock.now())
    queue = SwipeQueue(reader.id for reader in settings.readers)
    held_ports = StoredPorts()
    previous = PreviousRun(run_before.last_us, run_before.last_reads, held_ports.last_repeats.before_us)
    delivery_state = DeliveryState(queue)
    reader_keys = _reader_keys(settings)
    firsts = one_of_each_port(settings.readers)
    sessions = [
        PortSession(
            readers,
            sink=queue,
            clock=clock,
            changed=changed,
            fd_store=held_ports.of(readers[0].id, _own_port(readers[0], firsts)),
            previous=previous,
            site_key=site_key,
            reader_keys=reader_keys,
            durability=delivery_state,
            all_readers=firsts,
        )
        for readers in by_port(settings.readers)
    ]
    held_ports.clear_others()
    port_watch = PortWatch(sessions)
    last_repeats, event_log = held_ports.last_repeats, EventLog(clock.now, boottime_s, wake=queue.wake)
    return Readers(
        *(settings, clock, client, lock, queue, sessions, port_watch, last_repeats, delivery_state, event_log)
    )


def _reader_keys(settings: Settings) -> ReaderKeys:
    """The keys of OSDP readers. If they cannot be read, these are not asked, and other readers are read."""
    if not any(reader.protocol == "osdp" for reader in settings.readers):
        return ReaderKeys()
    try:
        return load_reader_keys(settings)
    except (KeyFileError, NotPermittedError) as error:
        _log.error("%s; %s", error, error.hint, extra=fields(MessageId.READER_KEY_REFUSED, error=error))
        return ReaderKeys(are_unreadable=True)


def _own_port(reader: ReaderSettings, readers: Sequence[ReaderSettings]) -> str | None:
    """The port of a reader; None while it is the device of another port's reader."""
    return str(reader.port) if rival_of(reader, readers) is None else None


def build(readers: Readers, *, kept: Callable[[], None], changed: Callable[[], None]) -> Agent:
    """Open the outbox and build what needs it; starts nothing.

    `kept` is called after swipes or door events were stored on disk, `changed` when the writer's status
    changed. Raises OutboxError or NotPermittedError; then the lock is still held.
    """
    settings = readers.settings
    outbox = open_outbox(settings, lock=readers.lock)
    cardholders = Cardholders(settings.cardholders_file)

    def keep(swipes: Sequence[Swipe]) -> None:
        outbox.keep(*(replace(swipe, user_id=cardholders.user_of(swipe.badge_id)) for swipe in swipes))
        kept()

    def keep_events(events: Sequence[DoorEvent]) -> None:
        outbox.door_events.keep(events)
        kept()

    write_loop = WriteLoop(
        readers.queue,
        keep,
        reader_ids=[reader.id for reader in settings.readers],
        free_reserve=outbox.free_reserve,
        is_disk_short=lambda: disk_room.is_short(settings.agent.state_dir),
        changed=changed,
        store_events=lambda: readers.event_log.store(keep_events),
    )
    heartbeats = DoorHeartbeats(
        settings, outbox, readers.client, readers.clock, readers.sessions, readers.queue
    )
    uploader = open_uploader(settings, outbox, readers.client, readers.clock, heartbeats)
    status_report = StatusReport(
        agent_id=settings.agent.id,
        clock=readers.clock,
        outbox=outbox,
        uploader=uploader,
        client=readers.client,
        readers=[reader for session in readers.sessions for reader in session.readers],
        queue=readers.queue,
        port_watch=readers.port_watch,
    )
    return Agent(
        *(settings, readers.clock, readers.client, outbox, uploader, write_loop, status_report),
        readers.delivery_state,
        _note_start(outbox),
    )


def _note_start(outbox: Outbox) -> tuple[str, str]:
    """What is known of the run before; nothing if the disk fails. Not in the main thread: a disk may hang."""
    with contextlib.suppress(OutboxError):
        return outbox.door_events.note_start(__version__)
    return "", ""


def open_outbox(settings: Settings, *, lock: StateLock | None = None) -> Outbox:
    """The configured outbox. Raises OutboxBusyError, OutboxError or NotPermittedError."""
    return Outbox(
        settings.agent.state_dir,
        agent_id=settings.agent.id,
        pipe=pipe_key(settings),
        machine_id=machine_id(),
        reserve_bytes=settings.outbox.reserve_bytes,
        lock=lock,
    )


def open_uploader(
    settings: Settings, outbox: Outbox, client: Client, clock: Clock, heartbeats: Heartbeats | None = None
) -> Uploader:
    """The uploader from the outbox to the configured pipes."""
    return Uploader(
        outbox,
        lambda name, pipe: Channel(client, pipe_of(pipe), name),
        settings.uploader,
        clock=clock,
        server_time=lambda: client.server_clock.last,
        hold_unsynced_s=settings.clock.hold_unsynced_seconds,
        monotonic_s=boottime_s,  # continues during suspend
        random=random.random,
        events_pipe=events_pipe_key(settings),
        heartbeats=heartbeats,
    )
