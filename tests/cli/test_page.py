from __future__ import annotations

import http.client
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import requests

from agent.cli import main
from agent.cli.console import DoorView, Finding, Grid
from agent.cli.page.html import document
from agent.cli.page.server import PageServer
from agent.clock.system_clock import SystemClock
from agent.outbox import Outbox
from tests.support.cli_rig import AGENT_ID, CliRig
from tests.support.needs import CHROMIUM, needs
from tests.support.outbox_rig import commit
from tests.support.swipes import swipe

VIEW = DoorView(
    "hq-lobby-1 <script>alert(1)</script>",
    'about "it"',
    [Finding("reader <b>", "failed", "is not there & lost", next="ls -l '/dev/<x>'")],
    [Grid("Last <i>swipes</i>", ("zone",), [("<img src=//evil.example/x>",), ("on disk",)])],
)


@contextmanager
def serving(page: Callable[[], str] = lambda: document(VIEW)) -> Iterator[PageServer]:
    with PageServer(0, "the-token", page) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    with serving() as server:
        yield server


def test_the_page_is_served_under_its_token_and_nothing_else_is(server: PageServer) -> None:
    origin = server.url.removesuffix("/the-token/")

    page = requests.get(server.url, timeout=10)
    others = [
        requests.get(origin + path, timeout=10) for path in ("/", "/the-token", "/the-tokem/", "/favicon.ico")
    ]

    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert [(other.status_code, other.text) for other in others] == [(404, "")] * 4


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_it_answers_get_only(server: PageServer, method: str) -> None:
    assert requests.request(method, server.url, timeout=10).status_code == 501


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("127.0.0.1:8080", 200), ("localhost:9", 200), ("LOCALHOST", 200), ("[::1]:8765", 200)),
        *(("evil.example", 421), ("127.0.0.1.evil.example:80", 421), ("", 421), ("localhost:x", 421)),
    ],
)
def test_another_site_whose_name_leads_here_gets_nothing(server: PageServer, host: str, status: int) -> None:
    answer = requests.get(server.url, headers={"Host": host}, timeout=10)

    assert answer.status_code == status
    assert (status == 200) == bool(answer.text)


def test_every_answer_forbids_scripts_other_addresses_frames_and_copies(server: PageServer) -> None:
    answers = [requests.get(server.url, timeout=10), requests.get(server.url + "x", timeout=10)]

    for answer in answers:
        policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
        assert policy.pop("style-src").startswith("'sha256-")
        assert policy == dict.fromkeys(
            ("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'"
        )
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_text_of_the_door_is_never_markup() -> None:
    html = document(VIEW)

    tags = set(re.findall(r"<([a-z]+)", html))
    assert tags == {
        *(
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "h",
            "p",
            "div",
            "table",
            "tr",
            "td",
            "th",
            "small",
        ),
    }
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "http:" not in html.replace("http-equiv", "")
    assert '<td class="on-disk">on disk</td>' in html


def test_it_listens_on_the_loopback_interface_only(server: PageServer) -> None:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = [line.split()[1] for line in lines if line.split()[3] == "0A"]

    assert [one for one in listening if one.endswith(f":{server.port:04X}")] == [
        f"0100007F:{server.port:04X}"
    ]


def test_a_malformed_request_is_answered_and_the_next_one_too(server: PageServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("GET", "/the-token/", skip_host=True)
    connection.endheaders()

    assert connection.getresponse().status == 421
    connection.close()
    assert requests.get(server.url, timeout=10).status_code == 200


@pytest.fixture
def page_url(door: CliRig) -> Iterator[str]:
    """The address that the command prints for a door with two swipes, one of them delivered."""
    with closing(Outbox(door.state_dir, agent_id=AGENT_ID)) as outbox:
        now = SystemClock("always").now()
        outbox.keep(swipe(1, read_at=now), swipe(2, read_at=now))
        commit(outbox, 1)
    words = [sys.executable, "-m", "agent", "page", "--port", "0", "--config", str(door.config)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()
        assert process.wait(timeout=30) == 0


def test_the_command_serves_what_watch_shows_until_it_is_ended(page_url: str) -> None:
    html = requests.get(page_url, timeout=10).text

    assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+/[\w-]{22}/", page_url)
    assert html.count("in Snowflake</td>") == 1
    assert html.count("on disk</td>") == 1
    assert "sudo systemctl start badge-agent" in html


def test_chromium_shows_the_page_and_its_policy_refuses_nothing_of_it(page_url: str) -> None:
    needs(CHROMIUM)
    words = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--dump-dom",
    ]

    done = subprocess.run([*words, page_url], capture_output=True, text=True, timeout=60, check=True)

    assert '<td class="in-Snowflake">in Snowflake</td>' in done.stdout
    assert "Content Security Policy" not in done.stderr


def test_a_port_in_use_is_named(door: CliRig, server: PageServer, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(Outbox(door.state_dir, agent_id=AGENT_ID)):
        code = main(["page", "--port", str(server.port), "--config", str(door.config)])

    assert code == 1
    assert f"127.0.0.1 port {server.port}: Address already in use" in capsys.readouterr().err
