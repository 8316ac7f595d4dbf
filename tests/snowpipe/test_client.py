from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import pytest

from agent.errors import (
    AuthError,
    ChannelLostError,
    KeyFileError,
    SnowpipeError,
    TransientError,
    UnreachableError,
)
from agent.keys.keypair import KeyPair, generate_key, load_private_key
from agent.snowpipe import wire
from agent.snowpipe.client import Client, RequestAttempt
from agent.snowpipe.http import Http
from tests.support.pipe_model import snowflake_settings
from tests.support.scripted_server import Answer, HangUp, Scripted, ScriptedServer, Seen
from tests.support.swipes import DrivenClock

PIPE = wire.PipeName("DB", "SCHEMA", "PIPE")
STATUS = wire.channel_status(PIPE, "door")


class ClientRig:
    """An account whose key is loaded by `load_key`, and how often it was."""

    def __init__(self, url: str, load_key: Callable[[], KeyPair], role: str | None = None) -> None:
        self.clock = DrivenClock()
        self.loads = 0
        self._started = time.time() - self.clock.seconds
        self.http = Http(ca_file=None)
        self._load_key = load_key
        self.client = Client(
            self.http,
            snowflake_settings(url, role=role),
            load_key=self._load,
            wall_s=self._wall_s,
            monotonic_s=self.clock.monotonic_s,
        )

    def _wall_s(self) -> float:
        self.clock.advance(1)  # so that no two tokens are the same
        return self._started + self.clock.seconds  # near the Date of the server, which is a real one

    def _load(self) -> KeyPair:
        self.loads += 1
        return self._load_key()


@pytest.fixture
def key(rsa_key_file: Path) -> KeyPair:
    return load_private_key(rsa_key_file)


@pytest.fixture
def doors() -> Iterator[list[ClientRig]]:
    doors: list[ClientRig] = []
    yield doors
    for door in doors:
        door.http.close()


def snowflake(
    ingest: Callable[[Seen], Scripted], *, host: str = "127.0.0.1", as_json: bool = False
) -> Callable[[Seen], Scripted]:
    """A service that signs everybody in, under a new token each time, and answers the rest by `ingest`."""
    issued = iter(range(1, 1000))

    def respond(seen: Seen) -> Scripted:
        if seen.path == "/v2/streaming/hostname":
            return Answer(body=f'{{"hostname": "{host}"}}'.encode() if as_json else host.encode())
        if seen.path == "/oauth/token":
            token = f"scoped-{next(issued)}"
            return Answer(body=f'{{"token": "{token}"}}'.encode() if as_json else token.encode())
        return ingest(seen)

    return respond


def fine(_: Seen) -> Scripted:
    return Answer(body=b'{"fine": true}')


def refused(status: int, times: int = 1_000_000) -> Callable[[Seen], Scripted]:
    left = iter(range(times))
    return lambda _: Answer(status, b'{"code": "390318"}') if next(left, None) is not None else Answer()


def bearer(seen: Seen) -> str:
    return seen.headers["authorization"].removeprefix("Bearer ")


def of_path(seen: list[Seen], path: str) -> list[Seen]:
    return [request for request in seen if path in request.path]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_first_call_asks_for_host_and_token_and_the_next_ones_for_neither(
    key: KeyPair, doors: list[ClientRig], *, as_json: bool
) -> None:
    with ScriptedServer(snowflake(fine, as_json=as_json)) as server:
        doors.append(door := ClientRig(server.url, lambda: key))
        for _ in range(3):
            reply = door.client.call(STATUS, RequestAttempt())

    assert reply.status == 200
    assert [seen.path for seen in server.seen[:2]] == ["/v2/streaming/hostname", "/oauth/token"]
    assert len(server.seen) == 5
    assert {bearer(seen) for seen in server.seen[2:]} == {"scoped-1"}
    assert {seen.headers["x-snowflake-authorization-token-type"] for seen in server.seen[2:]} == {"OAUTH"}


