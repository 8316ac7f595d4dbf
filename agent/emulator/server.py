"""The emulator as a process: assembled, served, and ended by a signal."""

from __future__ import annotations

import asyncio
import resource
import signal
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from agent.emulator.channels import Channels
from agent.emulator.commits import Commits
from agent.emulator.control import PREFIX, Control
from agent.emulator.credentials import Credentials, load_public_key
from agent.emulator.database import Database
from agent.emulator.endpoints import Endpoints, Names, Request
from agent.emulator.faults import Faults
from agent.emulator.listener import Listener
from agent.emulator.request_log import RequestLog
from agent.emulator.responses import Answer, RawAnswer
from agent.emulator.settings import Settings
from agent.errors import ConfigError


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `announce` gets each line to print once it listens.

    Raises ConfigError for keys and certificates, AgentError for the port and the disk.
    """
    _allow_open_files()
    tls = _tls_context(settings)
    keys = [load_public_key(path) for path in settings.public_key_files]
    # One thread owns the database, so operations run in the order they were submitted.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="database") as worker:
        database = worker.submit(Database, settings.state_dir).result()
        try:
            channels = Channels(
                (*settings.pipes, *settings.events_pipes), worker.submit(database.channels).result()
            )
            credentials = Credentials(
                account=settings.account,
                user=settings.user,
                public_keys=keys,
                ingest_host=settings.url_host,
                scoped_token_seconds=settings.scoped_token_seconds,
                secret=worker.submit(database.token_secret).result(),
                now=time.time,
            )
            commits = Commits(
                database,
                worker,
                lag_seconds=settings.commit_lag_seconds,
                events_pipes=settings.events_pipes,
            )
            service = Endpoints(
                names=Names(settings.database, settings.schema, settings.url_host),
                channels=channels,
                commits=commits,
                credentials=credentials,
                database=database,
                faults=Faults(),
                request_log=RequestLog(),
                limits=settings.limits,
            )
            asyncio.run(_run(settings, tls, service, commits, announce))
        finally:
            worker.submit(database.close).result()


async def _run(
    settings: Settings,
    tls: ssl.SSLContext | None,
    service: Endpoints,
    commits: Commits,
    announce: Callable[[str], None],
) -> None:
    async def respond(request: Request) -> Answer | RawAnswer | None:
        if request.path.startswith(PREFIX):
            return await control.answer(request)
        return await service.answer(request)

    stop = _stop_on_signals()
    listener = Listener(settings.host, settings.port, respond, tls)
    # A second address for tests alone: it answers while connections to the first one are refused.
    control_listener = Listener(settings.host, 0, respond, None)
    control = Control(service, commits, listener)
    committing = asyncio.create_task(commits.run())
    stopping = asyncio.create_task(stop.wait())
    await listener.accept()
    await control_listener.accept()
    scheme = "http" if tls is None else "https"
    announce(f"listening on {scheme}://{settings.url_host}:{listener.port}")
    announce(f"control on http://{settings.url_host}:{control_listener.port}")
    await asyncio.wait({committing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(listener.close(), control_listener.close())
    stopping.cancel()
    # Buffered rows are gone, as after any restart of the service; a commit in progress is finished
    # by the database thread. If it was the disk that ended this, its error is raised here.
    committing.cancel()
    with suppress(asyncio.CancelledError):
        await committing


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _allow_open_files() -> None:
    # The usual soft limit of 1,024 is fewer than the doors of one pipe.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _tls_context(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"{settings.tls_cert_file}: cannot be used with its key: {error.strerror or error}",
            hint="Give a PEM certificate and its unencrypted PEM key.",
        ) from error
    return context
