"""badge-agent demo: the real agent between simulated readers and the emulator, step by step."""

from __future__ import annotations

import importlib.util
import platform
import signal
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click

from agent import __version__
from agent.cli.console import STATE_WIDTH, Finding, progress, show, table
from agent.cli.demo.processes import DATABASE, ROLE, SCHEMA, USER, Stage
from agent.cli.demo.readers import READERS, Card, card
from agent.errors import AgentError, ConfigError

_EMULATOR_LIBRARIES = ("aiohttp", "orjson")
# Fits on a screen; of more rows only the last are listed.
_ROWS_SHOWN = 10
_LINE_WIDTH = 80
_APPEND_S = 10.0
# Between two swipes; shorter for many swipes, to limit the demo's duration.
_PAUSE_S = 0.2
_MAX_SWIPING_S = 5.0
_DRAIN_S = 30.0
_MOST_SWIPES = 1000


@dataclass(frozen=True, slots=True)
class Landed:
    """Comparison of rows and swipes; `as_swiped`: every swipe once and in order."""

    lost: int
    doubled: int
    as_swiped: bool


def compare(rows: list[dict[str, Any]], cards: list[Card]) -> Landed:
    """Compare the rows in the pipe's table, in the order of their seq, with the cards swiped."""
    events = {row["event_id"] for row in rows}
    as_swiped = [row["badge_id"] for row in rows] == [shown.badge_id for shown in cards]
    return Landed(max(0, len(cards) - len(events)), len(rows) - len(events), as_swiped)


@click.command("demo", epilog="Example: badge-agent demo --outage")
@click.option(
    "--swipes", type=click.IntRange(1, _MOST_SWIPES), default=6, show_default=True, help="Number of swipes."
)
@click.option(
    "--outage", is_flag=True, help="Then block the pipe, swipe the same number again, and unblock it."
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Work in DIR (created if missing) and keep all files.",
)
def command(*, swipes: int, outage: bool, keep: Path | None) -> None:
    """Show swipes becoming rows, without configuration or account.

    The real agent runs between two simulated readers (pseudo-terminals) and a local emulator of
    Snowflake's pipe. Takes some seconds; all files are removed. Exit code 1 if a swipe was lost,
    duplicated or out of order.
    """
    missing = [name for name in _EMULATOR_LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the demo needs libraries that are not installed: {', '.join(missing)}",
            hint="pip install 'badge-agent[emulator]', or: sudo apt install python3-aiohttp python3-orjson",
        )
    with ExitStack() as stack:
        stack.enter_context(_signals_as_interrupt())
        directory = (
            _kept(keep)
            if keep
            else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="badge-agent-demo-")))
        )
        stage = stack.enter_context(closing(Stage(directory)))
        started = time.monotonic()
        total = swipes * 2 if outage else swipes
        _set_up(stage, total)
        _swipe_live(stage, [card(number) for number in range(swipes)])
        if outage:
            _swipe_through_an_outage(stage, [card(number) for number in range(swipes, total)])
        _show_what_landed(stage, [card(number) for number in range(total)], started)
    _show_next_steps(stage if keep else None)


def _kept(directory: Path) -> Path:
    directory = directory.absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        is_empty = not any(directory.iterdir())
    except OSError as error:
        raise AgentError(f"cannot use {directory}: {error.strerror}", hint="name another DIR") from error
    if not is_empty:
        raise click.UsageError(f"--keep {directory}: not empty; name a new directory")
    return directory


@contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM and SIGHUP as Ctrl-C, so that processes and files are cleaned up."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- steps ----------------------------------------------------------------------------------


def _set_up(stage: Stage, swipes: int) -> None:
    _ok("prerequisites", f"Python {platform.python_version()}, badge-agent {__version__}, all libraries")
    key = stage.make_key()
    _ok("key", f"generated, {key.fingerprint}")
    stage.start_pipe()
    _ok("pipe", f"the emulator of Snowflake listens on {stage.url}")
    stage.start_agent(swipes)
    _ok("agent", f"badge-agent run is ready (pid {stage.agent_pid}), {len(READERS)} readers open")
    expires_at = stage.wait_for("a token", lambda: stage.status()["token"]["expires_at"], _APPEND_S)
    _ok("token", f"JWT signed, valid until {expires_at[:19]}Z")


def _swipe_live(stage: Stage, cards: list[Card]) -> None:
    click.echo(f"\nSwiping {_count(cards)} while the network is up")
    for number, shown in enumerate(cards, start=1):
        before = len(stage.appends())
        sent_ns = stage.swipe(shown)
        request = stage.wait_for("an append request", partial(_after, stage, before), _APPEND_S)
        way_ms = max(0.0, (request["arrived_ns"] - sent_ns) / 1e6)
        click.echo(f"{_line(number, shown)}  HTTP {request['status']} after {way_ms:.0f} ms")
        time.sleep(min(_PAUSE_S, _MAX_SWIPING_S / len(cards)))
    _drain(stage, 0, len(cards))


def _swipe_through_an_outage(stage: Stage, cards: list[Card]) -> None:
    live = stage.status()["outbox"]["committed_seq"]
    stage.cut()
    click.echo(f"\nThe pipe is unreachable. Swiping {_count(cards)} meanwhile")
    for number, shown in enumerate(cards, start=1):
        stage.swipe(shown)
        stage.wait_for(
            "a swipe in the outbox",
            partial(_waiting, stage, number),
            _APPEND_S,
        )
        click.echo(f"{_line(live + number, shown)}  on disk, {number} waiting")
    reason = stage.wait_for("the agent to notice", lambda: stage.status()["uploader"]["reason"], _APPEND_S)
    _ok("agent", f"holds {stage.status()['outbox']['pending']} swipes and retries")
    _ok("reason", reason)
    stage.restore()
    click.echo("\nThe pipe is reachable again")
    _drain(stage, live, live + len(cards))