def test_signing_in_uses_the_key_pair_token_and_names_the_role(key: KeyPair, doors: list[ClientRig]) -> None:
    with ScriptedServer(snowflake(fine)) as server:
        doors.append(door := ClientRig(server.url, lambda: key, role="LOADER"))
        door.client.call(STATUS, RequestAttempt())

    sign_in = server.seen[1]
    claims = jwt.decode(bearer(sign_in), options={"verify_signature": False})
    assert sign_in.headers["x-snowflake-authorization-token-type"] == "KEYPAIR_JWT"
    assert claims["iss"] == f"MYORG-MYACCOUNT.SFE_INGEST_USER.{key.fingerprint}"
    assert b"session%3Arole%3ALOADER" in sign_in.body


def test_every_request_has_an_id_of_its_own_and_says_that_it_is_the_first_try(
    key: KeyPair, doors: list[ClientRig]
) -> None:
    with ScriptedServer(snowflake(fine)) as server:
        doors.append(door := ClientRig(server.url, lambda: key))
        door.client.call(STATUS, RequestAttempt())

    assert len({seen.query["requestId"] for seen in server.seen}) == 3
    assert [seen.query["retryCount"] for seen in server.seen] == ["0"] * 3


# --- the ladder of refused credentials ------------------------------------------------------


def test_after_a_refusal_everything_is_renewed_and_the_same_request_sent_once_more(
    key: KeyPair, doors: list[ClientRig]
) -> None:
    with ScriptedServer(snowflake(refused(401, times=1))) as server:
        doors.append(door := ClientRig(server.url, lambda: key))
        reply = door.client.call(STATUS)

    tries = of_path(server.seen, "bulk-channel-status")
    sign_ins = [bearer(seen) for seen in of_path(server.seen, "/oauth/token")]
    assert reply.status == 200
    assert [bearer(seen) for seen in tries] == ["scoped-1", "scoped-2"]
    assert [seen.query["retryCount"] for seen in tries] == ["0", "1"]
    assert len({seen.query["requestId"] for seen in tries}) == 1
    assert len(set(sign_ins)) == 2
    assert len(of_path(server.seen, "hostname")) == 2
    assert door.loads == 2


def test_a_lasting_401_is_tried_twice_a_call_and_then_raised(key: KeyPair, doors: list[ClientRig]) -> None:
    with ScriptedServer(snowflake(refused(401))) as server:
        doors.append(door := ClientRig(server.url, lambda: key))
        with pytest.raises(AuthError, match="401 390318"):
            door.client.call(STATUS)

    assert len(of_path(server.seen, "bulk-channel-status")) == 2


def test_every_exchange_has_a_jwt_of_its_own(key: KeyPair, doors: list[ClientRig]) -> None:
    with ScriptedServer(snowflake(fine)) as server:
        doors.append(door := ClientRig(server.url, lambda: key))
        door.client.call(STATUS)

    assert len({bearer(seen) for seen in server.seen[:2]}) == 2


def test_the_tries_of_one_request_are_counted_on_from_call_to_call(
    key: KeyPair, doors: list[ClientRig]
) -> None:
    tries = RequestAttempt()

    with ScriptedServer(snowflake(refused(401))) as server:
        doors.append(door := ClientRig(server.url, lambda: key))
        for _ in range(2):
            with pytest.raises(AuthError):
                door.client.call(STATUS, tries)

    sent = of_path(server.seen, "bulk-channel-status")
    assert [int(seen.query["retryCount"]) for seen in sent] == list(range(4))
    assert {seen.query["requestId"] for seen in sent} == {tries.request_id}


