from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.readers.cards.badge_id import badge_id_problem
from agent.snowpipe.account_url import account_problem, account_url, url_problem


@pytest.mark.parametrize(
    ("account", "words"),
    [
        ("xy12345.eu-central-1", "account locator with its region"),
        ("https://myorg-myaccount.snowflakecomputing.com", "an address, not an account"),
        ("myorg-my-account", "more than one hyphen"),
        ("my_org-account", "a character that no organization"),
    ],
)
def test_an_account_of_another_form_is_explained(account: str, words: str) -> None:
    wrong = account_problem(account)

    assert wrong is not None
    assert words in wrong
    assert "SELECT CURRENT_ORGANIZATION_NAME()" in wrong


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,9}-[A-Za-z][A-Za-z0-9_]{0,20}", fullmatch=True))
def test_every_account_has_an_address_that_passes(account: str) -> None:
    url = account_url(account)

    assert account_problem(account) is None
    assert url_problem(url) is None
    assert "_" not in url
    assert url == url.lower()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.com", "in the clear"),
        ("http://10.0.0.1", "in the clear"),
        ("ftp://example.com", "no https address"),
        ("example.com", "no https address"),
        ("https://", "no https address"),
        ("https://example.com:0", "no https address"),
        ("https://example.com:70000", "cannot be read"),
        ("https://[::1", "cannot be read"),
        ("https://a:b@example.com", "user name or password"),
        ("https://example.com/v2", "more than scheme"),
        ("https://example.com?", "more than scheme"),
    ],
)
def test_any_other_address_is_refused(url: str, words: str) -> None:
    wrong = url_problem(url)

    assert wrong is not None
    assert words in wrong


@pytest.mark.parametrize(
    "template",
    ["{facility_code}-{card_number}", "{card_number:010d}", "{bits}:{raw}", "{{{decimal:x}}}", "{raw!s:>8}"],
)
def test_a_template_with_format_specs_is_allowed(template: str) -> None:
    assert badge_id_problem(template) is None


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{facility_code}", "different cards would be one badge"),
        ("DOOR", "different cards would be one badge"),
        ("{card_number.real}", "no field {card_number.real}"),
        ("{}", "no field {}"),
        ("{card_number", "not a template"),
        ("{raw:d}", "fails for some cards"),
        ("{decimal:c}", "fails for some cards"),
        ("{card_number:0999999999d}", "at most two digits"),
        ("{card_number:{bits}d}", "at most two digits"),
        ("{card_number:060d}", "at most 50 characters"),
    ],
)
def test_a_template_that_cannot_name_a_badge_is_refused(template: str, words: str) -> None:
    wrong = badge_id_problem(template)

    assert wrong is not None
    assert words in wrong


@given(st.text(alphabet="{}:!.[]09drawbits_x", max_size=30))
def test_no_template_is_a_crash(template: str) -> None:
    assert badge_id_problem(template) is None or template not in {"{raw}", "{decimal}", "{card_number}"}
