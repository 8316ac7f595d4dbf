"""OSDP: from card to row on disk, processor time of polling, a simulated day with lost frames."""

from __future__ import annotations

import contextlib
import os
import random
import select
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from agent.readers.protocols.osdp.codes import Command
from agent.readers.protocols.osdp.frame import finished, unsigned_command
from bench.figures import Figure, percentile
from bench.keep import floor
from tests.support.agent_process import AgentProcess, PtyReader, reader_table
from tests.support.emulator_process import EmulatorProcess
from tests.support.osdp_device import OsdpDevice, raw
from tests.support.osdp_line import devices_on
from tests.support.osdp_simulation import SimulatedLine, simulated
from tests.support.swipes import wait_until

_KEY = bytes.fromhex("4b8f1d02c7739ae6055e21b4d8f06c93")
_BAUDRATE = 9600
_CARDS = 100
_DURABLE_P50_MS = 100.0
_CPU_PERCENT = 2.0
_CPU_OVER_S = 20.0
_POLL_S = 0.05
_NEWEST = "SELECT max(n) FROM swipes"
_DAY_S = 86_400.0
_DAY_POLL_MS = 250  # at the default of 50 ms it would take a quarter of an hour
_LOST = 0.01
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def run() -> list[Figure]:
    """The real agent and encrypted readers on pseudo-terminals, at the default poll rate.

    The devices take the time of the line at 9600 baud, and 3 ms before each reply.
    """
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        directory = Path(name)
        with EmulatorProcess(directory / "emulator") as emulator:
            idle = _cpu_percent(directory / "idle", emulator, "rdm6300", [])
            one = [OsdpDevice(1, key=_KEY)]
            latency = _latency(directory / "one", emulator, one[0])
            two = [OsdpDevice(1, key=_KEY), OsdpDevice(2, key=_KEY)]
            polling = _cpu_percent(directory / "two", emulator, "osdp", two)
            usb = [OsdpDevice(1, key=_KEY), OsdpDevice(2, key=_KEY)]
            by_byte = _cpu_percent(directory / "usb", emulator, "osdp", usb, by_byte=True)
            bare = 2 * _bare_percent(directory / "bare")
    more = polling - idle
    return [
        *latency,
        Figure("floor: CPU of an agent with two readers that send nothing", f"{idle:.2f} %"),
        Figure("floor: CPU of as many exchanges by write, select and read alone", f"{bare:.2f} %"),
        Figure(
            "CPU of polling two encrypted readers, on two lines, over that floor",
            f"{more:.2f} %",
            f"<= {_CPU_PERCENT:.0f} %",
            more <= _CPU_PERCENT,
        ),
        Figure("the same by USB adapters, which deliver each byte by itself", f"{by_byte - idle:.2f} %"),
        _day(),
    ]


def _tables(protocol: str, lines: Sequence[PtyReader]) -> list[str]:
    osdp = "keypad = 'none'\noptions = {{ address = {}, secure = 'required' }}" if protocol == "osdp" else ""
    return [
        reader_table(line.device, protocol=protocol, reader_id=f"RDR-{address}", more=osdp.format(address))
        for address, line in enumerate(lines, start=1)
    ]


@contextlib.contextmanager
def _agent(directory: Path, emulator: EmulatorProcess, protocol: str, lines: Sequence[PtyReader]):  # type: ignore[no-untyped-def] # noqa: ANN202
    directory.mkdir()
    keys = directory / "reader.keys"
    keys.write_text("".join(f"RDR-{address} {_KEY.hex()}\n" for address in (1, 2)))
    keys.chmod(0o600)
    with AgentProcess(
        directory / "agent",
        url=emulator.url,
        private_key_file=emulator.private_key_file,
        readers=_tables(protocol, lines),
        agent_lines=f'reader_keys_file = "{keys}"',
    ) as agent:
        yield agent


