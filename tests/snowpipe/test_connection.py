from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import OutcomeUnknownError, UnreachableError
from agent.snowpipe import connection, http
from agent.snowpipe.connection import Proxy
from agent.snowpipe.http import Http
from agent.snowpipe.name_resolution import Resolver
from agent.snowpipe.wire import Reply
from tests.support.connect_proxy import ConnectProxy
from tests.support.dead_port import dead_port
from tests.support.emulator_process import make_certificate
from tests.support.scripted_server import ASK, Answer, ScriptedServer, Silence, always

TOKEN = "the.secret.token"


@pytest.fixture
def tls(tmp_path: Path) -> tuple[Path, tuple[Path, Path]]:
    """The file of an authority, and a certificate for 127.0.0.1 with its key."""
    authority, *certificate = make_certificate(tmp_path)
    return authority, (certificate[0], certificate[1])


def send(client: Http, url: str) -> Reply:
    return client.send(url, ASK, token=TOKEN, token_type="KEYPAIR_JWT")


# --- proxies ----------------------------------------------------------------------------------


def test_an_https_request_goes_through_the_proxy_and_ca_file_counts_there(
    tls: tuple[Path, tuple[Path, Path]],
) -> None:
    with (
        ScriptedServer(always(Answer(body=b"fine")), certificate=tls[1]) as server,
        ConnectProxy(server.port) as proxy,
    ):
        client = Http(ca_file=tls[0], proxy=Proxy(proxy.url))
        replies = [send(client, server.url).body for _ in range(2)]
        client.close()

    assert replies == [b"fine", b"fine"]
    assert [head.split("\r\n")[0] for head in proxy.heads] == [f"CONNECT 127.0.0.1:{server.port} HTTP/1.1"]
    assert TOKEN not in proxy.heads[0]


def test_a_proxy_that_inspects_tls_without_ca_file_is_refused_and_named(
    tls: tuple[Path, tuple[Path, Path]],
) -> None:
    with (
        ScriptedServer(always(Answer()), certificate=tls[1]) as server,
        ConnectProxy(server.port) as proxy,
        pytest.raises(UnreachableError, match=rf"through the proxy {proxy.url} failed: the cert") as caught,
    ):
        send(Http(ca_file=None, proxy=Proxy(proxy.url)), server.url)

    assert "ca_file" in caught.value.hint
    assert server.seen == []


def test_the_login_comes_from_its_file(tls: tuple[Path, tuple[Path, Path]], tmp_path: Path) -> None:
    login = tmp_path / "login"
    login.touch(mode=0o600)
    login.write_text("door-17:s3cr:et\n")

    with (
        ScriptedServer(always(Answer()), certificate=tls[1]) as server,
        ConnectProxy(server.port) as proxy,
    ):
        client = Http(ca_file=tls[0], proxy=Proxy(proxy.url, login))
        send(client, server.url)
        client.close()

    credentials = base64.b64encode(b"door-17:s3cr:et").decode()
    assert f"Proxy-Authorization: Basic {credentials}\r\n" in proxy.heads[0]
    assert "s3cr" not in repr(client.dialer)


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (None, 0, "no such proxy login file"),
        ("a:b", 0o644, "accessible to other users"),
        ("ab", 0o600, "not a login"),
    ],
)
def test_a_login_file_that_cannot_be_used_is_named(
    tmp_path: Path, content: str | None, mode: int, words: str
) -> None:
    login = tmp_path / "login"
    if content is not None:
        login.write_text(content)
        login.chmod(mode)

    with ConnectProxy() as proxy, pytest.raises(UnreachableError, match=words) as caught:
        send(Http(ca_file=None, proxy=Proxy(proxy.url, login)), "https://127.0.0.1:9")

    assert proxy.url in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", r"demands a login \(HTTP 407\)"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", r"does not allow 127.0.0.1:9 \(HTTP 403\)"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", r"cannot reach 127.0.0.1:9 \(HTTP 503\)"),
        (b"HTTP/1.1 405 No\r\n\r\n", "refuses CONNECT to 127.0.0.1:9"),
        (b"220 mail.example ESMTP\r\n", "is no HTTP proxy"),
        (b"", "closed the connection"),
    ],
)
def test_each_refusal_of_a_proxy_has_its_own_words(answer: bytes, words: str) -> None:
    with ConnectProxy(answer=answer) as proxy, pytest.raises(UnreachableError, match=words) as caught:
        send(Http(ca_file=None, proxy=Proxy(proxy.url)), "https://127.0.0.1:9")

    assert proxy.url in str(caught.value)
    assert caught.value.hint


