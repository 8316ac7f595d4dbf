"""Whatever a line sends: few lines in the journal, and the last state among them."""

from __future__ import annotations

import logging

from agent.log.line_limit import LINES_PER_WINDOW, WINDOW_S, LineLimit
from agent.log.message_ids import MessageId, fields
from bench.floods import FLOODS, flooded


class Log:
    """A limit on a clock of its own, and the lines that were written."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.lines: list[str] = []
        self.limit = LineLimit(lambda: self.now_s)

    def write(self, text: str, *values: object, level: int = logging.INFO, **extra: str) -> None:
        record = logging.LogRecord("agent.test", level, "file.py", 1, text, values, None)
        record.__dict__.update(fields(MessageId.READER_FAULT, **extra))  # type: ignore[arg-type]
        self.lines += [ready.getMessage() for ready in self.limit.admit(record, lambda ready: ready)]

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.lines += [ready.getMessage() for ready in self.limit.due()]


def test_the_last_line_of_a_flood_is_written_with_the_number_of_the_others() -> None:
    log = Log()
    for number in range(1000):
        log.write("state %d", number)

    log.wait(WINDOW_S)

    assert log.lines[:LINES_PER_WINDOW] == [f"state {number}" for number in range(LINES_PER_WINDOW)]
    assert log.lines[LINES_PER_WINDOW:] == [
        f"state 999 (within 10 minutes, {999 - LINES_PER_WINDOW} more lines like this were dropped)"
    ]


def test_a_flood_of_one_reader_hides_no_line_of_another_or_of_another_kind() -> None:
    log = Log()
    for _ in range(1000):
        log.write("reader %s: cover open", "RDR-1", reader="RDR-1")

    log.write("reader %s: cover open", "RDR-2", reader="RDR-2")
    log.write("reader %s: lost", "RDR-1", reader="RDR-1")

    assert log.lines[LINES_PER_WINDOW:] == ["reader RDR-2: cover open", "reader RDR-1: lost"]


def test_lines_held_back_come_in_the_order_of_their_events() -> None:
    log = Log()
    for _ in range(100):
        log.write("back")
        log.write("lost")
    log.write("back")

    log.wait(WINDOW_S)

    assert [line.partition(" ")[0] for line in log.lines[-2:]] == ["lost", "back"]


def test_a_repetition_once_a_minute_is_not_limited() -> None:
    log = Log()
    for _ in range(60):
        log.write("no connection")
        log.wait(60)

    assert log.lines == ["no connection"] * 60


def test_debug_lines_are_not_limited() -> None:
    log = Log()
    for _ in range(100):
        log.write("bytes", level=logging.DEBUG)

    assert len(log.lines) == 100


def test_any_flood_from_the_wire_is_a_bounded_number_of_lines() -> None:
    # `python -m bench floods` does the same for an hour of each.
    for flood in FLOODS[:3]:
        result = flooded(flood, seconds=int(WINDOW_S) // 3)

        assert result.events > 500, flood.name
        assert 1 <= result.lines <= 2 * (LINES_PER_WINDOW + 1), flood.name
