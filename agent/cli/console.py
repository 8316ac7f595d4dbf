"""Terminal output: findings, tables, progress; plain text in a pipe. The only module that imports rich."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

# Imported in the functions that draw: half of the start-up time on a Pi Zero, and not needed in a pipe.
if TYPE_CHECKING:
    from rich.console import Console, RenderableType

State = Literal["ok", "warning", "failed"]

_STYLES: Mapping[State, str] = MappingProxyType({"ok": "green", "warning": "yellow", "failed": "bold red"})
# Of whole cells: the state of a reader and the place of a swipe.
_CELL_STYLES = {
    "open": "green",
    "lost": "bold red",
    "in Snowflake": "green",
    "on disk": "yellow",
    "set aside": "red",
}
STATE_WIDTH = max(len(state) for state in _STYLES)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; `next` is the next step, empty if none is needed."""

    name: str
    state: State
    text: str
    next: str = ""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table with its heading."""

    title: str
    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class DoorView:
    """What is shown of a door: plain text, without markup."""

    title: str
    help: str
    findings: list[Finding]
    grids: list[Grid]


def console() -> Console:
    """A rich console on standard output, without markup: brackets are printed as they are."""
    from rich.console import Console  # noqa: PLC0415 - see the top of this file

    # Explicit: environment variables can make rich colour output that goes into a pipe.
    return Console(
        file=sys.stdout,
        force_terminal=is_terminal(),
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=True,
    )


def show(finding: Finding) -> None:
    """Print a finding as `state  name: text`, and the next step on a second line."""
    first, *rest = plain_lines(finding)
    if is_terminal():
        from rich.text import Text  # noqa: PLC0415 - see the top of this file

        state = Text(first[:STATE_WIDTH], _STYLES[finding.state])
        console().print(Text.assemble(state, first[STATE_WIDTH:]))
    else:
        print(first)
    for line in rest:
        print(line)


def plain_lines(finding: Finding) -> list[str]:
    """The lines of a finding, without colours."""
    lines = [f"{finding.state:{STATE_WIDTH}}  {finding.name}: {finding.text}"]
    return [*lines, f"{'':{STATE_WIDTH}}  next: {finding.next}"] if finding.next else lines


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; without a terminal one line per row, columns separated by two blanks."""
    if is_terminal():
        from rich import box  # noqa: PLC0415 - see the top of this file
        from rich.table import Table  # noqa: PLC0415 - see the top of this file

        drawn = Table(*headers, box=box.SIMPLE_HEAD)
        for row in rows:
            drawn.add_row(*row)
        console().print(drawn, soft_wrap=False)
        return
    lines = [headers, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@contextmanager
def progress(total: int, description: str) -> Iterator[Callable[[int], None]]:
    """A progress bar over `total` steps; yields a function that takes the number of steps just done.

    Without a terminal prints one line at the end: `description: done of total`.
    """
    if not is_terminal():
        done = 0

        def count(steps: int) -> None:
            nonlocal done
            done += steps

        yield count
        print(f"{description}: {done} of {total}")
        return
    from rich.progress import Progress  # noqa: PLC0415 - see the top of this file

    with Progress(console=console()) as bar:
        task = bar.add_task(description, total=total)
        yield lambda steps: bar.advance(task, steps)


@contextmanager
def screen() -> Iterator[Callable[[DoorView], None]]:
    """The whole terminal until the body ends; yields a function that draws a view. Needs a terminal."""
    from rich.live import Live  # noqa: PLC0415 - see the top of this file

    with Live(console=console(), screen=True, auto_refresh=False) as live:
        yield lambda view: live.update(_drawn(view), refresh=True)


def _drawn(view: DoorView) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415 - see the top of this file
    from rich.table import Table  # noqa: PLC0415 - see the top of this file
    from rich.text import Text  # noqa: PLC0415 - see the top of this file

    findings = Table.grid(padding=(0, 2))
    for finding in view.findings:
        next_step = f"\nnext: {finding.next}" if finding.next else ""
        state = Text(finding.state, _STYLES[finding.state])
        findings.add_row(state, Text(finding.name), Text(finding.text + next_step))
    # Without titles and rules: a terminal may have 24 lines, and the swipes are the last part.
    parts: list[RenderableType] = [Text.assemble((view.title, "bold"), (f"  {view.help}", "dim")), findings]
    for grid in view.grids:
        drawn = Table(*grid.headers, box=None, padding=(0, 2, 0, 0), header_style="bold underline")
        for row in grid.rows:
            # As text: a reader's id is no markup.
            drawn.add_row(*(Text(cell, _CELL_STYLES.get(cell, "")) for cell in row))
        parts += [Text(), drawn]
    return Group(*parts)


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()
