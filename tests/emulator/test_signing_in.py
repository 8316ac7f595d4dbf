"""Authentication: key-pair JWTs, scoped tokens, and refusals."""

from __future__ import annotations

import time
from pathlib import Path

import jwt
import pytest

from tests.support.emulator_process import ACCOUNT, USER, EmulatorProcess, make_key, public_pem
from tests.support.emulator_rig import EmulatorRig, error_code, fingerprint, key_pair_jwt

HOSTNAME = "/v2/streaming/hostname"
INVALID_JWT = (401, "390144")


def test_the_hostname_is_bare_text_without_a_port(door: EmulatorRig) -> None:
    reply = door.call("GET", HOSTNAME, token=key_pair_jwt())

    assert (reply.status_code, reply.text) == (200, "127.0.0.1")
    assert reply.headers["Content-Type"].startswith("text/plain")


def test_a_scoped_token_is_a_bare_jwt_that_lasts_an_hour(door: EmulatorRig) -> None:
    before = int(time.time())

    reply = door.exchange(key_pair_jwt())

    claims = jwt.decode(reply.text, options={"verify_signature": False})
    assert before + 3600 <= claims["exp"] <= time.time() + 3600


@pytest.mark.parametrize("unit", [1, 0.001])
def test_times_in_a_jwt_may_be_seconds_or_milliseconds(door: EmulatorRig, unit: float) -> None:
    reply = door.exchange(key_pair_jwt(unit=unit))

    assert reply.status_code == 200


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": f"{ACCOUNT}.{USER}"},
        {"iss": f"{ACCOUNT.lower()}.{USER}.{fingerprint(make_key())}"},
        {"iss": f"{ACCOUNT}.{USER}.{fingerprint(make_key('stranger'))}"},
        {"iss": None},
        {"sub": f"{ACCOUNT}.SOMEBODY"},
        {"sub": None},
        {"iat": None},
        {"exp": None},
        {"exp": "soon"},
        {"exp": True},
        {"iat": int(time.time()) + 900},  # still ahead at the end of a long test run
        {"iat": int(time.time()) - 120, "exp": int(time.time()) - 60},
        {"iat": (int(time.time()) - 120) * 1000, "exp": (int(time.time()) - 60) * 1000},
        {"iat": int(time.time()) - 3700, "exp": int(time.time()) + 3600},
    ],
)
def test_a_jwt_with_a_wrong_claim_is_refused(door: EmulatorRig, claims: dict[str, object]) -> None:
    reply = door.exchange(key_pair_jwt(claims))

    assert error_code(reply) == INVALID_JWT


def test_a_jwt_signed_by_another_key_is_refused(door: EmulatorRig) -> None:
    reply = door.exchange(key_pair_jwt(signed_by=make_key("stranger")))

    assert error_code(reply) == INVALID_JWT


def test_a_jwt_of_another_algorithm_is_refused(door: EmulatorRig) -> None:
    claims = jwt.decode(key_pair_jwt(), options={"verify_signature": False})
    unsigned = jwt.encode(claims, "", algorithm="none")
    forged = jwt.encode(claims, b"x" * 32, algorithm="HS256")

    codes = [error_code(door.exchange(token)) for token in (unsigned, forged)]

    assert codes == [INVALID_JWT, INVALID_JWT]


def test_a_forged_scoped_token_is_refused(door: EmulatorRig) -> None:
    claims = jwt.decode(door.scoped, options={"verify_signature": False})
    forged = jwt.encode(claims, b"x" * 32, algorithm="HS256")

    reply = door.call("PUT", door.channel_path, json={}, token=forged)

    assert error_code(reply) == (401, "390303")


@pytest.mark.parametrize("authorization", ["", "Basic dXNlcjpwYXNz", "Bearer", "Bearer a.b.c", "Bearer x"])
def test_no_token_is_401(door: EmulatorRig, authorization: str) -> None:
    reply = door.call("GET", HOSTNAME, headers={"Authorization": authorization})

    assert error_code(reply)[0] == 401


def test_a_key_pair_jwt_opens_no_channel_and_appends_no_row(door: EmulatorRig) -> None:
    opening = door.call("PUT", door.channel_path, json={}, token=key_pair_jwt())
    dropping = door.call("DELETE", door.channel_path, token=key_pair_jwt())
    appending = door.call("POST", door.rows_path, data=b"", token=key_pair_jwt())

    assert {error_code(reply) for reply in (opening, dropping, appending)} == {(401, "390303")}


def test_status_and_pipe_info_take_either_token(door: EmulatorRig) -> None:
    path = f"{door.pipe_path}:bulk-channel-status"
    tokens = (key_pair_jwt(), door.scoped)

    statuses = [door.call("POST", path, token=token, json={"channel_names": []}) for token in tokens]
    infos = [door.call("POST", f"{door.pipe_path}:pipe-info", token=token, json={}) for token in tokens]

    assert [reply.status_code for reply in (*statuses, *infos)] == [200] * 4


