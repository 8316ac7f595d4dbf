"""Checks of this machine: key, readers, cardholders, outbox, disk, clock."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from agent.cli.check.runner import Step
from agent.cli.console import Finding
from agent.cli.findings import CLOCK_HINT, clock
from agent.clock.system_clock import SystemClock, is_synchronised
from agent.errors import NotPermittedError, OutboxError, PortBusyError, PortError
from agent.keys.age import OLD_AFTER, ROTATE, age_of
from agent.keys.lookup import find_key
from agent.keys.reader_keys import load_reader_keys
from agent.keys.site_key import site_key_of
from agent.outbox import is_held, read_counts
from agent.outbox.external.connection import is_there
from agent.outbox.recovery.integrity import inspect
from agent.readers.cards import cardholders
from agent.readers.conditions import condition_texts
from agent.readers.detect.osdp_session import OsdpSession
from agent.readers.detect.port_users import port_advice
from agent.readers.events import Condition
from agent.readers.port import Port, holders_of
from agent.readers.port_names import is_unstable, require_own_device, stable_name_of
from agent.readers.port_protocols import osdp_of
from agent.readers.protocols import PROTOCOLS, make_protocol
from agent.readers.protocols.osdp.reports import Identity
from agent.readers.shared_port import one_of_each_port
from agent.readers.uart import LineErrors
from agent.service.state_disk import HINT, state_problem
from agent.service.status_file import read_status
from agent.settings import ReaderSettings, Settings, SnowflakeSettings

# Limit: a complete check of a million swipes on a slow card takes longer.
_INSPECTION_S = 15.0
# A week offline at 10,000 swipes a day needs about 70 MB.
_LITTLE_DISK_BYTES = 200_000_000


def local_steps(settings: Settings) -> list[Step]:
    """The steps that need neither network nor account."""
    return [
        Step("key file", partial(_key_file, settings)),
        Step("site key", partial(_site_key, settings)),
        Step("account", partial(_account, settings.snowflake)),
        *(Step(f"reader {reader.id}", partial(_reader, reader, settings)) for reader in settings.readers),
        Step("cardholders", partial(_cardholders, settings.cardholders_file)),
        Step("files", partial(_files, settings)),
        Step("outbox", partial(_outbox, settings.agent.state_dir)),
        Step("disk", partial(_disk, settings), needs=("outbox",)),
        Step("clock", partial(_clock, settings)),
    ]


def _key_file(settings: Settings) -> Iterator[Finding]:
    path, key = find_key(settings)
    text = f"{path}, {key.kind}, {key.fingerprint}"
    age = age_of(key.created_at, SystemClock(settings.clock.trust).now())
    if age is None:
        yield Finding("key file", "ok", text)
    elif age <= OLD_AFTER:
        yield Finding("key file", "ok", f"{text}, {age.days} days old")
    else:
        yield Finding("key file", "warning", f"{text}, {age.days} days old: change it", ROTATE)


def _site_key(settings: Settings) -> Iterator[Finding]:
    """Nothing where card numbers are kept as they are."""
    key = site_key_of(settings)
    if key is not None:
        text = f"{key.fingerprint}, the same at every door of this site; card numbers are replaced"
        yield Finding("site key", "ok", text)


def _account(snowflake: SnowflakeSettings) -> Iterator[Finding]:
    role = f"role {snowflake.role}" if snowflake.role else "the user's default role"
    yield Finding("account", "ok", f"{snowflake.account}, user {snowflake.user}, {role}")


# --- readers --------------------------------------------------------------------------------


def _reader(reader: ReaderSettings, settings: Settings) -> Iterator[Finding]:
    agent = settings.agent
    status = read_status(agent.id, agent.state_dir, agent.runtime_dir)
    name, device = f"reader {reader.id}", str(reader.port)
    in_agent = _in_agent(reader, status)
    if in_agent is None:
        require_own_device(reader, one_of_each_port(settings.readers))
        yield Finding(name, "ok", _try_port(reader, status))
    elif in_agent["state"] == "open":
        pid, errors = status["pid"], _errors_in_agent(in_agent)
        yield Finding(name, "ok", f"{device} is open in the running agent (pid {pid}){errors}")
    else:
        # The agent's own error: it may be in another sandbox than this command.
        problem = next(iter(in_agent.get("problems", ())), {"text": f"{device} is not open yet", "next": ""})
        text = f"the running agent (pid {status['pid']}) reports: {problem['text']}"
        raise PortError(text, hint=problem["next"])
    yield from _osdp(reader, settings, in_agent)
    yield from port_users(reader, status["pid"] or 0)
    if reader.keypad == "unknown":
        text = "keypad is not set: if the reader has keys, each PIN typed at them is sent as a card"
        yield Finding(name, "warning", text, 'set keypad = "none" if it has none, else the kind of its keys')
    if is_unstable(device):
        text = f"{device} may be another device after the next plugging or boot"
        yield Finding(name, "warning", text, _stable_name_hint(device))


def _osdp(reader: ReaderSettings, settings: Settings, in_agent: dict[str, Any] | None) -> Iterator[Finding]:
    """Who an OSDP reader is, and whether it is encrypted; as the agent has it, or as it answers now."""
    osdp = osdp_of(make_protocol(reader.protocol, reader.options))
    if osdp is None:
        return
    name, key = f"reader {reader.id}", load_reader_keys(settings).of(reader.id)
    if in_agent is not None:
        for condition in in_agent["conditions"]:
            yield Finding(name, "warning", *condition_texts(Condition(condition)))
        if (found := in_agent["osdp"]) is None or not found["online"]:
            return
        identity, is_secure = found["identity"] and Identity(**found["identity"]), found["secure"]
        offers = None
    elif key is None and osdp.lacks_key:
        yield Finding(name, "warning", *condition_texts(Condition.NO_KEY))
        return
    else:
        line = osdp.line.of(reader)
        try:
            port = Port(str(reader.port), line)
        except PortBusyError:
            return  # of the agent, under another name: reported before
        with closing(port):
            session = OsdpSession(port, line.baudrate, osdp.link.address, key, monotonic_s=time.monotonic)
            contact = session.connect()
        if not contact.is_good:
            wrong = Condition.KEY_REFUSED if contact.refuses_key else Condition.OFFLINE
            yield Finding(name, "warning", *condition_texts(wrong))
            return
        identity, is_secure, offers = contact.identity, key is not None, contact.offers_secure_channel
    text = f"OSDP address {osdp.link.address}" + (f", {identity}" if identity else "")
    if is_secure:
        yield Finding(name, "ok", f"{text}, encrypted")
    else:
        hint = 'set secure = "required" in its options, then: sudo badge-agent setup' if offers else ""
        yield Finding(name, "warning", f"{text}, in clear text: its line can be read and imitated", hint)


def port_users(reader: ReaderSettings, agent_pid: int) -> Iterator[Finding]:
    """Who uses the port beside the running agent (0: none runs), as far as this user may see it."""
    for user in port_advice(str(reader.port), own_pids=(agent_pid,)):
        yield Finding(f"reader {reader.id}", "warning", user.text, user.next)


def _in_agent(reader: ReaderSettings, status: dict[str, Any]) -> dict[str, Any] | None:
    """What the running agent reports of this reader on this port; None if it does not run with it."""
    found = (
        other
        for other in status["readers"]
        if (other["id"], other["device"]) == (reader.id, str(reader.port))
    )
    return next(found, None) if status["running"] else None


def _errors_in_agent(in_agent: dict[str, Any]) -> str:
    reported = in_agent.get("line_errors")
    errors = LineErrors(**reported) if reported else LineErrors()
    return f"; it had {errors} since the agent's start" if any(errors) else ""


def _try_port(reader: ReaderSettings, status: dict[str, Any]) -> str:
    line = PROTOCOLS[reader.protocol].line.of(reader)
    try:
        port = Port(str(reader.port), line)
    except PortBusyError:
        # The agent opened it just now or under another name; unknown if /proc is not readable.
        if status["running"] and status["pid"] in holders_of(str(reader.port)):
            return f"{reader.port} is in use by the running agent"
        raise
    with closing(port):
        errors = port.total_errors()
    counted = f"; since the boot it had {errors}" if errors is not None and any(errors) else ""
    return f"{reader.port} opens with {line} ({reader.protocol}){counted}"


def _stable_name_hint(device: str) -> str:
    stable = stable_name_of(device)
    if stable is None:
        return "use a stable device name: ls -l /dev/serial/by-id/"
    return f'in the configuration: port = "{stable}"'


# --- files, disk and clock ------------------------------------------------------------------


def _cardholders(path: Path | None) -> Iterator[Finding]:
    if path is None:
        yield Finding("cardholders", "ok", f"no file configured; every user_id will be {cardholders.UNKNOWN}")
        return
    yield Finding("cardholders", "ok", f"{path}, {len(cardholders.read(path))} badges")


def _files(settings: Settings) -> Iterator[Finding]:
    """Files of the configuration that others may change; nothing where all is well."""
    snowflake = settings.snowflake
    named = {
        "configuration": settings.path,
        "cardholders": settings.cardholders_file,
        "ca_file": snowflake.ca_file,
        "private key": snowflake.private_key_file,
        "passphrase": snowflake.private_key_passphrase_file,
        "proxy login": snowflake.proxy_login_file,
        "site key": settings.privacy.site_key_file,
        "reader keys": settings.agent.reader_keys_file,
    }
    for name, path in named.items():
        for place in (path, path.resolve().parent) if path is not None else ():
            if (found := _writers(place)) is not None:
                what, hint = found
                yield Finding(name, "warning", f"{place}: {what}", hint)


def _writers(path: Path) -> tuple[str, str] | None:
    """Who else may change this file or directory, and the command that ends it; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None  # missing, or in a directory that others cannot enter either
    quoted = shlex.quote(str(path))
    mode = found.st_mode
    # In a sticky directory such as /tmp others may add files, but not replace this one.
    if not mode & stat.S_ISVTX and mode & stat.S_IWOTH:
        return f"every user may change it (mode {mode & 0o7777:04o})", f"sudo chmod o-w {quoted}"
    if not mode & stat.S_ISVTX and mode & stat.S_IWGRP and found.st_gid not in {0, os.getegid()}:
        return (
            f"the group {found.st_gid} may change it (mode {mode & 0o7777:04o})",
            f"sudo chmod g-w {quoted}",
        )
    if found.st_uid not in {0, os.geteuid()}:
        return f"another user (uid {found.st_uid}) owns it and may change it", f"sudo chown root {quoted}"
    return None


