"""Who runs a command, and the record of it in the outbox."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import click

from agent.clock.system_clock import SystemClock
from agent.door_event import Detail, DoorEvent
from agent.errors import AgentError
from agent.outbox.external.connection import is_there
from agent.outbox.external.operator_actions import OperatorAction
from agent.owner import call_as_owner
from agent.settings import Settings

_LONGEST = 50
_NOT_SET = 2**32 - 1  # the login uid of a process that no login has started
# Before the command gives up root.
_STARTED_BY = os.getuid()


def actor() -> str:
    """Who runs this command: SUDO_USER, else who logged in, else the user of the process."""
    name = os.environ.get("SUDO_USER") or _name_of(_login_uid())
    return "".join(filter(str.isprintable, name))[:_LONGEST] or "unknown"


def _login_uid() -> int:
    """The user id of the login, which the kernel keeps through sudo and su."""
    try:
        uid = int(Path("/proc/self/loginuid").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _STARTED_BY
    return _STARTED_BY if uid == _NOT_SET else uid


def _name_of(uid: int) -> str:
    import pwd  # noqa: PLC0415 - not on every machine on which commands run

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def action(settings: Settings, kind: str, message: str, **details: Detail) -> OperatorAction:
    """The record of a command, of this moment. `message`: what was done, without card numbers."""
    now = SystemClock(settings.clock.trust).now()
    event = DoorEvent(kind, "info", message, now, actor=actor(), details=details)
    return OperatorAction(settings.agent.id, event)


def record(settings: Settings, kind: str, message: str, **details: Detail) -> None:
    """Record a command that reveals something, or changes something outside the outbox.

    A failure is only reported: rows have to be readable also on a disk that takes no writes.
    """
    state_dir = settings.agent.state_dir
    done = action(settings, kind, message, **details)
    try:
        call_as_owner(partial(_store, done, state_dir), state_dir)
    except AgentError as error:
        click.echo(f"warning: this command is not recorded as a door event: {error}", err=True)


def _store(done: OperatorAction, state_dir: Path) -> None:
    if is_there(state_dir):
        done.store(state_dir)
