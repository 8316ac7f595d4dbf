from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import __version__
from agent.errors import ConfigError, OutcomeUnknownError, UnreachableError
from agent.snowpipe import http
from agent.snowpipe.http import Http
from agent.snowpipe.wire import Reply, Request
from tests.support.emulator_process import make_certificate
from tests.support.scripted_server import (
    ASK,
    Answer,
    Endless,
    HangUp,
    ScriptedServer,
    Silence,
    always,
    in_turn,
)

TOKEN = "the.secret.token"


@pytest.fixture
def client() -> Iterator[Http]:
    client = Http(ca_file=None)
    yield client
    client.close()


def send(client: Http, url: str, request: Request = ASK) -> Reply:
    return client.send(url, request, token=TOKEN, token_type="KEYPAIR_JWT")


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def test_a_request_arrives_whole_with_its_credentials(client: Http) -> None:
    request = Request("append rows", "ingest", "POST", "/a%2Fb", (("t", "1-a&b"),), {"X-One": "1"}, b"rows")

    with ScriptedServer(always(Answer())) as server:
        send(client, server.url, request)

    (seen,) = server.seen
    assert (seen.method, seen.path, seen.query, seen.body) == ("POST", "/a%2Fb", {"t": "1-a&b"}, b"rows")
    assert seen.headers["authorization"] == f"Bearer {TOKEN}"
    assert seen.headers["x-snowflake-authorization-token-type"] == "KEYPAIR_JWT"
    assert seen.headers["accept"] == "application/json"
    assert seen.headers["user-agent"].startswith(f"badge-agent/{__version__}")
    assert seen.headers["x-one"] == "1"


@pytest.mark.parametrize("status", [200, 204, 400, 401, 404, 429, 500, 503])
def test_any_answer_is_handed_on_with_its_status(client: Http, status: int) -> None:
    body = b"" if status == 204 else b"what it says"

    with ScriptedServer(always(Answer(status, body, {"Retry-After": "7"}))) as server:
        reply = send(client, server.url)

    assert (reply.status, reply.body, reply.headers["retry-after"]) == (status, body, "7")


def test_requests_share_one_kept_alive_connection(client: Http) -> None:
    with ScriptedServer(always(Answer())) as server:
        for _ in range(5):
            send(client, server.url)

    assert len({seen.client_port for seen in server.seen}) == 1


def test_a_connection_that_the_server_closed_meanwhile_is_no_failure(client: Http) -> None:
    with ScriptedServer(always(Answer(headers={"Connection": "close"}))) as server:
        replies = [send(client, server.url) for _ in range(3)]

    assert [reply.status for reply in replies] == [200] * 3


def test_a_refused_connection_means_nothing_was_sent(client: Http, closed_port: int) -> None:
    with pytest.raises(UnreachableError, match=f"ask: cannot connect to http://127.0.0.1:{closed_port}"):
        send(client, f"http://127.0.0.1:{closed_port}")


def test_a_name_that_does_not_resolve_means_nothing_was_sent(client: Http) -> None:
    with pytest.raises(UnreachableError, match="cannot connect"):
        send(client, "http://no-such-host.invalid")


def test_a_connection_closed_after_the_request_leaves_doubt(client: Http) -> None:
    with ScriptedServer(always(HangUp())) as server, pytest.raises(OutcomeUnknownError):
        send(client, server.url)

    assert len(server.seen) == 1


