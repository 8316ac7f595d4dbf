from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent.atomic_file import replace_file
from agent.cli.check import snowflake
from agent.keys.keypair import generate_key, load_private_key, new_key, pem
from agent.snowpipe import connection
from agent.snowpipe.connection import LimitedSocket
from agent.snowpipe.server_clock import ServerClock
from tests.support.cli_rig import CLOSED, ROLE, Check, CliRig
from tests.support.connect_proxy import ConnectProxy
from tests.support.dead_port import dead_port
from tests.support.emulator_process import DATABASE, SCHEMA, USER, EmulatorProcess, make_certificate
from tests.support.swipes import wait_until


def test_a_refused_token_comes_with_the_sql_that_registers_the_key(
    door: CliRig, check: Check, tmp_path: Path
) -> None:
    generate_key(tmp_path / "other.p8")
    door.configure(private_key_file="other.p8")
    key = load_private_key(tmp_path / "other.p8")

    checked = check()

    finding = checked.named("JWT")
    assert checked.code == 77
    assert f"DESC USER {USER};" in finding["next"]
    assert key.fingerprint in finding["next"]
    assert f"ALTER USER {USER} SET RSA_PUBLIC_KEY='{key.public_key_line}';" in finding["next"]
    assert checked.named("server clock")["state"] == "ok"
    assert "channel" in checked.named("not checked")["text"]
    assert "PRIVATE" not in json.dumps(checked.findings)


def test_a_key_of_the_second_slot_is_looked_for_there(door: CliRig, check: Check, tmp_path: Path) -> None:
    key = new_key("RSA_PUBLIC_KEY_2")
    replace_file(tmp_path / "second.p8", pem(key), mode=0o600)
    door.configure(private_key_file="second.p8")

    said = check().named("JWT")["next"]

    assert f"RSA_PUBLIC_KEY_2_FP must be {key.fingerprint}" in said
    assert "SET RSA_PUBLIC_KEY_2='" in said


@pytest.mark.parametrize(
    ("on", "step"), [("hostname", "JWT"), ("token", "scoped token"), ("open", "channel")]
)
def test_a_missing_privilege_names_the_role(
    check: Check, emulator: EmulatorProcess, on: str, step: str
) -> None:
    emulator.fault("status", on=on, status=403)

    checked = check()

    assert (checked.code, checked.failed) == (77, [step])
    assert f"SHOW GRANTS TO ROLE {ROLE};" in checked.named(step)["next"]


def test_a_role_left_to_the_user_is_looked_up_there(
    door: CliRig, check: Check, emulator: EmulatorProcess
) -> None:
    door.config.write_text(door.config.read_text().replace(f'role = "{ROLE}"\n', ""))
    emulator.fault("status", on="open", status=403)

    checked = check()

    assert f"DESC USER {USER};" in checked.named("channel")["next"]


def test_a_missing_pipe_is_looked_for_in_its_schema(door: CliRig, check: Check) -> None:
    door.configure(pipe="lower-case")

    checked = check()

    assert (checked.code, checked.failed) == (69, ["channel"])
    assert checked.named("channel")["next"] == (
        f"SHOW PIPES IN SCHEMA {DATABASE}.{SCHEMA};  -- must list lower-case, with role {ROLE}"
    )


def test_a_missing_pipe_for_door_events_is_a_warning(door: CliRig, check: Check) -> None:
    config = door.config.read_text()
    door.config.write_text(config.replace("[snowflake]", '[snowflake]\nevents_pipe = "OTHER"'))

    checked = check()

    assert (checked.code, checked.failed) == (0, [])
    found = checked.named("door events")
    assert (found["state"], found["text"].partition(":")[0]) == (
        "warning",
        "none are delivered, only swipes",
    )
    assert found["next"].splitlines()[0] == (
        f"SHOW PIPES IN SCHEMA {DATABASE}.{SCHEMA};  -- must list OTHER, with role {ROLE}"
    )


