from __future__ import annotations

import pytest

from agent.snowpipe.account_url import is_loopback


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104 - no address that is bound to
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("", False),
    ],
)
def test_only_the_loopback_interface_and_its_name_are_this_machine(host: str, *, expected: bool) -> None:
    assert is_loopback(host) is expected
