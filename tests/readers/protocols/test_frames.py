"""Frames from documentation and from real readers, with their expected outcomes."""

from __future__ import annotations

import csv
import json
import math
from typing import get_args

import pytest

from agent.readers.cards.decoder import Decoder
from agent.readers.events import ConditionChange, Noise, Outcome, RawCredential, Status
from agent.readers.protocols import STANDALONE, make_protocol
from agent.settings import DEFAULT_FORMATS, Keypad
from agent.swipe import CardRead
from bench import decode
from tests.support.paths import DATA

ROWS = list(csv.DictReader((DATA / "frames.csv").read_text().splitlines()))
KEYPADS: dict[str, Keypad] = {"": "none", **{keypad: keypad for keypad in get_args(Keypad)}}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['protocol']}-{row['bytes'][:60]}{row['keypad']}")
def test_known_frames_have_their_known_outcomes(row: dict[str, str]) -> None:
    wire = make_protocol(row["protocol"], json.loads(row["options"] or "{}"))
    decoder = Decoder(DEFAULT_FORMATS, keypad=KEYPADS[row["keypad"]])

    frames = [*wire.receive_data(bytes.fromhex(row["bytes"]), 0.0), *wire.handle_timeout(math.inf)]

    outcomes = [decoder(frame) if isinstance(frame, RawCredential) else frame for frame in frames]
    assert "; ".join(in_words(outcome) for outcome in outcomes) == row["outcomes"]


def in_words(outcome: Outcome | Status | ConditionChange) -> str:
    if isinstance(outcome, CardRead):
        fields = f" {outcome.format} {outcome.facility_code}-{outcome.card_number}" if outcome.format else ""
        return f"card {outcome.bits} {outcome.raw} {outcome.check}{fields}"
    if isinstance(outcome, Noise):
        return f"noise {outcome.reason}"
    if isinstance(outcome, Status):
        return "status ok" if outcome.ok else "status fault"
    return "key"


def test_there_is_a_known_frame_for_every_protocol() -> None:
    assert {row["protocol"] for row in ROWS} == set(STANDALONE)


def test_the_benchmark_has_frames_of_every_protocol() -> None:
    assert set(decode._FRAMES) == set(STANDALONE)
