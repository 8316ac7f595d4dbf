from __future__ import annotations

import json

from click.testing import CliRunner

from agent.cli.protocols import command
from agent.readers.cards.formats import FORMATS
from agent.readers.protocols import PROTOCOLS
from agent.settings import DEFAULT_FORMATS


def test_every_protocol_and_format_is_listed_for_a_person() -> None:
    result = CliRunner().invoke(command)

    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines() if " 8N" in line] == list(PROTOCOLS)
    assert [line.split()[1] for line in result.output.splitlines() if line.startswith("*")] == list(
        DEFAULT_FORMATS
    )
    assert all(name in result.output for name in FORMATS)
    assert "parallax        2400 8N1    Parallax 28140" in result.output
    assert "idteck          9600 8N2    IDTECK" in result.output


def test_the_options_of_a_protocol_stand_below_it_with_their_defaults() -> None:
    result = CliRunner().invoke(command)

    _, _, below = result.output.partition("RF IDeas")
    assert below.splitlines()[1].split(maxsplit=2) == [
        "options.digits",
        "=",
        '"decimal"  how the number is printed (decimal | hex)',
    ]


def test_a_contested_format_says_why_to_be_careful() -> None:
    result = CliRunner().invoke(command)

    assert "use with care: contradicted by 42 real cards" in result.output


def test_every_protocol_and_format_is_listed_for_a_program() -> None:
    result = CliRunner().invoke(command, ["--json"])

    answer = json.loads(result.output)
    assert [listed["name"] for listed in answer["protocols"]] == list(PROTOCOLS)
    assert all(listed["readers"] for listed in answer["protocols"])
    assert {listed["name"] for listed in answer["formats"] if listed["default"]} == set(DEFAULT_FORMATS)
    assert answer["formats"][0] == {
        "name": "H10301",
        "description": "HID 26-bit, the open standard format",
        "bits": 26,
        "default": True,
        "contested": "",
    }


def test_the_line_settings_are_told_to_a_program() -> None:
    result = CliRunner().invoke(command, ["--json"])

    listed = {entry.pop("name"): entry for entry in json.loads(result.output)["protocols"]}
    assert listed["parallax"]["baudrate"] == 2400
    assert listed["gwiot7941w"]["polled"]
    assert not listed["bits"]["polled"]
    assert listed["rfideas"]["options"]["bits"]["default"] == 0
    assert (listed["bits"]["data_bits"], listed["bits"]["parity"], listed["bits"]["stop_bits"]) == (8, "N", 1)
