from __future__ import annotations

import logging

import pytest

from agent.errors import AuthError, PortError, UnreachableError
from agent.log.failure_log import FailureLog
from agent.log.message_ids import MessageId, fields_of
from tests.support.swipes import DrivenClock

_log = logging.getLogger("agent.test")
FAULT = PortError("/dev/ttyUSB0 is not there", hint="is the reader plugged in?")


def test_a_first_fault_is_one_warning_with_its_hint(caplog: pytest.LogCaptureFixture) -> None:
    faults = FailureLog(_log, "reader RDR-101", DrivenClock().monotonic_s, recovery=MessageId.READER_BACK)

    faults.failed(FAULT, MessageId.READER_LOST)

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "reader RDR-101: /dev/ttyUSB0 is not there; is the reader plugged in?"


def test_a_fault_that_goes_on_is_told_once_a_minute_with_a_count(caplog: pytest.LogCaptureFixture) -> None:
    clock = DrivenClock()
    faults = FailureLog(_log, "reader RDR-101", clock.monotonic_s, recovery=MessageId.READER_BACK)

    for _ in range(180):
        faults.failed(FAULT, MessageId.READER_LOST)
        clock.advance(1)

    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert "(failure 61 in a row)" in told[1]
    assert "(failure 121 in a row)" in told[2]


def test_the_end_of_a_fault_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="agent")
    faults = FailureLog(_log, "reader RDR-101", DrivenClock().monotonic_s, recovery=MessageId.READER_BACK)
    faults.failed(FAULT, MessageId.READER_LOST)
    faults.failed(FAULT, MessageId.READER_LOST)

    faults.recovered()
    faults.recovered()

    assert [record.getMessage() for record in caplog.records[1:]] == [
        "reader RDR-101: recovered after 2 failures"
    ]


def test_what_never_failed_recovers_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="agent")

    FailureLog(_log, "reader RDR-101", DrivenClock().monotonic_s, recovery=MessageId.READER_BACK).recovered()

    assert caplog.records == []


def test_a_new_fault_after_a_recovery_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    faults = FailureLog(_log, "reader RDR-101", DrivenClock().monotonic_s, recovery=MessageId.READER_BACK)
    faults.failed(FAULT, MessageId.READER_LOST)
    faults.recovered()

    faults.failed(FAULT, MessageId.READER_LOST)

    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 2


def test_a_fault_of_another_kind_is_told_at_once_but_not_at_every_change(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults = FailureLog(_log, "uploader", DrivenClock().monotonic_s, recovery=MessageId.SNOWFLAKE_RECOVERED)

    for _ in range(10):
        faults.failed(UnreachableError("no route"), MessageId.SNOWFLAKE_UNREACHABLE)
        faults.failed(AuthError("401", status=401), MessageId.CREDENTIALS_REFUSED)

    assert [fields_of(record)["MESSAGE_ID"] for record in caplog.records] == [
        MessageId.SNOWFLAKE_UNREACHABLE,
        MessageId.CREDENTIALS_REFUSED,
    ]


def test_what_needs_a_person_is_an_error_and_what_heals_itself_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults = FailureLog(_log, "uploader", DrivenClock().monotonic_s, recovery=MessageId.SNOWFLAKE_RECOVERED)

    faults.failed(UnreachableError("no route"), MessageId.SNOWFLAKE_UNREACHABLE)
    faults.failed(AuthError("401", status=401), MessageId.CREDENTIALS_REFUSED)

    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]


def test_both_ends_of_a_fault_have_the_same_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="agent")
    clock = DrivenClock()
    faults = FailureLog(_log, "uploader", clock.monotonic_s, recovery=MessageId.SNOWFLAKE_RECOVERED)

    faults.failed(
        AuthError("401", status=401, code="390144"), MessageId.CREDENTIALS_REFUSED, channel="hq-0a1b"
    )
    faults.recovered()

    assert [dict(fields_of(record)) for record in caplog.records] == [
        {"MESSAGE_ID": MessageId.CREDENTIALS_REFUSED, "CHANNEL": "hq-0a1b", "ERROR_CODE": "390144"},
        {"MESSAGE_ID": MessageId.SNOWFLAKE_RECOVERED, "CHANNEL": "hq-0a1b"},
    ]
