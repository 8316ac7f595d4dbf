"""Key rotation without an interruption: store the next key, verify it, switch, reload the running agent."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from agent.config.loader import DEFAULT_CONFIG
from agent.errors import AgentError, AuthError, KeyFileError, NotPermittedError
from agent.keys.key_store import KeyStore
from agent.keys.keypair import (
    KeyPair,
    Slot,
    new_key,
)
from agent.keys.lookup import hand_over
from agent.outbox import state_lock
from agent.owner import call_as_owner
from agent.service import systemctl
from agent.service.snowflake import make_client, make_http
from agent.service.status_file import read_status
from agent.settings import Settings

_UNAUTHORIZED = 401
_RELOAD_TIMEOUT_S = 30.0  # the reload itself takes under a second; a busy agent on a slow card takes longer
_POLL_S = 0.1


def other_slot(slot: Slot) -> Slot:
    """The other of a user's two key slots."""
    return "RSA_PUBLIC_KEY" if slot == "RSA_PUBLIC_KEY_2" else "RSA_PUBLIC_KEY_2"


def unfinished(settings: Settings, store: KeyStore) -> KeyPair | None:
    """The stored key if the running agent still signs with another: an interrupted rotation. Else None."""
    status = _status(settings)
    present = store.present()
    used = status["key"]["fingerprint"] if status["running"] else None
    return None if used in (None, present.fingerprint) else present


def prepare(store: KeyStore, *, given: KeyPair | None, slot: Slot | None) -> KeyPair:
    """The next key: `given`, else the one waiting since an earlier attempt, else a new one.

    It is stored durably when this returns. Raises KeyFileError or NotPermittedError.
    """
    present, waiting = store.present(), store.waiting()
    if given == present:
        raise KeyFileError(
            "this is the key that the agent uses already",
            hint="name the new key file, or omit the option to make a key",
        )
    target = slot or (waiting.slot if waiting else other_slot(present.slot))
    key = replace(given or waiting or new_key(), slot=target)
    if waiting is None or (waiting, waiting.slot) != (key, key.slot):
        store.keep_waiting(key)
    return key


def is_accepted(settings: Settings, key: KeyPair) -> bool:
    """Whether Snowflake accepts a token signed with this key. Raises SnowpipeError if the request fails."""
    http = make_http(settings)
    try:
        make_client(settings, http, key=key).ingest_host()
    except AuthError as error:
        if error.status == _UNAUTHORIZED:
            return False
        raise
    finally:
        http.close()
    return True


def activate(settings: Settings, key: KeyPair) -> int | None:
    """Make the running agent sign with the stored key; returns its pid, or None if no agent runs.

    Raises AgentError if it does not use the key within the timeout.
    """
    status = _status(settings)
    if not status["running"] or status["pid"] is None:
        return None
    if settings.snowflake.private_key_file is None:
        try:
            pass_on(settings, key)
        except AgentError as error:
            raise AgentError(
                f"the new key is stored, but cannot be passed to the running agent: {error}",
                hint="sudo systemctl restart badge-agent",
            ) from error
    pid = None
    if settings.path == DEFAULT_CONFIG and systemctl.is_installed() and systemctl.is_active():
        systemctl.reload()
    else:
        pid = call_as_owner(partial(_send_sighup, settings.agent.state_dir), *_directories(settings))
    deadline = time.monotonic() + _RELOAD_TIMEOUT_S
    while status["running"] and status["key"]["fingerprint"] != key.fingerprint:
        if time.monotonic() > deadline:
            raise AgentError(
                "the new key is stored, but the running agent does not use it yet",
                hint="sudo systemctl restart badge-agent; keep the old key registered until "
                "`badge-agent status` shows the fingerprint of the new one",
            )
        time.sleep(_POLL_S)
        status = _status(settings)
    return (pid or status["pid"]) if status["running"] else None


def pass_on(settings: Settings, key: KeyPair) -> None:
    """Write the key for the running agent, as its user: the directory is the agent's. Raises AgentError."""
    runtime_dir = settings.agent.runtime_dir
    try:
        call_as_owner(partial(hand_over, runtime_dir, key), runtime_dir)
    except OSError as error:  # without a change of user
        raise AgentError(str(error), hint=f"ls -ld {runtime_dir}") from error


def _send_sighup(state_dir: Path) -> int | None:
    """None if the agent has just ended; its next start loads the stored key."""
    try:
        return state_lock.signal_holder(state_dir, signal.SIGHUP)
    except PermissionError as error:
        raise NotPermittedError(
            "the new key is stored, but this user may not send a signal to the running agent",
            hint="run the same command with sudo",
        ) from error


def _status(settings: Settings) -> dict[str, Any]:
    agent = settings.agent
    read = partial(read_status, agent.id, agent.state_dir, agent.runtime_dir)
    return call_as_owner(read, *_directories(settings))


def _directories(settings: Settings) -> tuple[Path, Path]:
    return settings.agent.state_dir, settings.agent.runtime_dir
