"""A fleet of agent processes against one emulator: V_FLEET shows each door with its reason."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import tty
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agent.cli.console import table
from agent.emulator.views import read_views
from bench.figures import Figure
from tests.support.agent_process import rdm6300_frame
from tests.support.emulator_process import ACCOUNT, DATABASE, PIPE, SCHEMA, USER, EmulatorProcess

_DOORS = int(os.environ.get("BENCH_FLEET_DOORS", "200"))
_GROUP = 8  # agents that run at the same time: each loads Python and its libraries
_PATIENCE_S = 120.0
_SHOWN = 8
# What happens to some doors, by number, and what the view is to say about it.
_KILLED, _UNPLUGGED, _WRONG_CLOCK, _NEVER_STARTED = 1, 2, 3, 4
_EXPECTED = {
    _KILLED: "SILENT",
    _UNPLUGGED: "READER LOST",
    _WRONG_CLOCK: "CLOCK",
    _NEVER_STARTED: "NEVER SEEN",
}
# A door is silent after three intervals: the killed one has the shortest that is reported, a minute.
_SHORT_MINUTES, _SILENT_AFTER = 0.02, timedelta(minutes=5)

# The first heartbeat comes after six seconds in place of a minute: these agents are short, and on a busy
# machine a port is opened some seconds after the start.
_RUN = """
import sys, time
from agent.cli import main
from agent.clock import system_clock
from agent.service import heartbeats
heartbeats._FIRST_AFTER_S = 6.0
read, slow_us = system_clock._both_clocks_us, int(sys.argv.pop(1))
def both_clocks_us():
    wall_us, boot_us = read()
    return wall_us - slow_us, boot_us
system_clock._both_clocks_us = both_clocks_us
wall_s = time.time
time.time = lambda: wall_s() - slow_us / 1e6
sys.exit(main(sys.argv[1:]))
"""


def _name(number: int) -> str:
    return f"door-{number:03}"


class _Door:
    """A short agent process with a reader on a pseudo-terminal."""

    def __init__(self, directory: Path, number: int, emulator: EmulatorProcess) -> None:
        self.number = number
        own = directory / _name(number)
        (own / "state").mkdir(mode=0o700, parents=True)
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        port = own / "unplugged" if number == _UNPLUGGED else Path(os.ttyname(self._slave))
        minutes = _SHORT_MINUTES if number == _KILLED else 60
        config = own / "config.toml"
        config.write_text(
            f'[agent]\nid = "{_name(number)}"\nstate_dir = "state"\nruntime_dir = "run"\n'
            f"heartbeat_minutes = {minutes}\n"
            f'[[readers]]\nid = "R"\nzone_id = "Z"\nprotocol = "rdm6300"\nport = "{port}"\n'
            f'[snowflake]\naccount = "{ACCOUNT}"\nuser = "{USER}"\ndatabase = "{DATABASE}"\n'
            f'schema = "{SCHEMA}"\npipe = "{PIPE}"\nurl = "{emulator.url}"\n'
            f'private_key_file = "{emulator.private_key_file}"\n[clock]\ntrust = "always"\n'
        )
        slow_us = 3_600_000_000 if number == _WRONG_CLOCK else 0
        words = [sys.executable, "-c", _RUN, str(slow_us), "run", "--config", str(config)]
        with (own / "agent.log").open("wb") as log:
            self._process = subprocess.Popen(words, stderr=log)

    def swipe(self) -> None:
        """Present a card; the terminal keeps the bytes until the agent reads them."""
        os.write(self._master, rdm6300_frame(1000 + self.number))

    def end(self) -> None:
        """Kill the door that is to be killed, stop any other."""
        if self.number == _KILLED:
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait()
        os.close(self._slave)
        os.close(self._master)


def run() -> list[Figure]:
    """Every door but one runs for some seconds, in groups; then the view is read."""
    with (
        tempfile.TemporaryDirectory() as name,
        EmulatorProcess(Path(name), options=["--no-limits"]) as emulator,
    ):
        database = emulator.state_dir / "snowflake.db"
        _expect(database)
        begun = time.monotonic()
        numbers = [number for number in range(1, _DOORS + 1) if number != _NEVER_STARTED]
        for first in range(0, len(numbers), _GROUP):
            _run_group(Path(name), numbers[first : first + _GROUP], emulator, database)
        seconds = time.monotonic() - begun
        view_begun = time.monotonic()
        fleet = _fleet(database)
        view_s = time.monotonic() - view_begun
        requests = {name: one["count"] for name, one in emulator.state()["requests"].items() if one["count"]}
    _show(fleet)
    found = {str(row["agent_id"]): str(row["status"]) for row in fleet}
    counts = Counter(found.values())
    others = len(numbers) - len(_EXPECTED) + 1
    return [
        Figure("doors in V_FLEET", str(len(found)), f"= {_DOORS}", len(found) == _DOORS),
        Figure("statuses", ", ".join(f"{count} {status}" for status, count in counts.most_common())),
        *(
            Figure(
                _name(number), found.get(_name(number), ""), f"= {status}", found.get(_name(number)) == status
            )
            for number, status in _EXPECTED.items()
        ),
        Figure("all others", f"{counts['OK']} OK", f"= {others}", counts["OK"] == others),
        Figure("runs of all doors", f"{seconds:.0f} s"),
        Figure("reading every view", f"{view_s:.2f} s"),
        Figure("requests", ", ".join(f"{count} {name}" for name, count in requests.items())),
    ]


def _expect(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany(
            "INSERT INTO EXPECTED_DOORS (agent_id, site) VALUES (?, 'hq')",
            [(_name(number),) for number in range(1, _DOORS + 1)],
        )


def _run_group(directory: Path, numbers: Sequence[int], emulator: EmulatorProcess, database: Path) -> None:
    """Start these doors, swipe once at each, end them when a heartbeat of each has arrived."""
    doors = [_Door(directory, number, emulator) for number in numbers]
    try:
        for door in doors:
            door.swipe()
        names = {_name(number) for number in numbers}
        _wait(
            lambda: names <= _with_heartbeat(database), f"a heartbeat of each of {', '.join(sorted(names))}"
        )
    finally:
        for door in doors:
            door.end()


def _with_heartbeat(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute("SELECT DISTINCT agent_id FROM RAW_DOOR_EVENTS WHERE kind = 'heartbeat'")
        return {name for (name,) in found}


def _wait(holds: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > ends:
            raise RuntimeError(f"not within {_PATIENCE_S:.0f} s: {what}")
        time.sleep(0.1)


def _fleet(database: Path) -> list[dict[str, Any]]:
    """V_FLEET as it is when the killed door has missed three heartbeats."""
    found = next(
        one
        for one in read_views(database, now=lambda: datetime.now(UTC) + _SILENT_AFTER)
        if one.view.name == "V_FLEET"
    )
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def _show(fleet: list[dict[str, Any]]) -> None:
    """The screen: doors with a problem come first."""
    columns = (
        "agent_id",
        "site",
        "status",
        "heartbeat_minutes",
        "clock",
        "readers_open",
        "readers_lost",
        "pending",
    )
    rows = [["" if row[name] is None else str(row[name]) for name in columns] for row in fleet[:_SHOWN]]
    table(columns, rows)
    print(f"... and {len(fleet) - len(rows)} more")
