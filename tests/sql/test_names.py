"""Names in SQL: no character of a name ends its quotation."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sql.names import identifier, literal, name_problem, qualified, stored, user_identifier

PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" \"'`;-\\$"), min_size=1)
NAMES = PRINTABLE.filter(lambda name: name_problem(name) is None)


def unquoted(text: str) -> str:
    """What Snowflake takes an identifier for: quotes taken off, or the case taken away."""
    return text[1:-1].replace('""', '"') if text.startswith('"') else text.upper()


@given(name=NAMES)
def test_an_identifier_is_one_token_that_means_the_name(name: str) -> None:
    text = identifier(name)

    assert re.fullmatch(r'[A-Za-z_][A-Za-z0-9_$]*|"(?:[^"]|"")+"', text)
    assert unquoted(text) == stored(name)


@given(text=st.text())
def test_a_literal_is_one_token_that_means_the_text(text: str) -> None:
    quoted = literal(text)

    assert re.fullmatch(r"'(?:[^'\\]|''|\\\\)*'", quoted, re.DOTALL)
    assert quoted[1:-1].replace("''", "'").replace("\\\\", "\\") == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SFE_BADGE_EVENTS_PIPE", "SFE_BADGE_EVENTS_PIPE"),
        ("my_pipe", "my_pipe"),
        ("my-pipe", '"my-pipe"'),
        ("2nd", '"2nd"'),
        ("straße", '"straße"'),
        ('the "door"', '"the ""door"""'),
        ("x; DROP TABLE y", '"x; DROP TABLE y"'),
        # A word of the language, in quotes and in the case it has without them.
        ("table", '"TABLE"'),
        ("Order", '"ORDER"'),
    ],
)
def test_a_name_is_quoted_where_it_needs_it(name: str, text: str) -> None:
    assert identifier(name) == text


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", "a\u2028b", "a\x00b", "a\tb", "\u202eb"])
def test_what_is_no_name_is_refused(name: str) -> None:
    assert name_problem(name)
    with pytest.raises(ValueError, match="the name"):
        identifier(name)


def test_dots_join_names_and_are_none_inside_them() -> None:
    assert qualified("DB", "my.schema", "T") == 'DB."my.schema".T'


@pytest.mark.parametrize(
    ("name", "text"), [("door_1", "door_1"), ("svc@door", '"SVC@DOOR"'), ("order", '"ORDER"')]
)
def test_a_user_is_named_as_the_token_names_it(name: str, text: str) -> None:
    assert user_identifier(name) == text
