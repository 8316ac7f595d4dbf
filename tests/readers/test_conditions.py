from __future__ import annotations

import logging
from pathlib import Path

import pytest

from agent.errors import KeyFileError
from agent.keys.reader_keys import ReaderKeys, new_reader_key, parse_reader_keys
from agent.log.message_ids import MessageId, fields_of
from agent.readers.conditions import ConditionMonitor
from agent.readers.events import Condition, ConditionChange
from agent.readers.port_protocols import make_protocols, osdp_of
from agent.readers.protocols.osdp.secure_channel import DEFAULT_KEY
from agent.settings import ReaderSettings


def test_each_change_of_a_condition_is_one_line_with_its_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    monitor = ConditionMonitor("RDR-1")

    for active in (False, True, True, False, False):
        monitor.observe(ConditionChange(Condition.TAMPER, active=active))

    assert [fields_of(record)["MESSAGE_ID"] for record in caplog.records] == [
        MessageId.READER_TAMPERED,
        MessageId.READER_TAMPER_ENDED,
    ]
    assert monitor.active == frozenset()


def test_the_first_answer_is_a_line_and_a_new_session_is_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    monitor = ConditionMonitor("RDR-1")

    for _ in range(3):
        monitor.observe(ConditionChange(Condition.OFFLINE, active=False))

    assert [record.getMessage() for record in caplog.records] == ["reader RDR-1: online"]


def test_keys_of_readers_survive_their_file_and_are_in_no_repr() -> None:
    keys = ReaderKeys().with_key("RDR-1", new_reader_key()).with_key("RDR-2", new_reader_key())

    read = parse_reader_keys(keys.content, Path("reader.keys"))

    assert read == keys
    assert repr(keys) == "ReaderKeys(are_unreadable=False)"


@pytest.mark.parametrize("line", [b"RDR-1", b"RDR-1 00", b"RDR-1 " + b"x" * 32, b"RDR-1 " + b"0" * 34])
def test_a_line_that_is_no_key_is_refused_by_its_number(line: bytes) -> None:
    with pytest.raises(KeyFileError, match="line 2 is not"):
        parse_reader_keys(b"RDR-0 " + b"0" * 32 + b"\n" + line, Path("reader.keys"))


@pytest.mark.parametrize(
    ("secure", "key", "how"),
    [
        ("required", None, "not at all"),
        ("required", DEFAULT_KEY, "not at all"),
        ("required", bytes(16), "in a session"),
        ("none", None, "in clear text"),
        ("none", bytes(16), "in a session"),
        ("none", "unreadable", "not at all"),
    ],
)
def test_a_reader_is_asked_with_its_own_key_or_in_clear_text_where_that_is_configured(
    secure: str, key: bytes | str | None, how: str
) -> None:
    reader = ReaderSettings("RDR-1", "Z", Path("/dev/ttyUSB0"), "osdp", options={"secure": secure})
    by_reader = {"RDR-1": key} if isinstance(key, bytes) else {}
    keys = ReaderKeys(by_reader, are_unreadable=key == "unreadable")

    (protocol,) = make_protocols([reader], keys)

    osdp = osdp_of(protocol)
    assert osdp is not None
    assert osdp.lacks_key is (how == "not at all")
    sent = protocol.data_to_send(0.0)
    has_security_block = bool(sent and sent[5] & 8)
    assert (bool(sent), has_security_block) == (how != "not at all", how == "in a session")
