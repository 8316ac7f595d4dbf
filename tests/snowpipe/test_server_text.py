from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.snowpipe import server_text


@pytest.mark.parametrize(
    "code",
    [
        "ERR_CHANNEL_MUST_BE_REOPENED",
        "STALE_PIPE_CACHE",
        "invalid_scope",
        "390144",
        "002003",
        "4",
        "ERR_X_400",
        "SUCCESS",
    ],
)
def test_a_code_keeps_its_form(code: str) -> None:
    assert server_text.code(code) == code


@pytest.mark.parametrize(
    "text",
    [
        "12447170F7",
        "1244717",
        "25519",
        "125519",
        "ERR X",
        "ERR\nX",
        "ERR_\x1b[2J",
        "",
        "E" * 81,
        "\ud800",
        None,
        True,
        10**9,
        [],
    ],
)
def test_what_has_not_the_form_of_a_code_is_none(text: object) -> None:
    assert server_text.code(text) == ""


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("NULL result in a non-nullable column USER_ID", "NULL result in a non-nullable column USER_ID"),
        ("Numeric value '12447170F7' is not recognized", "Numeric value ... is not recognized"),
        ("Value 12447170F7 is not recognized", "Value ... is not recognized"),
        ('String "Alice" is too long', "String ... is too long"),
        ("Timestamp 'a\nb", "Timestamp ..."),
        ("column 123-25519", "column ..."),
        ("", None),
        ("12447170F7", None),
        (None, None),
        (7, None),
    ],
)
def test_a_load_error_keeps_its_words_and_loses_its_values(said: object, shown: str | None) -> None:
    assert server_text.load_error(said) == shown


@given(st.text(max_size=200))
def test_no_digit_and_no_control_character_of_a_load_error_is_shown(said: str) -> None:
    shown = server_text.load_error(said) or ""

    assert re.fullmatch(r"[A-Za-z_. -]*|.*utf-8.*", shown, re.IGNORECASE)
    assert shown.isprintable()
    assert len(shown) <= 200


@pytest.mark.parametrize(
    "token", [f"7-{'0a' * 16}", f"7-{'0a' * 8}", f"2.7-{'0a' * 16}", f"0.7-{'0a' * 6}", f"7-{'0a' * 6}"]
)
def test_the_tokens_of_swipes_replays_and_door_events_are_known(token: str) -> None:
    assert server_text.own_offset_token(token) == token


@pytest.mark.parametrize("text", ["12447170F7", "1.2.3-0a", "7", "7-", ".7-0a", "7-0A", "7-0a ", None, 7])
def test_what_is_no_token_of_ours_is_none(text: object) -> None:
    assert server_text.own_offset_token(text) is None