def _drain(stage: Stage, after_seq: int, until_seq: int) -> None:
    """Wait until the emulator has committed all of these, with a progress bar."""
    done = after_seq
    with progress(until_seq - done, "Committed") as advance:
        while done < until_seq:
            now = stage.wait_for("a commit", partial(_committed_beyond, stage, done), _DRAIN_S)
            advance(now - done)
            done = now


def _show_what_landed(stage: Stage, cards: list[Card], started: float) -> None:
    rows = stage.query("SELECT * FROM RAW_BADGE_EVENTS ORDER BY seq")
    click.echo("\nRAW_BADGE_EVENTS" + (f", the last {_ROWS_SHOWN} rows" if len(rows) > _ROWS_SHOWN else ""))
    columns = ("seq", "event_timestamp", "badge_id", "user_id", "zone_id", "direction")
    table(columns, [_cells(row, columns) for row in rows[-_ROWS_SHOWN:]])
    events = stage.wait_for("a heartbeat", partial(_events, stage), _DRAIN_S)
    click.echo("\nRAW_DOOR_EVENTS" + (f", the last {_ROWS_SHOWN} rows" if len(events) > _ROWS_SHOWN else ""))
    members = ("seq", "event_timestamp", "kind", "severity", "reader_id")
    table(members, [_cells(row, members) for row in events[-_ROWS_SHOWN:]])
    # Imported late: needs the extra `emulator`, whose absence command() reports.
    from agent.cli.demo.views import show_views  # noqa: PLC0415 - see above

    show_views(stage.database)
    click.echo("\nThe other views, such as V_CHANNEL_ERRORS, need Snowflake itself")
    landed = compare(rows, cards)
    click.echo("\nSummary")
    counts = (len(cards), len(rows), landed.doubled, landed.lost, f"{time.monotonic() - started:.1f}")
    table(("swiped", "landed", "doubled", "lost", "seconds"), [[str(count) for count in counts]])
    if not landed.as_swiped:
        raise AgentError(
            f"the rows differ from the swipes: {landed.lost} lost, {landed.doubled} doubled, or out of order",
            hint="this is a bug, please report it with the files of: badge-agent demo --keep DIR",
        )


def _show_next_steps(kept: Stage | None) -> None:
    if kept:
        click.echo(
            f"\nKept in {kept.directory}:\n"
            f"  sqlite-utils rows {kept.database} RAW_BADGE_EVENTS --table\n"
            f"  badge-agent status --config {kept.directory / 'config.toml'}"
        )
    click.echo(
        "\nNext, to set up a door with the package (README.md)\n"
        "  sudo badge-agent setup\n"
        "\nOr manually\n"
        "  1. copy config.example.toml to config.toml, and edit readers and account\n"
        f"  2. badge-agent key generate --out rsa_key.p8 --user {USER}\n"
        "  3. badge-agent sql --config config.toml: run its output in Snowflake, with\n"
        f"       ALTER USER {USER} SET RSA_PUBLIC_KEY='...';\n"
        "     and to verify it:\n"
        f"       SHOW PIPES IN SCHEMA {DATABASE}.{SCHEMA};\n"
        f"       SHOW GRANTS TO ROLE {ROLE};\n"
        "  4. badge-agent send-sample --config config.toml\n"
        "  5. badge-agent check --config config.toml\n"
        "  6. badge-agent run --config config.toml"
    )


# --- helpers --------------------------------------------------------------------------------


def _ok(name: str, text: str) -> None:
    """Print a finding, wrapped: the length of the agent's reason depends on what failed first."""
    indent = " " * len(f"{'':{STATE_WIDTH}}  {name}: ")
    show(
        Finding(
            name,
            "ok",
            textwrap.fill(text, _LINE_WIDTH, initial_indent=indent, subsequent_indent=indent).lstrip(),
        )
    )


def _count(cards: list[Card]) -> str:
    return "1 card" if len(cards) == 1 else f"{len(cards)} cards"


def _line(number: int, shown: Card) -> str:
    return f"{number:>4}  {shown.badge_id:<13} -> {shown.reader.zone_id:<14} {shown.reader.direction:<5}"


def _after(stage: Stage, count: int) -> dict[str, Any] | None:
    appends = stage.appends()
    return appends[-1] if len(appends) > count else None


def _events(stage: Stage) -> list[dict[str, Any]] | None:
    """The door events, once a heartbeat is among them."""
    rows = stage.query("SELECT * FROM RAW_DOOR_EVENTS ORDER BY rowid")
    return rows if any(row["kind"] == "heartbeat" for row in rows) else None


def _waiting(stage: Stage, count: int) -> bool | None:
    return stage.status()["outbox"]["pending"] >= count or None


def _committed_beyond(stage: Stage, seq: int) -> int | None:
    committed: int = stage.status()["outbox"]["committed_seq"]
    return committed if committed > seq else None


def _cells(row: dict[str, Any], columns: tuple[str, ...]) -> list[str]:
    # Timestamps without the date, so that a row fits 80 columns.
    values = {name: "" if row[name] is None else str(row[name]) for name in columns}
    return [text[11:23] if name == "event_timestamp" else text for name, text in values.items()]