def test_an_account_that_is_not_known_is_asked_for(check: Check, emulator: EmulatorProcess) -> None:
    emulator.fault("status", on="hostname", status=404)

    checked = check()

    assert checked.code == 69
    assert "CURRENT_ORGANIZATION_NAME()" in checked.named("JWT")["next"]


def test_a_server_that_does_not_answer_as_snowflake_does_is_not_blamed_on_the_key(
    check: Check, emulator: EmulatorProcess
) -> None:
    emulator.fault("drop_before", on="token")

    checked = check()

    assert (checked.code, checked.failed) == (69, ["scoped token"])
    assert "proxy" in checked.named("scoped token")["next"]


def test_a_name_without_address_stops_the_walk_there(door: CliRig, check: Check) -> None:
    door.configure(url="https://myorg-myaccount.invalid")

    checked = check()

    assert (checked.code, checked.failed) == (69, ["host name"])
    assert checked.named("not checked")["text"] == (
        "TLS, JWT, ingest host, scoped token, channel, door events, large request (needs host name)"
    )


def test_dead_addresses_before_the_good_one_do_not_keep_check_from_finishing(
    check: Check, emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a router without IPv6: the first address has no route, the second never answers."""
    monkeypatch.setattr(connection, "_CONNECT_S", (0.2, 5.0))
    port = urlsplit(emulator.url).port
    tried = []

    def connect(one: LimitedSocket, target: tuple[str, int]) -> None:
        tried.append(target[:2])
        socket.socket.connect(one, target)

    monkeypatch.setattr(LimitedSocket, "connect", connect, raising=False)
    with dead_port() as dead:
        ipv6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", port, 0, 0))
        ipv4 = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", one)) for one in (dead, port)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [ipv6, *ipv4])

        checked = check()

    assert (checked.code, checked.failed) == (0, [])
    assert checked.named("channel")["state"] == "ok"
    assert tried[:3] == [("2001:db8::1", port), ("127.0.0.1", dead), ("127.0.0.1", port)]
    assert set(tried[3:]) == {("127.0.0.1", port)}  # the one that answered is first from then on


def test_a_way_that_carries_small_requests_only_is_a_warning(check: Check, emulator: EmulatorProcess) -> None:
    emulator.fault("drop_before", on="status")

    checked = check()

    finding = checked.named("large request")
    assert (checked.code, checked.named("channel")["state"]) == (0, "ok")
    assert finding["state"] == "warning"
    assert re.match(r"1[23]\d kB did not get through, smaller requests do: ", finding["text"])
    assert "MTU" in finding["next"]


def test_a_slow_way_is_a_warning(
    check: Check, emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snowflake, "_SLOW_BYTES_PER_S", 200_000)
    assert check().named("large request")["state"] == "ok"

    emulator.fault("delay", on="status", seconds=1)
    finding = check().named("large request")

    assert finding["state"] == "warning"
    assert finding["text"].endswith(" s: a backlog takes long")


def test_nobody_listening_is_told_with_host_and_port(door: CliRig, check: Check) -> None:
    door.configure(url=CLOSED)

    checked = check()

    assert checked.named("TLS")["text"] == "no connection to 127.0.0.1 port 9: Connection refused"


def test_a_certificate_is_verified_and_its_days_are_counted(
    door: CliRig, check: Check, tmp_path: Path
) -> None:
    authority, *server = make_certificate(tmp_path)
    with EmulatorProcess(tmp_path / "tls", tls=(server[0], server[1])) as emulator:
        door.configure(url=emulator.url, private_key_file=str(emulator.private_key_file))
        untrusted = check()
        door.configure(ca_file=str(authority))

        trusted = check()

    assert (untrusted.code, untrusted.failed) == (69, ["TLS"])
    assert "cannot be verified" in untrusted.named("TLS")["text"]
    # It is made for a day.
    assert (trusted.code, trusted.failed) == (0, [])
    assert "ends in 1.0 days" in trusted.named("TLS")["text"]


def test_http_where_tls_is_expected_is_not_taken_for_a_bad_certificate(
    door: CliRig, check: Check, emulator: EmulatorProcess
) -> None:
    door.configure(url=emulator.url.replace("http:", "https:"))

    checked = check()

    assert "failed: no TLS" in checked.named("TLS")["text"]


def test_check_send_sample_and_the_agent_connect_through_the_configured_proxy(
    door: CliRig, check: Check, tmp_path: Path
) -> None:
    authority, *server = make_certificate(tmp_path)
    with EmulatorProcess(tmp_path / "tls", tls=(server[0], server[1])) as emulator:
        with ConnectProxy(urlsplit(emulator.url).port) as proxy:
            key_file = str(emulator.private_key_file)
            door.configure(
                url=emulator.url, private_key_file=key_file, ca_file=str(authority), proxy=proxy.url
            )
            through = check()
            connects = [len(proxy.heads)]
            sample = subprocess.run(
                [sys.executable, "-m", "agent", "send-sample", "--config", str(door.config)],
                check=False,
                capture_output=True,
            )
            connects.append(len(proxy.heads))
            with door.running_agent():  # it has a token before it connects
                wait_until(lambda: len(proxy.heads) > connects[-1], what="the agent connects")
        gone = check()

    assert (through.code, through.failed) == (0, [])
    assert proxy.url in through.named("proxy")["text"]
    assert sample.returncode == 0
    assert 2 <= connects[0] < connects[1]
    assert gone.failed == ["TLS"]
    assert f"the proxy {proxy.url} cannot be reached" in gone.named("TLS")["text"]


def test_a_proxy_of_the_environment_is_ignored_and_check_says_so(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@127.0.0.1:9")

    checked = check()

    finding = checked.named("proxy")
    assert (checked.code, finding["state"]) == (0, "warning")
    assert "HTTPS_PROXY is set, but the agent ignores the environment" in finding["text"]
    assert "secret" not in json.dumps(checked.findings)


@pytest.mark.parametrize(
    ("on", "status", "code", "words"),
    [
        ("hostname", 403, "390422", "network policy"),
        ("hostname", 401, "390101", "DISABLED = FALSE"),
        ("token", 403, "390186", f"GRANT ROLE {ROLE} TO USER {USER}"),
        ("hostname", 401, "394300", "LOGIN_NAME"),
        ("open", 409, "ERR_PIPE_IN_INVALID_STATE", f"DESC PIPE {DATABASE}.{SCHEMA}.SFE_BADGE_EVENTS_PIPE"),
    ],
)
def test_the_next_step_follows_snowflakes_code(
    check: Check, emulator: EmulatorProcess, on: str, status: int, code: str, words: str
) -> None:
    emulator.fault("status", on=on, status=status, code=code)

    (step,) = check().failed or [""]

    assert words in check().named(step)["next"]


def test_check_leaves_no_channel(check: Check, emulator: EmulatorProcess) -> None:
    assert check().code == 0

    assert [item for item in emulator.state()["channels"] if item["channel"].endswith("-check")] == []


@pytest.mark.parametrize(
    ("ahead_s", "said"),
    [(0, "agrees"), (58, "agrees"), (90, "1 min 30 s ahead"), (-11_520, "3 h 12 min behind")],
)
def test_a_clock_far_from_the_servers_is_a_warning(ahead_s: int, said: str) -> None:
    theirs = datetime(2026, 3, 1, 12, tzinfo=UTC)
    clock = ServerClock(wall_s=lambda: theirs.timestamp() + ahead_s + 0.5, boot_s=lambda: 100.0)
    clock.observe({"date": format_datetime(theirs, usegmt=True)}, 100.0)

    (finding,) = snowflake._skew(clock)

    assert said in finding.text