def test_a_request_without_an_attempt_of_its_own_keeps_its_id_until_it_succeeds(
    key: KeyPair, doors: list[ClientRig]
) -> None:
    with ScriptedServer(snowflake(refused(503, times=2))) as server:
        doors.append(door := ClientRig(server.url, lambda: key))
        for _ in range(2):
            with pytest.raises(TransientError):
                door.client.call(STATUS)
        for _ in range(2):
            door.client.call(STATUS)

    sent = of_path(server.seen, "bulk-channel-status")
    assert [seen.query["retryCount"] for seen in sent] == ["0", "1", "2", "0"]
    assert len({seen.query["requestId"] for seen in sent[:3]}) == 1
    assert len({seen.query["requestId"] for seen in sent}) == 2


def test_a_replaced_key_file_is_read_again_before_giving_up(
    key: KeyPair, doors: list[ClientRig], tmp_path: Path
) -> None:
    new = generate_key(tmp_path / "new.p8")
    keys = iter([key, new])

    def only_the_new_key(seen: Seen) -> Scripted:
        if seen.path == "/oauth/token":
            claims = jwt.decode(bearer(seen), options={"verify_signature": False})
            known = claims["iss"].endswith(new.fingerprint)
            return Answer(body=b"scoped") if known else Answer(401, b'{"code": "390144"}')
        return Answer(body=b"127.0.0.1" if "hostname" in seen.path else b"{}")

    with ScriptedServer(only_the_new_key) as server:
        doors.append(door := ClientRig(server.url, lambda: next(keys)))
        reply = door.client.call(STATUS, RequestAttempt())

    assert reply.status == 200


def test_a_key_file_that_is_gone_just_then_is_a_refusal_that_names_it(
    key: KeyPair, doors: list[ClientRig]
) -> None:
    keys = iter([key])

    def load_key() -> KeyPair:
        for loaded in keys:
            return loaded
        raise KeyFileError("/etc/badge-agent/rsa_key.p8: no such private key file", hint="make a key")

    with ScriptedServer(snowflake(refused(401))) as server:
        doors.append(door := ClientRig(server.url, load_key))
        with pytest.raises(AuthError, match=r"rsa_key\.p8: no such private key file") as caught:
            door.client.call(STATUS, RequestAttempt())

    assert caught.value.hint == "make a key"


def test_a_call_sends_a_bounded_number_of_requests(key: KeyPair, doors: list[ClientRig]) -> None:
    def nothing_works(seen: Seen) -> Scripted:
        """Each exchange works by the second clock only, the role never, and the token never."""
        tries = [other for other in server.seen if other.path == seen.path]
        late = {"Date": "Sun, 01 Mar 2026 12:00:00 GMT"}
        if seen.path == "/v2/streaming/hostname":
            return Answer(200, b"127.0.0.1") if len(tries) % 2 == 0 else Answer(401, b"", late)
        if seen.path == "/oauth/token":
            return Answer(200, b"scoped", late) if len(tries) in {4, 6} else Answer(401, b"", late)
        return Answer(401, b"", late)

    with ScriptedServer(nothing_works) as server:
        doors.append(door := ClientRig(server.url, lambda: key, role="LOADER"))
        with pytest.raises(AuthError):
            door.client.call(STATUS, RequestAttempt())

    # The request twice, each time a new host and a new token first, each of those by either clock; and the
    # token once without a role, by either clock.
    assert 2 < len(server.seen) <= 2 * (1 + 2 + 2) + 2


def test_a_call_that_takes_long_begins_no_further_request(key: KeyPair, doors: list[ClientRig]) -> None:
    def slow(_: Seen) -> Scripted:
        doors[0].clock.advance(300)
        return Answer(401, b'{"code": "390318"}')

    with ScriptedServer(snowflake(slow)) as server:
        doors.append(door := ClientRig(server.url, lambda: key))
        with pytest.raises(TransientError, match="not sent"):
            door.client.call(STATUS)

    assert len(of_path(server.seen, "bulk-channel-status")) == 1


