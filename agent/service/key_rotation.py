"""One private key exchanged for the next without a gap: kept waiting, proved, put in place, taken up."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
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
from agent.service import systemctl
from agent.service.snowflake import make_client
from agent.service.status import read_status
from agent.settings import Settings
from agent.snowpipe.http import Http

_UNAUTHORIZED = 401
_TAKEN_UP_S = 30.0  # a reload takes a moment; an agent at work on a slow card some more
_LOOK_EVERY_S = 0.1


def other(slot: Slot) -> Slot:
    """The other one of a user's two."""
    return "RSA_PUBLIC_KEY" if slot == "RSA_PUBLIC_KEY_2" else "RSA_PUBLIC_KEY_2"


def unfinished(settings: Settings, place: KeyStore) -> KeyPair | None:
    """The key in place that the running agent has not taken up: a rotation that was cut short."""
    told = _told(settings)
    present = place.present()
    used = told["key"]["fingerprint"] if told["running"] else None
    return None if used in (None, present.fingerprint) else present


def prepare(place: KeyStore, *, given: KeyPair | None, slot: Slot | None) -> KeyPair:
    """The key that is to follow: the one that waits since an earlier try, the given or a new one.

    It is on disk when this returns. Raises KeyFileError or NotPermittedError.
    """
    present, waiting = place.present(), place.waiting()
    if given == present:
        raise KeyFileError(
            "this is the key that the agent has already", hint="name the new one, or none to have one made"
        )
    to_be = slot or (waiting.slot if waiting else other(present.slot))
    key = replace(given or waiting or new_key(), slot=to_be)
    if waiting is None or (waiting, waiting.slot) != (key, key.slot):
        place.keep_waiting(key)
    return key


def is_accepted(settings: Settings, key: KeyPair) -> bool:
    """Whether Snowflake takes a token that this key signs. Raises SnowpipeError when it cannot be asked."""
    http = Http(ca_file=settings.snowflake.ca_file)
    try:
        make_client(settings, http, key=key).ingest_host()
    except AuthError as error:
        if error.status == _UNAUTHORIZED:
            return False
        raise
    finally:
        http.close()
    return True


def take_up(settings: Settings, key: KeyPair) -> int | None:
    """Have the running agent sign with the key in place; its pid, or None where none runs.

    Raises AgentError when it does not.
    """
    told = _told(settings)
    if not told["running"] or told["pid"] is None:
        return None
    pid: int = told["pid"]
    if settings.snowflake.private_key_file is None:
        try:
            hand_over(settings.agent.runtime_dir, key)
        except OSError as error:
            raise AgentError(
                f"the new key is in place, but cannot be handed to the running agent: {error}",
                hint="sudo systemctl restart badge-agent takes it up",
            ) from error
    if settings.path == DEFAULT_CONFIG and systemctl.is_there() and systemctl.is_active():
        systemctl.reload()
    else:
        _hang_up(pid)
    deadline = time.monotonic() + _TAKEN_UP_S
    while told["running"] and told["key"]["fingerprint"] != key.fingerprint:
        if time.monotonic() > deadline:
            raise AgentError(
                "the new key is in place, but the running agent has not taken it up",
                hint="sudo systemctl restart badge-agent; until `badge-agent status` shows the new key's "
                "fingerprint, the old one must stay registered",
            )
        time.sleep(_LOOK_EVERY_S)
        told = _told(settings)
    return pid if told["running"] else None


def _hang_up(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError:
        return  # it has just ended, and its next start takes the key in place
    except PermissionError as error:
        raise NotPermittedError(
            f"the new key is in place, but this user may not tell the running agent (pid {pid})",
            hint=f"sudo kill -HUP {pid}",
        ) from error


def _told(settings: Settings) -> dict[str, Any]:
    agent = settings.agent
    return read_status(agent.id, agent.state_dir, agent.runtime_dir)
