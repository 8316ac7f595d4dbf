"""Runs checks in order, with dependencies between them and a time limit."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from agent.cli.console import Finding
from agent.errors import AgentError, ConfigError, SnowpipeError


@dataclass(frozen=True, slots=True)
class Step:
    """One prerequisite. `check` yields findings, or raises AgentError for a failure.

    `needs` names earlier steps; if one of them failed, this step is skipped.
    """

    name: str
    check: Callable[[], Iterable[Finding]]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A finding; `exit_code` is the exit code of the command if this is the first failure, 0 if none."""

    finding: Finding
    exit_code: int = 0


def in_order(steps: Iterable[Step]) -> Iterator[Found]:
    """Run the steps; those whose needs failed are skipped and listed at the end."""
    stopped_by: dict[str, str] = {}  # step -> the failed step that it depends on
    untried: dict[str, list[str]] = {}
    for step in steps:
        cause = next((stopped_by[need] for need in step.needs if need in stopped_by), None)
        if cause is not None:
            stopped_by[step.name] = cause
            untried.setdefault(cause, []).append(step.name)
            continue
        for found in _take(step):
            yield found
            if found.exit_code:
                stopped_by[step.name] = step.name
    for cause, names in untried.items():
        yield Found(Finding("not checked", "warning", f"{', '.join(names)} (needs {cause})"))


def within(checks: Callable[[], Iterator[Found]], seconds: float) -> Iterator[Found]:
    """Yield the results of `checks()` as they come, for at most `seconds`.

    The checks run in a separate thread: name resolution and serial drivers have no timeout.
    """
    results: queue.SimpleQueue[Found | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            for found in checks():
                results.put(found)
        except Exception as error:  # noqa: BLE001 - else the results would be waited for until the time limit
            for found in _failures("check", error):
                results.put(found)
        finally:
            results.put(None)

    threading.Thread(target=run, name="check", daemon=True).start()
    deadline = time.monotonic() + seconds
    last = "the start"
    while True:
        try:
            found = results.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            text = f"timeout after {seconds:.0f} s, last completed check: {last}; the others were not run"
            hint = (
                "run it again; if it stops at the same point, examine the next device or network connection"
            )
            yield Found(Finding("time", "failed", text, hint), SnowpipeError.exit_code)
            return
        if found is None:
            return
        last = found.finding.name
        yield found


def _take(step: Step) -> Iterator[Found]:
    try:
        for finding in step.check():
            yield Found(finding)
    except Exception as error:  # noqa: BLE001 - a bug in one check must not hide the results of the others
        yield from _failures(step.name, error)


def _failures(name: str, error: Exception) -> Iterator[Found]:
    if isinstance(error, AgentError):
        for text in _problems(error):
            yield Found(Finding(name, "failed", text, error.hint), error.exit_code)
    else:
        # Without its message, which may quote data such as a card number.
        text = f"stopped with an unexpected {type(error).__name__}"
        yield Found(Finding(name, "failed", text, "please report this as a bug"), AgentError.exit_code)


def _problems(error: AgentError) -> tuple[str, ...]:
    problems = error.problems if isinstance(error, ConfigError) else ()
    return problems or (str(error),)
