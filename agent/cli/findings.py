"""The state of a door in words: findings with their next steps, and the table of the readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.cli.console import Finding, State
from agent.clock.system_clock import TOLERATED_S, off
from agent.keys.age import OLD_AFTER, ROTATE
from agent.outbox.external.connection import is_there
from agent.readers.conditions import condition_texts
from agent.readers.events import Condition
from agent.readers.flood_monitor import FLOOD_PER_SECOND
from agent.readers.uart import LineErrors
from agent.service.status_file import STATUS_FILE, needs_operator
from agent.settings import AgentSettings

CLOCK_HINT = "sudo timedatectl set-ntp true; timedatectl (with chrony: rtcsync must be in chrony.conf)"
_SHOWN_FROM_S = 1.0  # smaller corrections are not shown
_LINE_HINT = "check ground wire and cable length, then baudrate, line_parity and stop_bits"
_LOG_HINT = "journalctl -u badge-agent -n 50"
READER_HEADERS = ("reader", "state", "swipes", "noise", "last swipe", "protocol")


def findings(status: dict[str, Any], agent: AgentSettings) -> Iterator[Finding]:
    """What the status of a door says. Raises NotPermittedError."""
    outbox = status["outbox"]
    yield _process(status, agent.runtime_dir)
    yield _outbox(outbox, has_outbox=is_there(agent.state_dir))
    if needs_operator(outbox):
        yield _held(outbox)
    if outbox["quarantined"]:
        yield _quarantine(outbox)
    if not is_reporting(status):
        return
    yield _uploader(status["uploader"])
    if problem := status["door_events"]["problem"]:
        text = f"not delivered, only swipes: {problem}"
        yield Finding("door events", "warning", text, "badge-agent check")
    if status["key"]["fingerprint"] is not None:
        yield _key(status["key"])
    if status["disk"]["bytes_written"] is not None:
        yield _disk(status["disk"])
    yield clock(status["clock"])
    yield from reader_findings(status["readers"])


def is_reporting(status: dict[str, Any]) -> bool:
    """Whether an agent runs and its status file can be used; that of a stopped agent is obsolete."""
    return status["running"] and status["uploader"] is not None


def reader_rows(readers: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of a table with READER_HEADERS."""
    return [_reader_cells(reader) for reader in readers]


def _process(status: dict[str, Any], runtime_dir: Path) -> Finding:
    name = f"agent {status['agent_id']}"
    if not status["running"]:
        return Finding(name, "failed", "not running", f"sudo systemctl start badge-agent; {_LOG_HINT}")
    if status["uploader"] is None:
        text = f"running, but {runtime_dir / STATUS_FILE} is missing or unusable"
        return Finding(name, "failed", text, f"ls -l {runtime_dir}; {_LOG_HINT}")
    since = ago(status["started_at"])
    return Finding(name, "ok", f"running, version {status['version']}, pid {status['pid']}, started {since}")


def _outbox(outbox: dict[str, Any], *, has_outbox: bool) -> Finding:
    if not has_outbox:
        return Finding("outbox", "warning", outbox["problem"], "badge-agent check")
    if not outbox["ok"]:
        return Finding("outbox", "failed", outbox["problem"], "badge-agent check --offline")
    delivered = f"{outbox['delivered']} delivered, {outbox['kept']} of them kept for replay"
    free = f"{outbox['disk_free_bytes'] / 1e6:,.0f} MB free"
    if outbox["recovering"] is not None:
        return Finding("outbox", "warning", f"{recovering(outbox)}; {outbox['pending']} pending; {free}")
    if not outbox["pending"]:
        return Finding("outbox", "ok", f"nothing pending; {delivered}; {free}")
    pending = "1 swipe pending" if outbox["pending"] == 1 else f"{outbox['pending']} swipes pending"
    if outbox["oldest_pending_seconds"] is not None:
        pending += f", the oldest for {duration(outbox['oldest_pending_seconds'])}"
    return Finding("outbox", "ok", f"{pending}; {delivered}; {free}")


def recovering(outbox: dict[str, Any]) -> str:
    """The progress with the rows of a damaged file."""
    now = outbox["recovering"]
    text = f"recovering the {now['rows']} swipes of {now['file']}: {now['done']:,} of {now['total']:,}"
    if not now["searched_bytes"]:
        return text
    searched, size = (now[name] / 1e6 for name in ("searched_bytes", "bytes"))
    return f"{text}, then {searched:,.0f} of {size:,.0f} MB of its bytes searched for others"


def _held(outbox: dict[str, Any]) -> Finding:
    text = f"{outbox['set_aside']} set aside, {outbox['rejected']} in ranges with load errors"
    return Finding("held rows", "failed", text, "badge-agent outbox list")


def _quarantine(outbox: dict[str, Any]) -> Finding:
    names, lost = ", ".join(outbox["quarantined"]), outbox["unreadable"]
    text = f"{names}; {lost} swipes could not be read" if lost else names
    return Finding("damaged files", "warning", text, "look for disk errors: dmesg | grep -iE 'mmc|i/o error'")


