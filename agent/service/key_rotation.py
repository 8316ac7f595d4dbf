"""One private key exchanged for the next without a gap: kept waiting, proved, put in place, taken up."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from agent.atomic_file import replace_file, sync
from agent.config.loader import DEFAULT_CONFIG
from agent.errors import AgentError, AuthError, KeyFileError, NotPermittedError
from agent.keys import systemd_creds
from agent.keys.keypair import (
    KeyPair,
    Slot,
    load_private_key,
    new_key,
    parse_private_key,
    pem,
    read_passphrase,
)
from agent.keys.lookup import hand_over
from agent.service import systemctl
from agent.service.snowflake import open_account
from agent.service.status import read_status
from agent.settings import Settings
from agent.snowpipe.http import Http

_UNAUTHORIZED = 401
_TAKEN_UP_S = 30.0  # a reload takes a moment; an agent at work on a slow card some more
_LOOK_EVERY_S = 0.1


class Place(Protocol):
    """Where the agent's key is kept, with room for the one that comes after it."""

    def present(self) -> KeyPair:
        """The key that the next start finds. Raises KeyFileError or NotPermittedError."""

    def waiting(self) -> KeyPair | None:
        """The key that is to follow, if one was made. Raises KeyFileError or NotPermittedError."""

    def keep_waiting(self, key: KeyPair) -> None:
        """Keep the key that is to follow, durably. Raises KeyFileError or NotPermittedError."""

    def switch(self) -> None:
        """Put the waiting key in the place of the present one, in one step, durably.

        The one before is not kept: it would be a secret that nobody thinks of any more.
        Raises KeyFileError or NotPermittedError.
        """


def place_of(settings: Settings) -> Place:
    """The configured file, else the service's credential."""
    snowflake = settings.snowflake
    if snowflake.private_key_file is None:
        return _Credential()
    return _KeyFile(snowflake.private_key_file.resolve(), snowflake.private_key_passphrase_file)


def other(slot: Slot) -> Slot:
    """The other one of a user's two."""
    return "RSA_PUBLIC_KEY" if slot == "RSA_PUBLIC_KEY_2" else "RSA_PUBLIC_KEY_2"


def unfinished(settings: Settings, place: Place) -> KeyPair | None:
    """The key in place that the running agent has not taken up: a rotation that was cut short."""
    told = _told(settings)
    present = place.present()
    used = told["key"]["fingerprint"] if told["running"] else None
    return None if used in (None, present.fingerprint) else present


def prepare(place: Place, *, given: KeyPair | None, slot: Slot | None) -> KeyPair:
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
        open_account(settings, http, key=key).ingest_host()
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


class _Credential:
    def present(self) -> KeyPair:
        stored = systemd_creds.find()
        if stored is None:
            raise KeyFileError("no key is stored for the service", hint="sudo badge-agent setup makes one")
        return parse_private_key(systemd_creds.read(stored), stored.path)

    def waiting(self) -> KeyPair | None:
        stored = systemd_creds.find(waiting=True)
        return None if stored is None else parse_private_key(systemd_creds.read(stored), stored.path)

    def keep_waiting(self, key: KeyPair) -> None:
        systemd_creds.store(pem(key), waiting=True)

    def switch(self) -> None:
        systemd_creds.promote()


@dataclass(frozen=True, slots=True)
class _KeyFile:
    path: Path
    passphrase_file: Path | None

    def present(self) -> KeyPair:
        return load_private_key(self.path, self.passphrase_file)

    def waiting(self) -> KeyPair | None:
        return load_private_key(self._next, self.passphrase_file) if self._next.exists() else None

    def keep_waiting(self, key: KeyPair) -> None:
        passphrase = self.passphrase_file and read_passphrase(self.passphrase_file)
        try:
            stat = self.path.stat()
            content = pem(key, passphrase or None)
            replace_file(self._next, content, mode=0o600, owner=(stat.st_uid, stat.st_gid))
        except OSError as error:
            raise self._not_written(error) from error

    def switch(self) -> None:
        try:
            self._next.replace(self.path)
            sync(self.path.parent)
        except OSError as error:
            raise self._not_written(error) from error

    @property
    def _next(self) -> Path:
        return self.path.with_name(f"{self.path.name}.next")

    def _not_written(self, error: OSError) -> KeyFileError | NotPermittedError:
        if isinstance(error, PermissionError):
            return NotPermittedError(
                f"{self.path}: this user may not replace the key", hint="run the same command with sudo"
            )
        return KeyFileError(
            f"{self._next}: the key cannot be written: {error.strerror}", hint=f"df -h {self.path.parent}"
        )