def _outbox(state_dir: Path) -> Iterator[Finding]:
    place = shlex.quote(str(state_dir))
    if not is_there(state_dir):
        if not state_dir.is_dir():
            raise OutboxError(
                f"the state directory {state_dir} does not exist",
                hint=f"create it for the agent's user: sudo install -d -m 0700 -o badge-agent {place}",
            )
        if not os.access(state_dir, os.W_OK | os.X_OK):
            raise NotPermittedError(
                f"this user may not write in the state directory {state_dir}",
                hint=f"check as the agent's user, or change the owner: sudo chown badge-agent: {place}",
            )
        yield Finding("outbox", "ok", f"none in {state_dir} yet; the first start creates it")
        return
    inspection = inspect(state_dir, limit_s=_INSPECTION_S)
    if inspection.faults:
        raise OutboxError(
            f"the outbox in {state_dir} is damaged: {'; '.join(inspection.faults)}",
            hint="keep a copy, start with a new outbox, and consider replacing the SD card: "
            "sudo systemctl stop badge-agent; "
            f"sudo cp -a {place} {place}.damaged; sudo rm {place}/outbox.db*",
        )
    intact = "intact" if inspection.complete else f"no fault found within {_INSPECTION_S:.0f} s"
    counts = read_counts(state_dir)
    used = "in use by the running agent, " if is_held(state_dir) else ""
    yield Finding("outbox", "ok", f"{state_dir}, {used}{intact}, {counts.pending} swipes pending")


