from __future__ import annotations

import logging

import pytest

from agent.errors import PortError
from agent.events import Event
from agent.faultlog import FaultLog
from tests.swipes import DrivenClock

_log = logging.getLogger("agent.test")
FAULT = PortError("/dev/ttyUSB0 is not there", hint="is the reader plugged in?")


def test_a_first_fault_is_one_warning_with_its_hint(caplog: pytest.LogCaptureFixture) -> None:
    faults = FaultLog(_log, "reader RDR-101", DrivenClock().monotonic_s, recovery=Event.READER_BACK)

    faults.failed(FAULT, Event.READER_LOST)

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "reader RDR-101: /dev/ttyUSB0 is not there; is the reader plugged in?"


def test_a_fault_that_goes_on_is_told_once_a_minute_with_a_count(caplog: pytest.LogCaptureFixture) -> None:
    clock = DrivenClock()
    faults = FaultLog(_log, "reader RDR-101", clock.monotonic_s, recovery=Event.READER_BACK)

    for _ in range(180):
        faults.failed(FAULT, Event.READER_LOST)
        clock.advance(1)

    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert "(failure 61 in a row)" in told[1]
    assert "(failure 121 in a row)" in told[2]


def test_the_end_of_a_fault_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="agent")
    faults = FaultLog(_log, "reader RDR-101", DrivenClock().monotonic_s, recovery=Event.READER_BACK)
    faults.failed(FAULT, Event.READER_LOST)
    faults.failed(FAULT, Event.READER_LOST)

    faults.recovered()
    faults.recovered()

    assert [record.getMessage() for record in caplog.records[1:]] == [
        "reader RDR-101: recovered after 2 failures"
    ]


def test_what_never_failed_recovers_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="agent")

    FaultLog(_log, "reader RDR-101", DrivenClock().monotonic_s, recovery=Event.READER_BACK).recovered()

    assert caplog.records == []


def test_a_new_fault_after_a_recovery_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    faults = FaultLog(_log, "reader RDR-101", DrivenClock().monotonic_s, recovery=Event.READER_BACK)
    faults.failed(FAULT, Event.READER_LOST)
    faults.recovered()

    faults.failed(FAULT, Event.READER_LOST)

    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 2
