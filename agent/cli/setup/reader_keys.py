"""Gives encrypted readers their keys: makes one, stores it, sets it in the reader, and tries it."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import closing
from typing import NamedTuple

from agent.atomic_file import replace_file
from agent.cli.console import Finding, show
from agent.errors import KeyFileError, NotPermittedError, PortBusyError, PortError
from agent.keys import systemd_creds
from agent.keys.reader_keys import ReaderKeys, load_reader_keys, new_reader_key
from agent.readers.detect.osdp_session import OsdpSession, only_reader_of
from agent.readers.port import Port
from agent.readers.port_protocols import osdp_of
from agent.readers.protocol import LineSettings
from agent.readers.protocols import make_protocol
from agent.settings import ReaderSettings, Settings

_SETUP_AGAIN = "then run setup again"


class Outcome(NamedTuple):
    """Whether keys were changed, and whether each reader that needs one has one."""

    changed: bool
    complete: bool


def give_keys(settings: Settings, renewed: Collection[str]) -> Outcome:
    """Give a key to each reader that needs one and has none stored, and to the `renewed` ones.

    What is wrong with one is shown, and the others get theirs. Raises KeyFileError or NotPermittedError if
    the stored keys cannot be read or written.
    """
    keys = load_reader_keys(settings)
    changed, complete = False, True
    for reader in settings.readers:
        is_known = keys.of(reader.id) is not None
        if not _requires_key(reader) or (is_known and reader.id not in renewed):
            continue
        try:
            given = _give_key(reader, keys, settings)
        except PortBusyError as error:
            hint = f"sudo systemctl stop badge-agent, or end the other program; {_SETUP_AGAIN}"
            given = Finding(_name(reader), "failed", str(error), hint)
        except (PortError, NotPermittedError) as error:
            given = Finding(_name(reader), "failed", str(error), error.hint)
        if isinstance(given, ReaderKeys):
            keys, changed = given, True
        else:
            complete = False
            show(given)
    return Outcome(changed, complete)


def _requires_key(reader: ReaderSettings) -> bool:
    osdp = osdp_of(make_protocol(reader.protocol, reader.options))
    return osdp is not None and osdp.lacks_key


def _name(reader: ReaderSettings) -> str:
    return f"reader {reader.id}"


def _give_key(reader: ReaderSettings, keys: ReaderKeys, settings: Settings) -> ReaderKeys | Finding:
    """The keys with the reader's new one, or why it has none. Raises PortError or NotPermittedError."""
    osdp = osdp_of(make_protocol(reader.protocol, reader.options))
    assert osdp is not None  # noqa: S101 - for the type checker
    line, address, name = osdp.line.of(reader), osdp.link.address, _name(reader)
    with closing(Port(str(reader.port), line)) as port:
        session, contact = None, None
        if (present := keys.of(reader.id)) is not None:
            session = OsdpSession(port, line.baudrate, address, present, monotonic_s=time.monotonic)
            contact = session.connect()
        if session is None or contact is None or contact.refuses_key:
            text = "trying the default key, which is public, only to set a key of its own"
            show(Finding(name, "warning", text))
            session = OsdpSession.in_install_mode(port, line.baudrate, address, monotonic_s=time.monotonic)
            contact = session.connect()
        if not contact.answers and _is_alone(reader, settings) and _set_address(port, line, address):
            show(
                Finding(
                    name, "warning", f"the only reader of the line had another address; it is {address} now"
                )
            )
            session = OsdpSession.in_install_mode(port, line.baudrate, address, monotonic_s=time.monotonic)
            contact = session.connect()
        if not contact.answers:
            where = f"no OSDP reader answers at {reader.port}, {line}, address {address}"
            return Finding(name, "failed", where, f"badge-agent identify --port {reader.port}")
        if contact.refuses_key:
            text = "it has a key of its own, or no secure channel"
            hint = (
                f"put it into install mode as its manual says, {_SETUP_AGAIN}; without the secure channel: "
            )
            return Finding(name, "failed", text, f'{hint}options = {{ secure = "none" }}')
        key = new_reader_key()
        # First: a key that the reader has and nothing else could not be replaced without a visit.
        with_new = keys.with_key(reader.id, key)
        where = _store(with_new, settings)
        if not session.set_key(key):
            return Finding(
                name,
                "failed",
                "it did not take the new key, or did not prove that it has it",
                f"put it into install mode as its manual says, then: sudo badge-agent setup "
                f"--new-reader-key {reader.id}",
            )
    who = f", {contact.identity}" if contact.identity is not None else ""
    show(Finding(name, "ok", f"new key set and tried{who}; {where}"))
    return with_new


def _is_alone(reader: ReaderSettings, settings: Settings) -> bool:
    """Whether the configuration has no other reader on its port."""
    return sum(other.port == reader.port for other in settings.readers) == 1


def _set_address(port: Port, line: LineSettings, address: int) -> bool:
    """Set the address of the only reader that is on the line; False if none answers, or it refuses."""
    session = only_reader_of(port, line.baudrate, monotonic_s=time.monotonic)
    return session.connect().answers and session.set_address(address, line.baudrate)


def _store(keys: ReaderKeys, settings: Settings) -> str:
    """Store the keys durably; returns where. Raises KeyFileError or NotPermittedError."""
    path = settings.agent.reader_keys_file
    if path is None:
        stored = systemd_creds.store(keys.content, "reader_keys")
        how = "encrypted for this machine" if stored.encrypted else "readable by root only"
        return f"{how}: {stored.path}"
    try:
        replace_file(path, keys.content, mode=0o600)
    except OSError as error:
        raise KeyFileError(
            f"{path}: the keys of readers cannot be written: {error.strerror}", hint=f"ls -ld {path.parent}"
        ) from error
    return str(path)