def test_a_403_is_about_privileges_so_the_key_is_not_read_again(key: KeyPair, doors: list[ClientRig]) -> None:
    with ScriptedServer(snowflake(refused(403))) as server:
        doors.append(door := ClientRig(server.url, lambda: key))
        with pytest.raises(AuthError, match="403") as caught:
            door.client.call(STATUS, RequestAttempt())

    assert len(of_path(server.seen, "bulk-channel-status")) == 2
    assert len(of_path(server.seen, "/oauth/token")) == 2
    assert door.loads == 1
    assert "SHOW GRANTS" in caught.value.hint


def test_any_other_refusal_is_raised_at_once(key: KeyPair, doors: list[ClientRig]) -> None:
    with ScriptedServer(snowflake(refused(503))) as server:
        doors.append(door := ClientRig(server.url, lambda: key))
        with pytest.raises(TransientError):
            door.client.call(STATUS, RequestAttempt())

    assert len(of_path(server.seen, "bulk-channel-status")) == 1


def test_no_refusal_shows_a_token(key: KeyPair, doors: list[ClientRig]) -> None:
    with ScriptedServer(snowflake(refused(401))) as server:
        doors.append(door := ClientRig(server.url, lambda: key))
        with pytest.raises(AuthError) as caught:
            door.client.call(STATUS, RequestAttempt())

    told = f"{caught.value!r}{caught.value.hint}{door.client.jwt.get()!r}"
    assert "scoped-" not in told
    assert "eyJ" not in told


# --- the ingest host ------------------------------------------------------------------------


def test_a_host_without_a_port_is_reached_by_the_accounts_port(key: KeyPair, doors: list[ClientRig]) -> None:
    with ScriptedServer(snowflake(fine, host="localhost")) as server:
        doors.append(door := ClientRig(server.url, lambda: key))
        door.client.call(STATUS, RequestAttempt())

    assert server.seen[-1].headers["host"] == f"localhost:{server.port}"


def test_a_host_with_a_port_is_reached_there(key: KeyPair, doors: list[ClientRig]) -> None:
    with (
        ScriptedServer(fine) as ingest,
        ScriptedServer(snowflake(fine, host=f"127.0.0.1:{ingest.port}")) as server,
    ):
        doors.append(door := ClientRig(server.url, lambda: key))
        door.client.call(STATUS, RequestAttempt())

    assert len(ingest.seen) == 1
    assert len(server.seen) == 2


def test_underscores_of_a_host_are_hyphens_also_in_the_scope_of_the_token(
    key: KeyPair, doors: list[ClientRig]
) -> None:
    with ScriptedServer(snowflake(fine, host="MY_ORG-ACC.localhost")) as server:
        doors.append(door := ClientRig(server.url, lambda: key))

        assert door.client.ingest_host() == "MY-ORG-ACC.localhost"


def test_plain_http_never_reaches_beyond_this_machine(key: KeyPair, doors: list[ClientRig]) -> None:
    with ScriptedServer(snowflake(fine, host="abc.snowflakecomputing.invalid")) as server:
        doors.append(door := ClientRig(server.url, lambda: key))
        with pytest.raises(TransientError, match="in the clear") as caught:
            door.client.call(STATUS, RequestAttempt())

    assert not isinstance(caught.value, UnreachableError)
    assert "https" in caught.value.hint


def test_an_ingest_host_that_does_not_answer_is_asked_for_again(key: KeyPair, doors: list[ClientRig]) -> None:
    with ScriptedServer(fine) as gone:
        pass
    hosts = iter([f"127.0.0.1:{gone.port}", "127.0.0.1"])

    def moved(seen: Seen) -> Scripted:
        if "hostname" in seen.path:
            return Answer(body=next(hosts).encode())
        return Answer(body=b"scoped-1")

    with ScriptedServer(moved) as server:
        doors.append(door := ClientRig(server.url, lambda: key))
        with pytest.raises(UnreachableError):
            door.client.call(STATUS, RequestAttempt())
        reply = door.client.call(STATUS, RequestAttempt())

    assert reply.status == 200