def _disk(settings: Settings) -> Iterator[Finding]:
    if problem := state_problem(settings):
        raise OutboxError(problem, hint=HINT)
    state_dir = settings.agent.state_dir
    free = shutil.disk_usage(state_dir).free
    text = f"{free / 1e6:,.0f} MB free for {state_dir}"
    hint = (
        f"free space: df -h {shlex.quote(str(state_dir))}; sudo journalctl --vacuum-size=50M; sudo apt clean"
    )
    if free < settings.outbox.reserve_bytes:
        raise OutboxError(f"{text}, less than [outbox] reserve_bytes", hint=hint)
    if free < _LITTLE_DISK_BYTES:
        yield Finding("disk", "warning", f"{text}; a week without network can need more", hint)
    else:
        yield Finding("disk", "ok", text)


def _clock(settings: Settings) -> Iterator[Finding]:
    status = read_status(settings.agent.id, settings.agent.state_dir, settings.agent.runtime_dir)
    if status["running"] and status["clock"] is not None:
        yield clock(status["clock"])
    elif is_synchronised():
        yield Finding("clock", "ok", "synchronised")
    elif settings.clock.trust == "always":
        yield Finding("clock", "ok", 'trusted without synchronisation ([clock] trust = "always")')
    else:
        text = "not synchronised; swipes are kept and get their correct times once it is"
        yield Finding("clock", "warning", text, CLOCK_HINT)
