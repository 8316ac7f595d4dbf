from __future__ import annotations

import logging

import pytest

from agent.readers.cards.decoder import decode, encode
from agent.readers.events import CredentialKind, Key, Noise, NoiseReason, Outcome, RawCredential, Status
from agent.readers.wiring import WiringMonitor
from agent.settings import DEFAULT_FORMATS, Keypad
from agent.swipe import CardCheck

CARD = decode(RawCredential(26, encode("H10301", 123, 11_223)), DEFAULT_FORMATS)
PIN = decode(RawCredential(26, encode("H10301", 0, 4711)), DEFAULT_FORMATS)
SWAPPED = Noise(NoiseReason.SWAPPED)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize(
    ("outcomes", "warnings"),
    [
        ([SWAPPED] * 2, 0),
        ([SWAPPED] * 3, 1),
        ([SWAPPED] * 30, 1),
        ([SWAPPED, SWAPPED, CARD, SWAPPED, SWAPPED], 0),
        ([SWAPPED, SWAPPED, Noise(NoiseReason.PARITY), SWAPPED], 0),
        ([SWAPPED, SWAPPED, Key(), SWAPPED], 0),
        ([SWAPPED] * 3 + [CARD] + [SWAPPED] * 3, 2),
    ],
)
def test_swapped_wires_are_told_once_after_three_words_in_a_row(
    caplog: pytest.LogCaptureFixture, outcomes: list[Outcome], warnings: int
) -> None:
    diagnosis = WiringMonitor("RDR-101", keypad="none")

    for outcome in outcomes:
        diagnosis.observe_credential(outcome)

    assert len(caplog.records) == warnings
    assert all("reader RDR-101: D0/D1 swapped" in record.getMessage() for record in caplog.records)


def test_a_26_bit_pad_is_suspected_once_and_without_its_pin(caplog: pytest.LogCaptureFixture) -> None:
    diagnosis = WiringMonitor("RDR-101", keypad="unknown")

    for outcome in (CARD, PIN, PIN):
        diagnosis.observe_credential(outcome)

    ((level, text),) = said(caplog)
    assert level == "WARNING"
    assert text.startswith("reader RDR-101: may be a 26-bit PIN pad")
    assert "4711" not in text


@pytest.mark.parametrize(
    "word",
    [
        RawCredential(26, encode("H10301", 1, 57_920)),  # 123456 in binary
        RawCredential(26, encode("H10301", 1, 0x2345)),  # 1-2-3-4-5 as decimal digits of four bits
        RawCredential(34, encode("H10306", 1, 57_920)),
        RawCredential(24, 123_456, CardCheck.UPSTREAM, CredentialKind.DATA),
        RawCredential(32, 0x12345678, CardCheck.CHECKSUM, CredentialKind.ID, maybe_pin=True),
    ],
)
def test_a_word_that_may_be_a_pin_raises_the_alarm_while_the_keypad_is_not_set(
    word: RawCredential, caplog: pytest.LogCaptureFixture
) -> None:
    diagnosis = WiringMonitor("RDR-101", keypad="unknown")

    diagnosis.observe_credential(decode(word, DEFAULT_FORMATS))

    assert len(caplog.records) == 1


@pytest.mark.parametrize("keypad", ["none", "burst4", "pin26"])
def test_a_declared_pad_is_not_suspected(keypad: Keypad, caplog: pytest.LogCaptureFixture) -> None:
    diagnosis = WiringMonitor("RDR-101", keypad=keypad)

    diagnosis.observe_credential(PIN)

    assert said(caplog) == []


def test_what_a_reader_says_of_itself_is_told_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    diagnosis = WiringMonitor("RDR-101", keypad="none")
    gone, back = Status("its reader is gone", ok=False), Status("its reader is there", ok=True)

    for status in (gone, gone, back, back):
        diagnosis.observe_status(status)

    assert said(caplog) == [
        ("WARNING", "reader RDR-101: its reader is gone"),
        ("INFO", "reader RDR-101: its reader is there"),
    ]