def moving(hosts: list[str], ingest: Callable[[Seen], Scripted]) -> Callable[[Seen], Scripted]:
    """An account that names one host after the other, and a new token each time."""
    names, tokens = iter(hosts), iter(range(1, 1000))

    def respond(seen: Seen) -> Scripted:
        if "hostname" in seen.path:
            return Answer(body=next(names).encode())
        return Answer(body=f"scoped-{next(tokens)}".encode()) if "/oauth/" in seen.path else ingest(seen)

    return respond


def test_after_a_410_host_and_token_are_new(key: KeyPair, doors: list[ClientRig]) -> None:
    with ScriptedServer(fine) as new, ScriptedServer(lambda _: Answer(410)) as old:
        hosts = [f"127.0.0.1:{old.port}", f"127.0.0.1:{new.port}"]
        with ScriptedServer(moving(hosts, fine)) as server:
            doors.append(door := ClientRig(server.url, lambda: key))
            with pytest.raises(ChannelLostError, match="410"):
                door.client.call(STATUS)
            door.client.call(STATUS)

    assert [bearer(seen) for seen in (old.seen + new.seen)] == ["scoped-1", "scoped-2"]


@pytest.mark.parametrize("answer", [Answer(404), Answer(503), Answer(400, b"<html>"), HangUp()], ids=repr)
def test_the_third_failure_of_any_kind_asks_for_the_host_again(
    key: KeyPair, doors: list[ClientRig], answer: Scripted
) -> None:
    with ScriptedServer(fine) as new, ScriptedServer(lambda _: answer) as old:
        hosts = [f"127.0.0.1:{old.port}", f"127.0.0.1:{new.port}"]
        with ScriptedServer(moving(hosts, fine)) as server:
            doors.append(door := ClientRig(server.url, lambda: key))
            for _ in range(3):
                with pytest.raises(SnowpipeError):
                    door.client.call(STATUS)
            door.client.call(STATUS)

    assert (len(old.seen), len(new.seen)) == (3, 1)


def test_the_host_is_asked_for_with_every_new_token_and_so_at_least_daily(
    key: KeyPair, doors: list[ClientRig]
) -> None:
    with ScriptedServer(snowflake(fine)) as server:
        doors.append(door := ClientRig(server.url, lambda: key))
        for _ in range(3):
            door.client.call(STATUS)
            door.clock.advance(55 * 60)

    assert len(of_path(server.seen, "hostname")) == len(of_path(server.seen, "/oauth/token")) == 3


# --- the scope of the token -------------------------------------------------------------------


def test_where_a_role_in_the_scope_is_refused_the_host_alone_is_tried_once(
    key: KeyPair, doors: list[ClientRig]
) -> None:
    def no_roles(seen: Seen) -> Scripted:
        if seen.path == "/oauth/token" and b"session" in seen.body:
            return Answer(400, b'{"code": "invalid_scope"}')
        return snowflake(fine)(seen)

    with ScriptedServer(no_roles) as server:
        doors.append(door := ClientRig(server.url, lambda: key, role="LOADER"))
        door.client.call(STATUS)
        door.client.reload_key()
        door.client.call(STATUS)

    scopes = [b"session" in seen.body for seen in of_path(server.seen, "/oauth/token")]
    assert scopes == [True, False, False]
    assert door.client.uses_default_role


def test_where_the_host_alone_is_refused_too_the_first_refusal_is_raised(
    key: KeyPair, doors: list[ClientRig]
) -> None:
    def no_tokens(seen: Seen) -> Scripted:
        if seen.path == "/oauth/token":
            return Answer(403, b'{"code": "%s"}' % (b"390186" if b"session" in seen.body else b"390422"))
        return snowflake(fine)(seen)

    with ScriptedServer(no_tokens) as server:
        doors.append(door := ClientRig(server.url, lambda: key, role="LOADER"))
        for _ in range(2):
            with pytest.raises(AuthError, match="390186"):
                door.client.call(STATUS)

    assert [b"session" in seen.body for seen in of_path(server.seen, "/oauth/token")].count(False) == 1