def test_a_proxy_that_is_not_there_is_named() -> None:
    with pytest.raises(UnreachableError, match=r"the proxy http://127\.0\.0\.1:9 cannot be reached"):
        send(Http(ca_file=None, proxy=Proxy("http://127.0.0.1:9")), "https://127.0.0.1:9")


def test_what_happens_after_the_connect_names_the_proxy_too(
    tls: tuple[Path, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_EXCHANGE_S", 0.5)

    with (
        ScriptedServer(always(Silence()), certificate=tls[1]) as server,
        ConnectProxy(server.port) as proxy,
        pytest.raises(OutcomeUnknownError, match=f"through the proxy {proxy.url}"),
    ):
        send(Http(ca_file=tls[0], proxy=Proxy(proxy.url)), server.url)


def test_plain_http_stays_on_this_machine_without_a_proxy() -> None:
    with ScriptedServer(always(Answer())) as server:
        client = Http(ca_file=None, proxy=Proxy("http://127.0.0.1:9"))
        assert send(client, server.url).status == 200
        client.close()


# --- addresses --------------------------------------------------------------------------------


@pytest.fixture
def dead() -> Iterator[int]:
    """A port of 127.0.0.1 that answers no connection."""
    with dead_port() as port:
        yield port


def resolve_to(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Let every name have these addresses, in this order."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_a_name_server_that_does_not_answer_ends_the_exchange_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_RESOLVE_S", 0.2)
    answers, resolve, calls = threading.Event(), socket.getaddrinfo, []

    def hang(host: str, port: int, *, type: socket.SocketKind) -> object:  # noqa: A002 - its name there
        calls.append(host)
        answers.wait()
        return resolve("127.0.0.1", port, type=type)

    with ScriptedServer(always(Answer())) as server:
        monkeypatch.setattr(socket, "getaddrinfo", hang)
        client, begun = Http(ca_file=None), time.monotonic()
        for _ in range(3):
            with pytest.raises(
                UnreachableError, match=r"snowflake\.example: the name server does not answer"
            ):
                send(client, f"http://snowflake.example:{server.port}")
        took_s = time.monotonic() - begun
        answers.set()
        status = send(client, f"http://snowflake.example:{server.port}").status
        client.close()

    assert took_s < 10
    assert status == 200
    assert calls == ["snowflake.example"]  # one thread, however often it is asked


def test_a_lookup_that_failed_after_its_caller_gave_up_is_not_the_next_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lookups: list[threading.Thread] = []
    late = threading.Event()

    def fail_late_once(host: str, port: int, *, type: socket.SocketKind) -> object:  # noqa: A002 - its name there
        lookups.append(threading.current_thread())
        if len(lookups) == 1:
            late.wait()
            raise socket.gaierror(socket.EAI_AGAIN, host)
        return [(socket.AF_INET, type, 0, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", fail_late_once)
    resolver = Resolver()
    with pytest.raises(TimeoutError):
        resolver.lookup("snowflake.example", 443, 0.05)
    late.set()
    lookups[0].join()

    addresses = resolver.lookup("snowflake.example", 443, 60.0)

    assert [target for *_, target in addresses] == [("127.0.0.1", 443)]


def test_dead_addresses_cost_a_moment_each_and_the_good_one_is_first_from_then_on(
    dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_CONNECT_S", (0.3, 5.0))

    with ScriptedServer(always(Answer(headers={"Connection": "close"}))) as server:
        resolve_to(monkeypatch, dead, dead, 9, server.port)
        client = Http(ca_file=None)
        times = []
        for _ in range(2):
            begun = time.monotonic()
            assert send(client, "http://snowflake.example").status == 200
            times.append(time.monotonic() - begun)
        client.close()

    assert 0.6 <= times[0] < 5
    assert times[1] < 0.3


def test_a_slow_address_has_a_second_longer_try(dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_CONNECT_S", (0.1, 0.5))
    resolve_to(monkeypatch, dead)
    begun = time.monotonic()

    with pytest.raises(UnreachableError, match=r"no connection to snowflake\.example port 80: no answer"):
        send(Http(ca_file=None), "http://snowflake.example")

    assert 0.6 <= time.monotonic() - begun < 5