def test_a_scoped_token_cannot_be_exchanged_for_another(door: EmulatorRig) -> None:
    reply = door.exchange(door.scoped)

    assert error_code(reply) == INVALID_JWT


@pytest.mark.parametrize(
    "scope", ["", "127.0.0.1:443", "example.com", "session:role:X", "127.0.0.1 example.com"]
)
def test_the_scope_must_be_the_ingest_host(door: EmulatorRig, scope: str) -> None:
    reply = door.exchange(key_pair_jwt(), scope=scope)

    assert error_code(reply) == (400, "invalid_scope")


def test_a_role_may_stand_in_the_scope_or_in_the_jwt(door: EmulatorRig) -> None:
    role = "session:role:SFE_INGEST_ROLE"

    in_scope = door.exchange(key_pair_jwt(), scope=f"127.0.0.1 {role}")
    in_jwt = door.exchange(key_pair_jwt({"scp": role}))

    assert (in_scope.status_code, in_jwt.status_code) == (200, 200)


def test_another_grant_type_is_refused(door: EmulatorRig) -> None:
    reply = door.exchange(key_pair_jwt(), grant_type="password")

    assert error_code(reply) == (400, "unsupported_grant_type")


@pytest.mark.parametrize(("token_type", "status"), [("KEYPAIR_JWT", 200), ("jwt", 200), ("OAUTH", 401)])
def test_a_token_type_that_is_named_must_be_right(door: EmulatorRig, token_type: str, status: int) -> None:
    headers = {"X-Snowflake-Authorization-Token-Type": token_type}

    reply = door.call("GET", HOSTNAME, token=key_pair_jwt(), headers=headers)

    assert reply.status_code == status


@pytest.mark.parametrize("accept", [None, "text/html"])
def test_without_an_accept_header_for_json_nothing_is_answered(door: EmulatorRig, accept: str | None) -> None:
    # None alone would let the HTTP library send its own.
    headers = {"Accept": accept} if accept else {"Accept": ""}

    reply = door.call("GET", HOSTNAME, token=key_pair_jwt(), headers=headers)

    assert error_code(reply) == (406, "391902")


def test_a_scoped_token_expires(tmp_path: Path) -> None:
    with EmulatorProcess(tmp_path, options=["--scoped-token-seconds=1"]) as emulator:
        door = EmulatorRig(emulator.url)
        expires = jwt.decode(door.scoped, options={"verify_signature": False})["exp"]
        while time.time() < expires:
            time.sleep(0.05)

        reply = door.open()

    assert error_code(reply) == (401, "390318")


def test_both_keys_of_a_user_are_good(tmp_path: Path) -> None:
    second = tmp_path / "second.pub"
    second.write_bytes(public_pem(make_key("second")))
    with EmulatorProcess(tmp_path, options=[f"--public-key={second}"]) as emulator:
        door = EmulatorRig(emulator.url)

        replies = [door.exchange(key_pair_jwt(key=make_key(name))) for name in ("user", "second")]

    assert [reply.status_code for reply in replies] == [200, 200]


# --- two keys of one user -------------------------------------------------------------------


def line_of(name: str) -> str:
    """A public key as ALTER USER takes it."""
    return "".join(public_pem(make_key(name)).decode().splitlines()[1:-1])


def test_a_second_key_signs_beside_the_first_and_each_can_go(
    emulator: EmulatorProcess, door: EmulatorRig
) -> None:
    def signs(name: str) -> bool:
        return door.exchange(key_pair_jwt(key=make_key(name))).status_code == 200

    emulator.fault("set_key", slot="RSA_PUBLIC_KEY_2", public_key=line_of("second"))
    assert (signs("user"), signs("second")) == (True, True)
    assert emulator.state()["public_keys"] == {
        "RSA_PUBLIC_KEY": fingerprint(make_key()),
        "RSA_PUBLIC_KEY_2": fingerprint(make_key("second")),
    }

    emulator.fault("unset_key", slot="RSA_PUBLIC_KEY")
    assert (signs("user"), signs("second")) == (False, True)

    emulator.fault("clear")
    assert (signs("user"), signs("second")) == (True, False)


@pytest.mark.parametrize("line", ["MIIB", "not base64!", ""])
def test_what_is_no_public_key_is_refused(emulator: EmulatorProcess, door: EmulatorRig, line: str) -> None:
    reply = door.session.post(
        f"{emulator.control_url}/_emulator/faults",
        json={"do": "set_key", "slot": "RSA_PUBLIC_KEY_2", "public_key": line},
        timeout=10,
    )

    assert reply.status_code == 400
    assert list(emulator.state()["public_keys"]) == ["RSA_PUBLIC_KEY"]