def test_a_server_that_does_not_answer_leaves_doubt(client: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_READ_S", 0.1)

    with (
        ScriptedServer(always(Silence())) as server,
        pytest.raises(OutcomeUnknownError, match="no answer within"),
    ):
        send(client, server.url)

    assert len(server.seen) == 1


def test_an_answer_cut_short_leaves_doubt(client: Http) -> None:
    cut = Answer(headers={"Content-Length": "1000", "Connection": "close"})

    with ScriptedServer(always(cut)) as server, pytest.raises(OutcomeUnknownError):
        send(client, server.url)


def test_an_answer_without_end_is_given_up_by_its_size(client: Http) -> None:
    with (
        ScriptedServer(always(Endless())) as server,
        pytest.raises(OutcomeUnknownError, match="does not end"),
    ):
        send(client, server.url)


def test_an_answer_that_trickles_is_given_up_by_the_clock(
    client: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_ANSWER_S", 0.05)

    with (
        ScriptedServer(always(Endless(b"."))) as server,
        pytest.raises(OutcomeUnknownError, match="does not end"),
    ):
        send(client, server.url)


def test_after_a_failure_the_next_request_goes_out_anew(client: Http) -> None:
    with ScriptedServer(in_turn(HangUp(), Answer())) as server:
        with pytest.raises(OutcomeUnknownError):
            send(client, server.url)
        reply = send(client, server.url)

    assert reply.status == 200
    assert len(server.seen) == 2


def test_a_redirect_is_not_followed_so_that_no_token_travels(client: Http) -> None:
    with ScriptedServer(always(Answer())) as elsewhere:
        redirect = Answer(307, headers={"Location": f"{elsewhere.url}/v2/ask"})
        with ScriptedServer(always(redirect)) as server:
            reply = send(client, server.url)

    assert reply.status == 307
    assert elsewhere.seen == []


def test_a_netrc_file_of_the_machine_does_not_replace_the_token(
    client: Http, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    with ScriptedServer(always(Answer())) as server:
        send(client, server.url)

    assert server.seen[0].headers["authorization"] == f"Bearer {TOKEN}"


# --- TLS ------------------------------------------------------------------------------------


def test_a_server_with_an_unknown_authority_is_not_talked_to(client: Http, tmp_path: Path) -> None:
    _, certificate, key = make_certificate(tmp_path)

    with (
        ScriptedServer(always(Answer()), certificate=(certificate, key)) as server,
        pytest.raises(UnreachableError, match=r"TLS with https://127.* certificate verify failed") as caught,
    ):
        send(client, server.url)

    assert server.seen == []
    assert "ca_file" in caught.value.hint


def test_an_authority_of_the_configuration_is_trusted(tmp_path: Path) -> None:
    ca_file, certificate, key = make_certificate(tmp_path)
    client = Http(ca_file=ca_file)

    with ScriptedServer(always(Answer()), certificate=(certificate, key)) as server:
        reply = send(client, server.url)

    client.close()
    assert reply.status == 200


def test_a_certificate_that_begins_tomorrow_is_put_down_to_this_machines_clock(tmp_path: Path) -> None:
    ca_file, certificate, key = make_certificate(tmp_path, begins_in_hours=24)
    client = Http(ca_file=ca_file)

    with (
        ScriptedServer(always(Answer()), certificate=(certificate, key)) as server,
        pytest.raises(UnreachableError, match="not yet valid") as caught,
    ):
        send(client, server.url)

    client.close()
    assert "the cause is this machine's clock, which shows 20" in caught.value.hint


def test_a_certificate_for_another_name_is_refused_also_with_the_right_authority(tmp_path: Path) -> None:
    ca_file, certificate, key = make_certificate(tmp_path)
    client = Http(ca_file=ca_file)

    with (
        ScriptedServer(always(Answer()), certificate=(certificate, key)) as server,
        pytest.raises(UnreachableError, match=r"certificate verify failed|hostname 'localhost'"),
    ):
        send(client, f"https://localhost:{server.port}")

    client.close()
    assert server.seen == []


def test_a_connection_lost_under_tls_after_the_request_leaves_doubt(tmp_path: Path) -> None:
    ca_file, certificate, key = make_certificate(tmp_path)
    client = Http(ca_file=ca_file)

    with (
        ScriptedServer(always(HangUp()), certificate=(certificate, key)) as server,
        pytest.raises(OutcomeUnknownError),
    ):
        send(client, server.url)

    client.close()
    assert len(server.seen) == 1


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_an_authority_file_that_cannot_be_used_is_a_fault_of_the_configuration(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match=rf"snowflake\.ca_file: {path}"):
        Http(ca_file=path)


def test_a_bundle_of_authorities_that_is_gone_is_named(
    client: Http, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "gone.pem"))

    with pytest.raises(UnreachableError, match=r"gone\.pem") as caught:
        send(client, "https://127.0.0.1:9")

    assert "REQUESTS_CA_BUNDLE" in caught.value.hint


def test_no_failure_shows_the_token_or_the_rows(
    client: Http, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="agent")
    request = Request("append rows", "ingest", "POST", "/rows", (), {}, b"02F657AE")

    with pytest.raises(UnreachableError) as caught:
        send(client, f"http://127.0.0.1:{closed_port}", request)

    told = f"{caught.value!r}{caught.value.hint}{caplog.text}{request!r}"
    assert TOKEN not in told
    assert "02F657AE" not in told
