"""What a server writes: its free text reaches no log, hold or status, and no malformed field stops rows."""

from __future__ import annotations

import logging

import pytest

from agent.outbox import read_counts
from agent.outbox.external import holds
from tests.support.pipe_model import Refuse
from tests.support.uploader_rig import UploaderRig

CARD = "12447170F7"
WORDS = f"Numeric value '{CARD}' is not recognized\nWATCHDOG_USEC=1\x1b[2J"


def test_no_value_of_a_row_and_no_control_character_of_a_message_is_shown(
    door: UploaderRig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="agent")
    door.pipe.words = WORDS
    door.pipe.cannot_load = lambda row: row["seq"] == 2
    reasons = []
    for status, code in [(503, ""), (403, ""), (409, f"ERR_{CARD}"), (400, "ERR\nWATCHDOG_USEC=1")]:
        door.pipe.faults.append(Refuse(status, code))
        door.keep(2)
        door.run(3)
        reasons.append(door.uploader.status().reason)
    door.drain()

    held = [hold.reason for hold in holds.holds(door.state_dir)]
    shown = "\n".join([caplog.text, *map(str, reasons), *map(str, held)])
    assert read_counts(door.state_dir).rejected
    assert "1 not loaded: Numeric value ... is not recognized ..." in held
    assert CARD not in shown
    assert "WATCHDOG_USEC" not in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("odd", [None, "3", 3.5, 2**63, -1, True, [1], "\ud800"], ids=repr)
def test_malformed_bookkeeping_stops_no_row(door: UploaderRig, odd: object) -> None:
    names = ("created_on_ms", "rows_error_count", "last_error_offset_upper_bound", "last_error_message")
    door.pipe.bookkeeping = dict.fromkeys(names, odd)
    door.keep(5)
    door.drain()
    door.keep(5)

    door.drain()

    assert len(door.pipe.landed) == 10
    assert holds.holds(door.state_dir) == []
    # The counts that cannot be read are asked for every five minutes of a day after each of the two commits.
    assert len(door.pipe.of("status")) <= 2 * (24 * 12 + 10)


def test_the_counts_are_followed_again_once_they_are_readable(door: UploaderRig) -> None:
    door.keep(2)
    door.drain()
    door.pipe.bookkeeping = {"rows_error_count": None, "created_on_ms": None}
    door.keep(2)
    door.drain()
    door.pipe.bookkeeping = {}
    door.keep(2)

    door.drain()

    assert len(door.pipe.landed) == 6
    assert holds.holds(door.state_dir) == []
