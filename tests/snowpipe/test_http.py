from __future__ import annotations

import gzip
import logging
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from agent import __version__
from agent.errors import ConfigError, OutcomeUnknownError, UnreachableError
from agent.snowpipe import connection, http
from agent.snowpipe.http import Http
from agent.snowpipe.wire import Reply, Request
from tests.support.emulator_process import make_certificate
from tests.support.scripted_server import (
    ASK,
    Answer,
    Endless,
    HangUp,
    Raw,
    Scripted,
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
    with pytest.raises(
        UnreachableError, match=f"ask: no connection to 127.0.0.1 port {closed_port}: Connection refused"
    ):
        send(client, f"http://127.0.0.1:{closed_port}")


def test_a_name_that_does_not_resolve_means_nothing_was_sent(client: Http) -> None:
    with pytest.raises(UnreachableError, match=r"no address for no-such-host\.invalid"):
        send(client, "http://no-such-host.invalid")


def test_a_name_that_is_none_means_nothing_was_sent(client: Http) -> None:
    with pytest.raises(UnreachableError, match=r"no address for a\.\.b: not a host name"):
        send(client, "http://a..b")


def test_a_connection_closed_after_the_request_leaves_doubt(client: Http) -> None:
    with ScriptedServer(always(HangUp())) as server, pytest.raises(OutcomeUnknownError):
        send(client, server.url)

    assert len(server.seen) == 1


def test_a_server_that_does_not_answer_leaves_doubt(client: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_EXCHANGE_S", 0.1)

    with (
        ScriptedServer(always(Silence())) as server,
        pytest.raises(OutcomeUnknownError, match="no complete answer within"),
    ):
        send(client, server.url)

    assert len(server.seen) == 1


def test_a_connection_without_progress_is_given_up_before_the_deadline(
    client: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection.Limits.timeout_s, "__defaults__", (0.1,))

    with (
        ScriptedServer(always(Silence())) as server,
        pytest.raises(OutcomeUnknownError, match="the connection is silent"),
    ):
        send(client, server.url)


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


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
SLOW: dict[str, Scripted] = {
    "a byte at a time": Raw(OK + b"Content-Length: 900000\r\n\r\n", (b".",), 0.02, True),
    "slow headers": Raw(OK + b"X-A: ", (b"x",), 0.02, True),
    "endless headers": Raw(OK, (b"X-A: 1\r\n",), 0.02, True),
    "endless 100-continue": Raw(b"", (b"HTTP/1.1 100 Continue\r\n\r\n",), 0.02, True),
    "slow chunk line": Raw(CHUNKED, (b"0",), 0.02, True),
    "slow trailers": Raw(CHUNKED + b"0\r\n", (b"X: 1\r\n",), 0.02, True),
    "silence after the headers": Raw(OK + b"Content-Length: 5\r\n\r\n", (b"",), 0.02, True),
}


@pytest.mark.parametrize("answer", SLOW.values(), ids=SLOW)
def test_no_slow_answer_outlives_the_deadline(
    client: Http, monkeypatch: pytest.MonkeyPatch, answer: Scripted
) -> None:
    monkeypatch.setattr(http, "_EXCHANGE_S", 0.3)

    with ScriptedServer(always(answer)) as server:
        begun = time.monotonic()
        # Too many headers are refused before the deadline, everything else by it.
        with pytest.raises(OutcomeUnknownError):
            send(client, server.url)

    assert time.monotonic() - begun < 3


def test_the_limits_hold_under_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_EXCHANGE_S", 0.5)
    ca_file, certificate, key = make_certificate(tmp_path)
    client = Http(ca_file=ca_file)

    for answer in (SLOW["slow headers"], LARGE["a header without end"]):
        with ScriptedServer(always(answer), certificate=(certificate, key)) as server:
            begun = time.monotonic()
            with pytest.raises(OutcomeUnknownError):
                send(client, server.url)
            assert time.monotonic() - begun < 3


def test_the_deadline_holds_for_sending_too_and_tells_how_far_the_body_got(
    client: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_EXCHANGE_S", 0.3)
    monkeypatch.setattr(http, "_SLOWEST_BYTES_PER_S", 100_000_000)
    body = bytes(20_000_000)
    request = Request("append rows", "ingest", "POST", "/rows", (), {}, body)

    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,  # accepted by the kernel, never read
        pytest.raises(OutcomeUnknownError, match="no complete answer within 0 s") as caught,
    ):
        send(client, f"http://127.0.0.1:{deaf.getsockname()[1]}", request)

    assert caught.value.body_bytes == len(body)
    assert caught.value.sent_bytes is not None
    assert 0 < caught.value.sent_bytes < len(body)


GZIP_BOMB = gzip.compress(gzip.compress(bytes(50_000_000)))
LARGE: dict[str, Scripted] = {
    "gzip twice": Answer(body=GZIP_BOMB, headers={"Content-Encoding": "gzip,gzip"}),
    "zstd": Answer(body=zstandard.compress(bytes(500_000_000)), headers={"Content-Encoding": "zstd"}),
    "a chunk line without end": Raw(CHUNKED, (b"0" * 65_536,), 0.0, True),
    "a header without end": Raw(OK + b"X-A: ", (b"x" * 65_536,), 0.0, True),
    "trailers without end": Raw(CHUNKED + b"0\r\n", (b"X: 1\r\n" * 10_000,), 0.0, True),
    "a chunk of an exabyte": Raw(CHUNKED + b"fffffffffffffff\r\n", (b"x" * 65_536,), 0.0, True),
    "a length of an exabyte": Raw(OK + b"Content-Length: 999999999999999999\r\n\r\n", (b"x",), 0.0, True),
    "until the end of the connection": Raw(OK + b"\r\n", (b"x" * 65_536,), 0.0, True),
}


@pytest.mark.parametrize("answer", LARGE.values(), ids=LARGE)
def test_no_large_answer_takes_memory(client: Http, answer: Scripted) -> None:
    with ScriptedServer(always(answer)) as server:
        tracemalloc.start()
        with pytest.raises(OutcomeUnknownError):
            send(client, server.url)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert peak < 8_000_000


ODD = {
    "no HTTP": b"220 mail.example ESMTP\r\n",
    "a status that is no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "a chunk that is no number": CHUNKED + b"xyz\r\n",
    "a negative chunk": CHUNKED + b"-5\r\nabc",
    "two codings": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a chunk cut short": CHUNKED + b"ff\r\nabc",
    "nothing": b"",
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_an_answer_that_is_malformed_leaves_doubt(client: Http, content: bytes) -> None:
    with ScriptedServer(always(Raw(content))) as server, pytest.raises(OutcomeUnknownError):
        send(client, server.url)


@pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints\r\nLink: </a>"])
def test_interim_answers_are_passed_over(client: Http, interim: bytes) -> None:
    whole = (b"HTTP/1.1 " + interim + b"\r\n\r\n") * 3 + b"HTTP/1.1 404 X\r\nContent-Length: 2\r\n\r\n{}"

    with ScriptedServer(always(Raw(whole))) as server:
        reply = send(client, server.url)

    assert (reply.status, reply.body) == (404, b"{}")


def test_a_switch_to_another_protocol_leaves_doubt(client: Http) -> None:
    with (
        ScriptedServer(always(Raw(b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\n\r\n"))) as server,
        pytest.raises(OutcomeUnknownError),
    ):
        send(client, server.url)


def test_an_answer_before_the_end_of_the_body_is_read(client: Http) -> None:
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    request = Request("append rows", "ingest", "POST", "/rows", (), {}, bytes(3_000_000))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_refuse_early, args=(listener, refusal))
        thread.start()
        reply = send(client, f"http://127.0.0.1:{listener.getsockname()[1]}", request)
        thread.join()

    assert reply.status == 413


def _refuse_early(listener: socket.socket, refusal: bytes) -> None:
    accepted, _ = listener.accept()
    with accepted:
        accepted.recv(65_536)
        accepted.sendall(refusal)
        accepted.shutdown(socket.SHUT_WR)
        while accepted.recv(65_536):
            pass  # a server that closes with unread data resets the connection


def test_a_connection_idle_for_half_a_minute_is_not_used_again(
    client: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [1_000.0]
    monkeypatch.setattr(http, "boottime_s", lambda: now_s[0])

    with ScriptedServer(always(Answer())) as server:
        for idle_s in (0, 29, 31):
            now_s[0] += idle_s
            send(client, server.url)

    first, second, third = (seen.client_port for seen in server.seen)
    assert first == second != third


def test_the_environment_has_no_say(client: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/gone.pem")

    with ScriptedServer(always(Answer())) as server:
        assert send(client, server.url).status == 200


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
        pytest.raises(UnreachableError, match=r"TLS with 127.* certificate cannot be verified") as caught,
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
        pytest.raises(
            UnreachableError, match=r"certificate cannot be verified: (Hostname|IP address) mismatch"
        ),
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

    client = Http(ca_file=path)

    with pytest.raises(ConfigError, match=rf"snowflake\.ca_file: {path}"):
        client.dialer.context()


def test_an_authority_file_is_read_again_until_it_can_be_used(tmp_path: Path) -> None:
    ca_file, certificate, key = make_certificate(tmp_path)
    right = ca_file.read_bytes()
    ca_file.write_bytes(b"")
    client = Http(ca_file=ca_file)
    with ScriptedServer(always(Answer()), certificate=(certificate, key)) as server:
        with pytest.raises(UnreachableError, match="holds no certificate"):
            send(client, server.url)

        ca_file.write_bytes(right)
        reply = send(client, server.url)

    client.close()
    assert reply.status == 200


def test_a_certificate_that_strict_verification_refuses_is_named(tmp_path: Path) -> None:
    ca_file, certificate, key = make_certificate(tmp_path, has_key_identifiers=False)
    client = Http(ca_file=ca_file)
    # The default from Python 3.13 on.
    client.dialer.context().verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT

    with (
        ScriptedServer(always(Answer()), certificate=(certificate, key)) as server,
        pytest.raises(UnreachableError, match=r"Missing (Authority|Subject) Key Identifier") as caught,
    ):
        send(client, server.url)

    assert "RFC 5280" in caught.value.hint


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
