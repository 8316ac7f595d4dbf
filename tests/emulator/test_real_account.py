"""What a real account does and an idealised server would not; the sources are in docs/architecture.md."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.emulator.anything import Generator
from agent.emulator.responses import json_answer
from agent.keys.keypair import parse_private_key
from tests.support.emulator_process import EmulatorProcess
from tests.support.emulator_rig import EmulatorRig, error_code, key_pair_jwt, ndjson, row


@pytest.mark.parametrize("body", ["empty", "html"])
def test_a_status_may_come_without_snowflakes_body(
    door: EmulatorRig, emulator: EmulatorProcess, body: str
) -> None:
    door.opened()
    emulator.fault("status", on="append", status=404, body=body)

    reply = door.append([row()], "1")

    assert reply.status_code == 404
    assert (reply.content == b"") == (body == "empty")


def test_a_code_may_come_with_any_status(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    door.opened()
    emulator.fault("status", on="append", status=503, code="ERR_CHANNEL_HAS_INVALID_ROW_SEQUENCER")

    assert error_code(door.append([row()], "1")) == (503, "ERR_CHANNEL_HAS_INVALID_ROW_SEQUENCER")


@pytest.mark.parametrize("old", [410, 401, 503])
def test_after_a_failover_host_token_and_channel_are_new(
    door: EmulatorRig, emulator: EmulatorProcess, old: int
) -> None:
    door.opened()
    emulator.fault("move", host="localhost", old=old)

    before = door.append([row()], "1")
    moved = EmulatorRig(f"http://localhost:{urlsplit(emulator.url).port}", channel=door.channel)
    host = moved.call("GET", "/v2/streaming/hostname", token=key_pair_jwt()).text
    old_token = moved.call("PUT", moved.channel_path, token=door.scoped, json={})
    new_token = moved.exchange(key_pair_jwt(), scope=host).text
    opened = moved.call("PUT", moved.channel_path, token=new_token, json={})

    assert (before.status_code, before.content) == (old, b"")
    assert (host, error_code(old_token)[0], opened.status_code) == ("localhost", 401, 200)


def test_after_a_failover_the_old_name_may_not_answer(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    door.opened()
    emulator.fault("move", host="localhost", old=0)

    with pytest.raises(requests.ConnectionError):
        door.append([row()], "1")


def test_rows_in_flight_can_be_protected_from_an_open(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    door.opened()
    emulator.fault("stall_commits")
    door.append([row()], "1")

    refused = door.call("PUT", door.channel_path, json={"fail_on_uncommitted_rows": True})
    emulator.fault("resume_commits")
    door.committed("1")
    taken = door.call("PUT", door.channel_path, json={"fail_on_uncommitted_rows": True})

    assert error_code(refused) == (409, "ERR_CHANNEL_HAS_UNCOMMITTED_DATA")
    assert taken.status_code == 200


def test_the_count_of_bad_rows_may_appear_after_their_commit(
    door: EmulatorRig, emulator: EmulatorProcess
) -> None:
    emulator.fault("late_errors", seconds=1.0)
    door.opened()
    door.append([row(), row(user_id=None)], "1")

    at_first = door.committed("1")
    committed_at = time.monotonic()
    while (status := door.status())["rows_error_count"] == 0:
        assert time.monotonic() - committed_at < 10
        time.sleep(0.05)

    assert (at_first["rows_error_count"], at_first["last_error_offset_upper_bound"]) == (0, None)
    assert (status["rows_error_count"], status["last_error_offset_upper_bound"]) == (1, "1")


def test_a_quoted_pipe_counts_with_its_case_and_a_bare_one_without(emulator: EmulatorProcess) -> None:
    statuses = {}
    for pipe in ("SFE_BADGE_EVENTS_PIPE", "sfe_badge_events_pipe"):
        for name in (pipe, f'"{pipe}"'):
            door = EmulatorRig(emulator.url, pipe=quote(name, safe=""))
            with door.session:
                statuses[name] = door.open().status_code

    assert list(statuses.values()) == [200, 200, 200, 404]


def test_an_old_key_pair_token_can_be_refused(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    emulator.fault("jwt_age", seconds=60)

    old = door.exchange(key_pair_jwt({"iat": int(time.time()) - 61}))
    new = door.exchange(key_pair_jwt())

    assert (error_code(old), new.status_code) == ((401, "394302"), 200)


def test_a_role_in_the_scope_can_be_refused(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    emulator.fault("refuse_role")

    with_role = door.exchange(key_pair_jwt(), scope="127.0.0.1 session:role:LOADER")

    assert error_code(with_role) == (400, "invalid_scope")
    assert door.exchange(key_pair_jwt()).status_code == 200


def test_ecdsa_keys_are_taken(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    private = ec.generate_private_key(ec.SECP384R1())
    key = parse_private_key(
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), Path("ec.p8")
    )
    emulator.alter_user("RSA_PUBLIC_KEY_2", key.public_key_line)
    claims = jwt.decode(key_pair_jwt(), options={"verify_signature": False})
    claims["iss"] = f"{claims['sub']}.{key.fingerprint}"

    token = jwt.encode(claims, private, algorithm="ES384")

    assert door.exchange(token).status_code == 200


def test_a_refused_token_has_the_id_of_its_details(door: EmulatorRig) -> None:
    message = door.exchange(key_pair_jwt({"sub": "X"})).json()["message"]

    assert len(message.rpartition("[")[2]) == len("0ce9eb56-821d-4ca9-a774-04ae89a0cf5a]")


def test_generated_answers_are_the_same_for_the_same_seed() -> None:
    right = json_answer({"channel_statuses": {"door": {"rows_error_count": 0, "channel_name": "door"}}})
    runs = []
    for _ in range(2):
        generator = Generator(7, 0.9)
        drawn = [generator.next() for _ in range(500)]
        runs.append([one and (one.is_processed, one.answer(right)) for one in drawn])

    kinds = {type(one[1]).__name__ for one in runs[0] if one}
    assert runs[0] == runs[1]
    assert runs[0].count(None) > 20
    assert kinds == {"Answer", "RawAnswer", "NoneType"}
    assert len({one[1].status for one in runs[0] if one and one[1]}) > 40


def test_a_generated_answer_processes_the_request_or_not(
    door: EmulatorRig, emulator: EmulatorProcess
) -> None:
    processed = 0
    for number in range(30):
        door.session.close()  # generated answers end the connection, sooner or later
        door.opened()
        before = emulator.channel_state(door.channel)["appends"]
        emulator.fault("anything", on="append", seed=number, times=1)
        with suppress(requests.RequestException):
            door.session.post(
                door.url + door.rows_path,
                params={"continuationToken": door.continuation_token, "endOffsetToken": "1"},
                data=ndjson([row()]),
                headers={"Authorization": f"Bearer {door.scoped}"},
                timeout=10,
            )
        processed += emulator.channel_state(door.channel)["appends"] - before

    assert 0 < processed < 30
