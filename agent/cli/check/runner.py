"""A check as a walk: steps in their order, what each one found, and an end to it in any case."""

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
    """One prerequisite. `look` gives what it found; it raises AgentError for what is not in order.

    `needs` names earlier steps without which this one could find nothing.
    """

    name: str
    look: Callable[[], Iterable[Finding]]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A finding; `exit_code` is what the command ends with if this is its first failure."""

    finding: Finding
    exit_code: int = 0


def in_order(steps: Iterable[Step]) -> Iterator[Found]:
    """What the steps found; those whose needs failed are not tried, which is said once, at the end."""
    stopped_by: dict[str, str] = {}  # step -> the failed step that keeps it from being right
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
        yield Found(Finding("not tried", "warning", f"{', '.join(names)} ({cause} comes first)"))


def within(walk: Callable[[], Iterator[Found]], seconds: float) -> Iterator[Found]:
    """What a walk finds, as it finds it, for at most `seconds` and then no more.

    The walk runs in a thread of its own: name look-ups and serial drivers take no timeout.
    """
    told: queue.SimpleQueue[Found | None] = queue.SimpleQueue()

    def tell() -> None:
        for found in walk():
            told.put(found)
        told.put(None)

    threading.Thread(target=tell, name="check", daemon=True).start()
    deadline = time.monotonic() + seconds
    last = "the start"
    while True:
        try:
            found = told.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            text = f"no answer within {seconds:.0f} s, after {last}; the rest was not tried"
            hint = "run it again; if it hangs there again, look at the device or the network that comes next"
            yield Found(Finding("time", "failed", text, hint), SnowpipeError.exit_code)
            return
        if found is None:
            return
        last = found.finding.name
        yield found


def _take(step: Step) -> Iterator[Found]:
    try:
        for finding in step.look():
            yield Found(finding)
    except AgentError as error:
        for text in _problems(error):
            yield Found(Finding(step.name, "failed", text, error.hint), error.exit_code)
    except Exception as error:  # noqa: BLE001 - a check that breaks must not hide what the others find
        # Without its message: that may quote what was being worked on.
        text = f"stopped on an unexpected {type(error).__name__}"
        yield Found(Finding(step.name, "failed", text, "this is a bug worth reporting"), AgentError.exit_code)


def _problems(error: AgentError) -> tuple[str, ...]:
    problems = error.problems if isinstance(error, ConfigError) else ()
    return problems or (str(error),)
