from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.cli.decode import _NEXT_STEPS, command
from agent.readers.cards.decoder import encode
from agent.readers.events import NoiseReason

FRAME = "02 30313030363345394145 3235 03"


def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(command, arguments, input=stdin)


def answers(*queries: Any) -> list[Any]:  # noqa: ANN401 - whatever JSON can say
    result = run("--stdin", "--json", stdin="".join(json.dumps(query) + "\n" for query in queries))
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_card_is_explained_to_a_person() -> None:
    result = run("bits", "26:2F657AE")

    assert result.exit_code == 0
    assert result.output == (
        "Card: 26 bits, raw 2F657AE, parity holds.\n  H10301: facility code 123, card number 11223\n"
    )


def test_a_tag_without_format_is_explained_by_its_badge_id() -> None:
    result = run("rdm6300", "--hex", *FRAME.split())

    assert result.exit_code == 0
    assert "the frame's checksum holds" in result.output
    assert "badge_id is 40:010063E9AE" in result.output


def test_formats_that_cannot_be_told_apart_are_named() -> None:
    result = run("bits", "37:1F6F6A979E", "--formats", "H10302, H10304")

    assert result.exit_code == 0
    assert "H10302 and H10304 fit" in result.output


def test_noise_comes_with_the_next_step_and_exit_code_1() -> None:
    result = run("rdm6300", "--hex", FRAME.replace("3235", "3234"))

    assert result.exit_code == 1
    assert result.output.startswith("Noise (checksum). Swipe again.")


def test_every_reason_has_a_next_step() -> None:
    assert set(_NEXT_STEPS) == set(NoiseReason)


def test_a_key_is_never_shown() -> None:
    result = run("bits", "1010")

    assert result.exit_code == 1
    assert result.output == "Key: a keypad key. Which one is never shown.\n"


def test_several_lines_are_several_outcomes() -> None:
    result = run("bits", "26:2F657AE", "26:2F657AF", "--json")

    outcomes = json.loads(result.output)["outcomes"]
    assert [outcome["kind"] for outcome in outcomes] == ["card", "noise"]
    assert result.exit_code == 0


def test_the_text_of_a_text_protocol_can_be_typed() -> None:
    result = run("yaawl", "Card readed: 24bits / 3D12D6")

    assert result.exit_code == 0
    assert "H10301: facility code 61, card number 4822" in result.output


def test_options_of_a_protocol_are_taken() -> None:
    result = run("rfideas", "061-04822", "--option", "bits=24", "--option", "delimiter=-")

    assert result.exit_code == 0
    assert "H10301: facility code 61, card number 4822" in result.output


def test_a_declared_26_bit_pad_makes_its_words_keys() -> None:
    card = run("bits", "26:2F657AE", "--keypad", "card26")
    key = run("bits", "26:2F657AE", "--keypad", "card26", "--pin-facility-code", "123")

    assert "facility code 123" in card.output
    assert key.output == "Key: a keypad key. Which one is never shown.\n"


def test_the_oem_code_is_shown_where_a_format_has_one() -> None:
    word = encode("C15001", 1, 2, None, 900)

    result = run("bits", f"36:{word:09X}", "--formats", "C15001")

    assert "C15001: facility code 1, card number 2, OEM code 900" in result.output


def test_what_a_reader_says_of_itself_is_told_and_is_no_card() -> None:
    result = run("yaawl", "State changed: DISCONNECTED")

    assert result.exit_code == 1
    assert result.output == "Status: the bridge sees no reader: both data lines are low\n"


def test_failed_parity_is_shown_when_flagged() -> None:
    result = run("bits", "26:2F657AF", "--parity", "flag")

    assert result.exit_code == 0
    assert "PARITY FAILED" in result.output


