from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.readers.events import CredentialKind, Noise, NoiseReason, RawCredential
from agent.readers.framing.safe_pattern import LONGEST_MATCHED_BYTES, pattern_problem
from agent.readers.protocol import OptionError
from agent.readers.protocols import make_protocol
from agent.swipe import CardCheck


@pytest.mark.parametrize(
    "pattern",
    [
        r"CARD (?P<bits>\d+) (?P<raw>[0-9A-F]+)",
        r"^.*: (?P<hex>[0-9A-Fa-f]{6,8})$",
        r"(?:Card|Tag)=(?P<decimal>\d+);?",
        r".*\[(?P<raw>[^\]]+)\]\s*",
        r"\x02(?P<hex>\w+)\.",
        r"a+ab+b(?P<hex>c+)",
    ],
)
def test_patterns_that_installers_write_are_allowed(pattern: str) -> None:
    assert pattern_problem(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("", "must be a regular expression"),
        ("a" * 201, "must be a regular expression"),
        (r"(a+)+b", "repeats a group at character 5"),
        (r"(?:a|a)*b", "repeats a group at character 8"),
        (r"(a)\1", "something at character 4"),
        (r"(?=a)a", "something at character 1"),
        (r"(?i)a", "something at character 1"),
        (r"a**", "repeats a group"),
        (r"[a-", "something at character 1"),
        (r"[[a]", "something at character 1"),
        (r"(a", "is no regular expression"),
        (r"[z-a]", "is no regular expression"),
        (r"a{3,1}", "is no regular expression"),
        ("é", "is no regular expression for ASCII text"),
        (r".*.*.*x", "more than 2 repetitions"),
        (r"a?a?a?aaa", "more than 2 repetitions"),
        (r"\d+\d*\d{1,9}\d", "more than 2 repetitions"),
        (r"a+(b|a)+", "repeats a group"),
        (r"a+|a+|a+|b", "more than 2 repetitions"),
        (r"a|b|c|d|e|f", "more than 4 alternatives"),
    ],
)
def test_a_pattern_that_could_take_for_ever_is_refused(pattern: str, said: str) -> None:
    wrong = pattern_problem(pattern)

    assert wrong is not None
    assert said in wrong


atoms = st.sampled_from(["a", "b", ".", r"\d", "[ab]", "[^a]", "1"])
repeats = st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,3}", "*?", "+?"])
patterns = st.lists(st.tuples(atoms, repeats).map("".join), min_size=1, max_size=8).map("".join)


@given(patterns, st.sampled_from(["a", "b", "1", "ab", "a1"]))
def test_an_allowed_pattern_ends_in_time_on_any_line(pattern: str, unit: str) -> None:
    if pattern_problem(pattern) is None:
        line = (unit * LONGEST_MATCHED_BYTES)[: LONGEST_MATCHED_BYTES - 1] + "\x7f"
        # Without the bound, a few of these would outlast the time limit of a test many times over.
        assert re.fullmatch(pattern + "!", line) is None


@given(st.text(max_size=20))
def test_whatever_is_given_is_judged(pattern: str) -> None:
    wrong = pattern_problem(pattern)

    assert wrong is None or wrong
    if wrong is None:
        re.compile(pattern.encode())


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"(?P<raw>\d+) (?P<hex>\d+)", "exactly one of the groups"),
        (r"\d+", "exactly one of the groups"),
        (r"(?P<bits>\d+)", "exactly one of the groups"),
        (r"(?P<raw>\d+) (?P<site>\d+)", "has a group site; known are raw, hex, decimal and bits"),
    ],
)
def test_a_pattern_has_to_name_the_card(pattern: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        make_protocol("line", {"pattern": pattern})


@pytest.mark.parametrize(
    ("pattern", "line", "word"),
    [
        (r"(?P<raw>[0-9A-F]+)", b"2F657AE1", RawCredential(32, 0x2F657AE1)),
        (
            r"(?P<bits>\d+)/(?P<hex>.+)",
            b"24/3D12D6",
            RawCredential(24, 0x3D12D6, CardCheck.NONE, CredentialKind.DATA),
        ),
        (
            r"(?P<bits>\d+)/(?P<decimal>.+)",
            b"24/4002518",
            RawCredential(24, 0x3D12D6, CardCheck.NONE, CredentialKind.DATA),
        ),
        (
            r"(?P<decimal>.+)",
            b"4002518",
            RawCredential(32, 0x3D12D6, CardCheck.NONE, CredentialKind.ID, maybe_pin=True),
        ),
        (r"(?P<hex>a)|(?P<bits>b)", b"a", None),
        (r"(?P<bits>.*)/(?P<hex>.*)", b"x/3D12D6", None),
        (r"(?P<bits>.*)/(?P<hex>.*)", b"24/3D12DX", None),
        (r"(?P<bits>.*)/(?P<hex>.*)", b"24/", None),
    ],
)
def test_the_groups_say_what_the_digits_are(pattern: str, line: bytes, word: RawCredential | None) -> None:
    wire = make_protocol("line", {"pattern": pattern})

    assert wire.receive_data(line + b"\n", 0.0) == (
        [Noise(NoiseReason.SYNTAX, line)] if word is None else [word]
    )


@pytest.mark.parametrize("line", [b"0/0", b"23/3D12D6FF", b"257/1"])
def test_a_number_has_to_fit_its_bits(line: bytes) -> None:
    wire = make_protocol("line", {"pattern": r"(?P<bits>\d+)/(?P<hex>.+)"})

    assert wire.receive_data(line + b"\n", 0.0) == [Noise(NoiseReason.LENGTH, line)]


def test_a_line_longer_than_a_match_is_bounded_for_is_not_matched() -> None:
    wire = make_protocol("line", {"pattern": r"(?P<hex>[0-9]+)-*"})

    assert wire.receive_data(b"1" + b"-" * LONGEST_MATCHED_BYTES + b"\n", 0.0)[0] == Noise(
        NoiseReason.OVERSIZED, b"1" + b"-" * LONGEST_MATCHED_BYTES
    )


def test_a_line_that_static_cut_is_not_matched() -> None:
    wire = make_protocol("line", {"pattern": r"(?P<hex>[0-9]+)"})

    assert all(isinstance(frame, Noise) for frame in wire.receive_data(b"12\xff345678\n", 0.0))