def clock(state: dict[str, Any]) -> Finding:
    """A finding on the `clock` object of the status report."""
    since = f" since {ago(state['since']).removesuffix(' ago')}" if state.get("since") else ""
    parts = []
    moved_s, ahead_s = state.get("correction_seconds"), state.get("ahead_seconds")
    if moved_s is not None and abs(moved_s) >= _SHOWN_FROM_S:
        parts.append(f"it was {off(-moved_s)} before; earlier swipes are corrected by that")
    if ahead_s is not None and abs(ahead_s) > TOLERATED_S:
        parts.append(f"compared with Snowflake's clock it is {off(ahead_s)}")
    text = "; ".join([f"{'synchronised' if state['trusted'] else 'not synchronised'}{since}", *parts])
    if not state["trusted"]:
        text += "; swipes are kept and get their correct times once it is"
    elif ahead_s is None or abs(ahead_s) <= TOLERATED_S:
        return Finding("clock", "ok", text)
    return Finding("clock", "warning", text, CLOCK_HINT)


def _uploader(uploader: dict[str, Any]) -> Finding:
    match uploader["state"]:
        case "holding":
            text = f"delivery is held: {uploader['reason']}; every swipe is kept"
            return Finding("uploader", "failed", text, "badge-agent check")
        case "waiting" if not uploader["consecutive_failures"]:
            text = f"{uploader['reason']}, at most {duration(uploader['next_try_seconds'])} more"
            return Finding("uploader", "warning", text, CLOCK_HINT)
        case "waiting":
            again = f"try {uploader['consecutive_failures'] + 1} in {duration(uploader['next_try_seconds'])}"
            text = f"{uploader['reason']}; every swipe is kept, {again}"
            hint = "nothing during a known network outage; otherwise: badge-agent check"
            return Finding("uploader", "warning", text, hint)
        case state:
            last = uploader["last_commit_at"]
            delivered = f"last delivery {ago(last)}" if last else "nothing delivered since the start"
            return Finding("uploader", "ok", f"{state}; {delivered}")


def _key(key: dict[str, Any]) -> Finding:
    days = key["age_days"]
    age = "" if days is None else f", {days} days old"
    if days is not None and days > OLD_AFTER.days:
        return Finding("key", "warning", f"{key['fingerprint']}{age}: change it", ROTATE)
    return Finding("key", "ok", f"{key['fingerprint']}{age}")


def _disk(disk: dict[str, Any]) -> Finding:
    written = f"{disk['bytes_written'] / 1e6:,.1f} MB written"
    return Finding("disk", "ok", f"{written} and {disk['flushes']} flushes since the start")


def reader_findings(readers: list[dict[str, Any]]) -> Iterator[Finding]:
    """What is wrong with the readers."""
    for reader in readers:
        name = f"reader {reader['id']}"
        is_open = reader["state"] == "open"
        problems = reader.get("problems", ())  # absent in the status file of an earlier version
        if not is_open and not problems:
            yield Finding(name, "failed", f"{reader['device']} is not open yet; the agent retries")
        for problem in problems:
            state: State = "warning" if is_open else "failed"
            yield Finding(name, state, problem["text"], problem["next"])
        for condition in reader.get("conditions", ()):
            yield Finding(name, "failed", *condition_texts(Condition(condition)))
        if reader.get("silent"):
            last = reader["last_rx_seconds"]
            text = f"its port is open, but no data {'yet' if last is None else f'for {duration(last)}'}"
            yield Finding(name, "failed", text, "check the reader's power and its data wire")
        if reader.get("line_errors") and any(reader["line_errors"].values()):
            text = f"its line had {LineErrors(**reader['line_errors'])}; these frames were not used"
            noisy = reader.get("noisy")
            yield Finding(name, "warning" if noisy else "ok", text, _LINE_HINT if noisy else "")
        if reader.get("flooding"):
            refused = reader["flood_refused"]
            because = f"; {refused} were refused, because the disk is short of space" if refused else ""
            text = f"sends more than {FLOOD_PER_SECOND} swipes a second{because}"
            yield Finding(name, "failed", text, "a broken or hostile device: disconnect it")
        if reader.get("noisy"):
            reasons = ", ".join(f"{count} {reason}" for reason, count in reader["noise_reasons"].items())
            text = f"much of the received data is no card ({reasons} so far)"
            hint = "check ground wire, data wires and cable length, then protocol and baud rate"
            yield Finding(name, "warning", text, hint)


def _reader_cells(reader: dict[str, Any]) -> tuple[str, ...]:
    counts = (str(reader["swipes"]), str(reader["noise"]))
    return reader["id"], reader_state(reader), *counts, last_swipe(reader), reader["protocol"]


def last_swipe(reader: dict[str, Any]) -> str:
    """How long ago a reader's last swipe was."""
    return ago(reader["last_swipe_at"]) if reader["last_swipe_at"] else "none yet"


def reader_state(reader: dict[str, Any]) -> str:
    """The state of a reader's port, and what else is to be known of the reader."""
    flags = [flag for flag in ("silent", "noisy", "flooding") if reader.get(flag)]
    osdp = reader.get("osdp")
    secure = ["encrypted" if osdp["secure"] else "in clear text"] if osdp and osdp["online"] else []
    return ", ".join([reader["state"], *secure, *flags, *reader.get("conditions", ())])


def ago(moment: str) -> str:
    """How long ago a moment (ISO 8601) was."""
    return f"{duration((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())} ago"


def duration(seconds: float) -> str:
    """A duration in the largest unit of which it has at least two."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
