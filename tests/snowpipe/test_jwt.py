from __future__ import annotations

import base64
import json
from pathlib import Path

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.keys.keypair import KeyPair, load_private_key
from agent.snowpipe.jwt import mint, read_expiry

NOW = 1_760_000_000.7


@pytest.fixture(scope="session")
def key(rsa_key_file: Path) -> KeyPair:
    return load_private_key(rsa_key_file)


@given(
    account=st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,9}-[A-Za-z][A-Za-z0-9_]{0,9}", fullmatch=True),
    user=st.from_regex(r"[A-Za-z_][A-Za-z0-9_$.@-]{0,20}", fullmatch=True),
    now=st.floats(min_value=0, max_value=4e9),
)
def test_a_token_says_who_and_for_how_long_and_verifies(
    key: KeyPair, account: str, user: str, now: float
) -> None:
    token = mint(key, account, user, now)

    public_key = key.private_key.public_key()
    claims = jwt.decode(
        token.text, public_key, algorithms=["RS256"], options={"verify_exp": False, "verify_iat": False}
    )
    subject = f"{account}.{user}".upper()
    assert claims == {
        "iss": f"{subject}.{key.fingerprint}",
        "sub": subject,
        "iat": int(now),
        "exp": int(now) + 59 * 60,
    }
    assert (token.issued_at, token.expires_at) == (claims["iat"], claims["exp"])
    assert read_expiry(token.text, now=0) == (claims["iat"], claims["exp"])


def test_the_region_of_an_account_locator_is_dropped(key: KeyPair) -> None:
    token = mint(key, "xy12345.eu-central-1", "u", NOW)

    assert jwt.decode(token.text, options={"verify_signature": False})["sub"] == "XY12345.U"


def test_a_printed_token_does_not_show_its_text(key: KeyPair) -> None:
    token = mint(key, "ORG-ACCOUNT", "U", NOW)

    assert token.text not in repr(token)
    assert "text" not in repr(token)


@given(st.text(max_size=60))
def test_what_is_no_jwt_is_taken_to_last_55_minutes(text: str) -> None:
    assert read_expiry(text, NOW) == (None, NOW + 55 * 60)


def unsigned(claims: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.c2ln"


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"exp": 1000}, (None, 1000)),
        ({"iat": 10, "exp": 20.5}, (10, 20.5)),
        ({"iat": 10}, (10, 10 + 55 * 60)),
        ({"exp": "soon"}, (None, NOW + 55 * 60)),
        ({"exp": True, "iat": float("inf")}, (None, NOW + 55 * 60)),
        ({"exp": 10**400, "iat": 1_760_000_000_000}, (None, NOW + 55 * 60)),
        (["exp"], (None, NOW + 55 * 60)),
    ],
)
def test_the_expiry_of_a_scoped_token_is_read_where_it_tells_one(
    claims: object, expected: tuple[float | None, float]
) -> None:
    assert read_expiry(unsigned(claims), NOW) == expected
