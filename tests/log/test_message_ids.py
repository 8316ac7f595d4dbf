from __future__ import annotations

import logging
import uuid

import pytest

from agent.errors import AgentError, AuthError, OutboxFullError, TransientError, UnreachableError
from agent.log.message_ids import MessageId, error_code, fields, fields_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AuthError("refused", status=401, code="390144"), "390144"),
        (TransientError("later", status=503), "503"),
        (UnreachableError("no route"), "UnreachableError"),
        (OutboxFullError("no room"), "OutboxFullError"),
    ],
)
def test_an_error_has_the_code_that_says_most(error: AgentError, code: str) -> None:
    assert error_code(error) == code


def test_a_line_has_the_fields_it_was_given_and_no_others() -> None:
    extra = fields(MessageId.ROW_SET_ASIDE, seq=7, channel="hq-lobby-1-0a1b")

    record = logging.getLogger("agent").makeRecord("agent", 40, "", 1, "x", (), None, extra=extra)

    assert dict(fields_of(record)) == {
        "MESSAGE_ID": MessageId.ROW_SET_ASIDE,
        "SEQ": "7",
        "CHANNEL": "hq-lobby-1-0a1b",
    }


def test_a_line_without_fields_has_none() -> None:
    record = logging.getLogger("agent").makeRecord("agent", 40, "", 1, "x", (), None)

    assert dict(fields_of(record)) == {}


def test_every_event_has_a_random_uuid_of_its_own() -> None:
    ids = [uuid.UUID(event) for event in MessageId]

    assert {found.version for found in ids} == {4}
    assert len(set(ids)) == len(MessageId.__members__)