def _latency(directory: Path, emulator: EmulatorProcess, device: OsdpDevice) -> list[Figure]:
    times_ms, floors_ms = [], []
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(PtyReader(directory.with_name("line")))
        stack.enter_context(devices_on(line, device, baudrate=_BAUDRATE))
        agent = stack.enter_context(_agent(directory, emulator, "osdp", [line]))
        write = stack.enter_context(floor(directory / "floor"))
        wait_until(lambda: device.commands[-3:] == [0x60] * 3, what="a polled reader")
        for card in range(_CARDS):
            time.sleep(random.uniform(0.1, 0.2))  # noqa: S311 - not in phase with the polls
            times_ms.append(_one(agent.state_dir / "outbox.db", device, card))
            begun_ns = time.monotonic_ns()
            write(card)
            floors_ms.append((time.monotonic_ns() - begun_ns) / 1e6)
    p50, p99 = percentile(times_ms, 50), percentile(times_ms, 99)
    return [
        Figure(f"floor: a durable write, p50 of {_CARDS}", f"{percentile(floors_ms, 50):.1f} ms"),
        Figure(
            f"card to durable at {_BAUDRATE} baud, p50 of {_CARDS}",
            f"{p50:.1f} ms",
            f"<= {_DURABLE_P50_MS:.0f} ms",
            p50 <= _DURABLE_P50_MS,
        ),
        Figure(f"card to durable at {_BAUDRATE} baud, p99 of {_CARDS}", f"{p99:.1f} ms"),
    ]


def _one(database: Path, device: OsdpDevice, card: int) -> float:
    """Milliseconds from the card until its row is on disk."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as outbox:
        (before,) = outbox.execute(_NEWEST).fetchone()
        shown_ns = time.monotonic_ns()
        device.events.append(raw(32, 0x1000_0000 + card, 0))
        while outbox.execute(_NEWEST).fetchone() == (before,):
            time.sleep(0.0005)
        return (time.monotonic_ns() - shown_ns) / 1e6


def _cpu_percent(
    directory: Path,
    emulator: EmulatorProcess,
    protocol: str,
    devices: Sequence[OsdpDevice],
    *,
    by_byte: bool = False,
) -> float:
    """Processor time of the agent in percent of one core, each reader on a line of its own."""
    with contextlib.ExitStack() as stack:
        lines = [
            stack.enter_context(PtyReader(directory.with_name(f"{directory.name}-{number}")))
            for number in (1, 2)
        ]
        for line, device in zip(lines, devices, strict=False):
            stack.enter_context(devices_on(line, device, baudrate=_BAUDRATE, by_byte=by_byte))
        agent = stack.enter_context(_agent(directory, emulator, protocol, lines))
        wait_until(lambda: all(len(device.commands) > 20 for device in devices), what="polled readers")  # noqa: PLR2004
        time.sleep(2.0)  # the start is over
        before = _cpu_s(agent.pid)
        time.sleep(_CPU_OVER_S)
        return 100.0 * (_cpu_s(agent.pid) - before) / _CPU_OVER_S


def _bare_percent(path: Path) -> float:
    """Processor time of polling one reader in clear text, without a protocol, in percent of one core."""
    command = finished(unsigned_command(1, 0, Command.POLL))
    with PtyReader(path) as line, devices_on(line, OsdpDevice(1), baudrate=_BAUDRATE):
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        begun_s, ends_s = time.thread_time(), time.monotonic() + _CPU_OVER_S
        while time.monotonic() < ends_s:
            due_s = time.monotonic() + _POLL_S
            os.write(fd, command)
            select.select([fd], [], [], 1.0)
            os.read(fd, 64)
            time.sleep(max(0.0, due_s - time.monotonic()))
        os.close(fd)
        return 100.0 * (time.thread_time() - begun_s) / _CPU_OVER_S


def _cpu_s(pid: int) -> float:
    values = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(values[11]) + int(values[12])) / _TICKS_PER_S


def _day() -> Figure:
    """24 hours in simulated time: a card each minute, one frame of a hundred lost in each direction."""
    chance = random.Random(24)  # noqa: S311 - the same day in each run
    reader = simulated(key=_KEY, poll_ms=_DAY_POLL_MS)
    line = SimulatedLine(reader, baudrate=38_400)
    line.to_device = line.to_panel = lambda data: (data,) if chance.random() >= _LOST else ()
    shown: list[int] = []
    while line.now < _DAY_S:
        line.run(60.0)
        shown.append(len(shown))
        reader.device.events.append(raw(26, shown[-1]))
    line.run(10.0)
    once = reader.cards == shown
    return Figure(
        f"a day in simulated time, 1 % of all frames lost, {line.commands} commands",
        f"{len(reader.cards)} of {len(shown)} cards" + ("" if once else ", not each once"),
        "each once",
        once,
    )