def test_nothing_is_said_to_be_nothing() -> None:
    result = run("bits", "")

    assert (result.exit_code, result.output) == (1, "Nothing: no card, no key and no noise.\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Name a PROTOCOL"),
        (["bits"], "Name a PROTOCOL"),
        (["smoke", "1"], "smoke"),
        (["rdm6300", "--hex", "0"], "not hex"),
        (["bits", "1", "--formats", "H1031"], "unknown: H1031. Known: H10301"),
        (["bits", "1", "--option", "bits"], "give it as KEY=VALUE"),
        (["bits", "1", "--option", "bits=24"], "bits: unknown option; bits knows bit_order"),
        (["rfideas", "1", "--option", "bit=24"], "unknown option (did you mean bits?)"),
        (["rfideas", "1", "--option", "digits=roman"], "digits: must be one of decimal, hex"),
        (["line", "1"], "pattern: must be a regular expression"),
        (["--stdin", "--option", "bits=24"], "--stdin takes everything"),
        (["--stdin", "bits"], "--stdin takes everything"),
        (["--stdin", "--hex"], "--stdin takes everything"),
    ],
)
def test_wrong_usage_is_told_with_exit_code_2(arguments: list[str], said: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert said in result.output


def test_a_program_gets_a_card_with_all_its_fields() -> None:
    (answer,) = answers({"bits": 26, "raw": "2F657AE", "formats": ["H10301"]})

    assert answer == {
        "outcomes": [
            {
                "kind": "card",
                "bits": 26,
                "raw": "2F657AE",
                "check": "parity",
                "format": "H10301",
                "facility_code": 123,
                "card_number": 11223,
                "matches": ["H10301"],
            }
        ]
    }


def test_a_program_gets_what_only_some_formats_have() -> None:
    (answer,) = answers({"bits": 36, "raw": f"{encode('S12906', 9, 8, 3):09X}", "formats": ["S12906"]})

    assert answer["outcomes"][0]["issue"] == 3
    assert "oem" not in answer["outcomes"][0]


def test_a_program_is_told_of_status_beside_the_outcomes() -> None:
    (answer,) = answers({"protocol": "twn4-simple", "frame": b"01\r".hex()})

    assert answer["outcomes"] == []
    assert answer["status"] == [
        "the reader does not know SearchTag: is the Simple Protocol application loaded into it?"
    ]


def test_a_line_of_a_program_has_its_own_settings() -> None:
    pin = {"bits": 26, "raw": "001FFFF"}
    text = {"protocol": "rfideas", "frame": b"4002518\r".hex()}

    answered = answers(
        pin,
        {**pin, "keypad": "card26"},
        {**pin, "keypad": "card26", "pin_facility_code": 1},
        {**text, "options": {"bits": 24}},
        text,
        {"bits": 26, "raw": "2F657AF", "parity": "flag"},
    )

    (card, key, other, declared, plain, failed) = [answer["outcomes"][0] for answer in answered]
    assert (card["kind"], key, other["kind"]) == ("card", {"kind": "key"}, "card")
    assert (declared["bits"], declared["facility_code"], plain["bits"]) == (24, 61, 32)
    assert failed["check"] == "failed"


def test_a_program_gets_one_answer_for_each_line_in_order() -> None:
    answered = answers(
        {"protocol": "rdm6300", "frame": FRAME, "formats": [], "keypad": "none"},
        {"protocol": "rdm6300", "frame": "0230"},
        {"bits": 37, "raw": "1F6F6A979E", "formats": ["H10302", "H10304"]},
        {"bits": 4, "raw": "5", "keypad": "burst4"},
        {"bits": 26, "raw": "2f657af"},
    )

    kinds = [[outcome["kind"] for outcome in answer["outcomes"]] for answer in answered]
    assert kinds == [["card"], ["noise"], ["card"], ["key"], ["noise"]]
    assert answered[0]["outcomes"][0]["raw"] == "010063E9AE"
    assert answered[1]["outcomes"] == [{"kind": "noise", "reason": "truncated"}]
    assert answered[2]["outcomes"][0]["matches"] == ["H10302", "H10304"]
    assert answered[2]["outcomes"][0]["format"] is None
    assert answered[3]["outcomes"] == [{"kind": "key"}]
    assert answered[4]["outcomes"] == [{"kind": "noise", "reason": "parity"}]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 60_000, "not JSON"),
        ("[" * 65_536, "longer than 65536 bytes"),
        ("[" * 65_537, "longer than 65536 bytes"),
        (" " * 10_000_000 + "{}", "longer than 65536 bytes"),
        ("[]", "not a JSON object"),
        ("{}", "bits"),
        ('{"bits": true, "raw": "1"}', "bits"),
        ('{"bits": 0, "raw": "0"}', "bits"),
        ('{"bits": 1e9, "raw": "0"}', "bits"),
        ('{"bits": 257, "raw": "0"}', "bits"),
        ('{"bits": 26}', "raw: not hex"),
        ('{"bits": 26, "raw": "0x1"}', "raw: not hex"),
        ('{"bits": 26, "raw": "4000000"}', "raw: wider than 26 bits"),
        ('{"bits": 26, "raw": "1", "formats": "H10301"}', "formats"),
        ('{"bits": 26, "raw": "1", "formats": [1]}', "formats"),
        ('{"bits": 26, "raw": "1", "formats": ["H1031"]}', "unknown H1031"),
        ('{"bits": 26, "raw": "1", "keypad": "yes"}', "keypad"),
        ('{"bits": 26, "raw": "1", "keypad": ["none"]}', "keypad"),
        ('{"bits": 26, "raw": "1", "parity": "maybe"}', "parity"),
        ('{"bits": 26, "raw": "1", "pin_facility_code": true}', "pin_facility_code"),
        ('{"bits": 26, "raw": "1", "pin_facility_code": 256}', "pin_facility_code"),
        ('{"bits": 26, "raw": "1", "options": []}', "options: not a JSON object"),
        (
            '{"protocol": "rfideas", "frame": "31", "options": {"bits": "24"}}',
            "options: bits: must be a whole",
        ),
        ('{"protocol": "smoke", "frame": "00"}', "protocol: unknown"),
        ('{"protocol": [], "frame": "00"}', "protocol: unknown"),
        ('{"protocol": "bits", "frame": "0"}', "frame: not hex"),
        ('{"protocol": "bits"}', "frame: not hex"),
    ],
)
def test_a_malformed_line_is_answered_and_the_run_goes_on(line: str, said: str) -> None:
    result = run("--stdin", "--json", stdin=f'{line}\n{{"bits": 26, "raw": "2F657AE"}}\n')

    refused, answered = map(json.loads, result.stdout.splitlines())
    assert said in refused["error"]
    assert answered["outcomes"][0]["kind"] == "card"
    assert result.exit_code == 1


def test_bytes_that_are_no_text_are_a_malformed_line() -> None:
    result = run("--stdin", "--json", stdin=b"\xff\xfe\xff\n")

    assert json.loads(result.stdout) == {"error": "not JSON"}
    assert result.exit_code == 1


def test_well_formed_lines_end_with_exit_code_0_even_when_they_hold_no_card() -> None:
    result = run("--stdin", "--json", stdin='{"bits": 26, "raw": "0"}\n')

    assert json.loads(result.stdout) == {"outcomes": [{"kind": "noise", "reason": "null"}]}
    assert result.exit_code == 0


def test_a_refused_raw_value_is_not_repeated() -> None:
    (answer,) = answers({"bits": 26, "raw": "ABCDEF01"})

    assert "ABCDEF01" not in answer["error"]
