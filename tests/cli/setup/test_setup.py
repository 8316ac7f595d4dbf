"""`setup` without a terminal: every answer an option, on a machine of the test's own."""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import agent.cli.setup  # noqa: F401 - before a test gives up the right to read root's folders
from agent.cli import main
from agent.config.editor import is_example, render
from agent.config.loader import load
from agent.keys.keypair import KeyPair, generate_key, load_private_key, new_key, pem
from agent.keys.site_key import read_site_key
from tests.support.agent_process import PtyReader
from tests.support.emulator_process import ACCOUNT, DATABASE, PIPE, SCHEMA, USER, EmulatorProcess
from tests.support.needs import ROOT_USER, needs
from tests.support.paths import ROOT
from tests.support.programs import install
from tests.support.setup_rig import SetupRig

EXAMPLE = ROOT / "config.example.toml"
NAMES = (
    *("--account", ACCOUNT, "--user", USER, "--role", "SFE_INGEST_ROLE"),
    *("--database", DATABASE, "--schema", SCHEMA, "--pipe", PIPE, "--proxy", "-", "--agent-id", "hq-lobby-1"),
)
CLOSED = ("--url", "http://127.0.0.1:9")  # the discard port: no listener
READER = "id=RDR-101,zone=ZONE-LOBBY-1,protocol=rdm6300,direction=ENTRY"
ANSWERS = ("--yes", *NAMES, *CLOSED, "--trust-clock", "--reader", READER)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SetupRig]:
    """A Pi with one reader on a serial adapter."""
    with PtyReader(tmp_path / "line") as line:
        machine = SetupRig(tmp_path / "machine")
        machine.plug_in("usb-reader", str(line.device))
        yield machine


def stored_key(machine: SetupRig) -> str:
    return machine.run("key", "fingerprint").stdout.strip()


def test_one_command_makes_an_installed_package_a_running_service(
    machine: SetupRig, emulator: EmulatorProcess
) -> None:
    key = ("--private-key-file", str(emulator.private_key_file))

    done = machine.run("setup", *ANSWERS, "--url", emulator.url, *key)

    assert (done.returncode, done.stderr) == (0, "")
    assert machine.told == ["enable --now badge-agent.service"]
    assert f"ALTER USER {USER} SET RSA_PUBLIC_KEY='" in done.stdout
    assert "hq-lobby-1-check opens in" in done.stdout
    assert "failed" not in done.stdout
    assert tomllib.loads(machine.config.read_text()) == {
        "agent": {"id": "hq-lobby-1"},
        "readers": [
            {
                "id": "RDR-101",
                "zone_id": "ZONE-LOBBY-1",
                "protocol": "rdm6300",
                "direction": "ENTRY",
                "port": f"{machine.root}/dev/serial/by-id/usb-reader",
            }
        ],
        "snowflake": {
            "account": ACCOUNT,
            "user": USER,
            "role": "SFE_INGEST_ROLE",
            "database": DATABASE,
            "schema": SCHEMA,
            "pipe": PIPE,
            "url": emulator.url,
        },
        "clock": {"trust": "always"},
    }
    assert machine.config.stat().st_mode & 0o777 == 0o644
    assert stored_key(machine) == load_private_key(emulator.private_key_file).fingerprint


def test_a_key_is_made_and_never_shown_and_lies_nowhere_in_the_clear(machine: SetupRig) -> None:
    done = machine.run("setup", *ANSWERS)

    assert "key: new, SHA256:" in done.stdout
    assert "PRIVATE" not in done.stdout + done.stderr
    files = [path for path in machine.etc.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["badge-agent.private_key_encrypted", "config.toml"]
    assert not any(b"PRIVATE KEY" in path.read_bytes() for path in files)


def test_without_snowflake_all_is_set_up_and_what_comes_later_is_told(machine: SetupRig) -> None:
    done = machine.run("setup", *ANSWERS)

    assert done.returncode == 0
    assert machine.told == ["enable --now badge-agent.service"]
    assert "Swipes are kept until Snowflake accepts them" in done.stdout


def test_a_key_that_snowflake_does_not_know_yet_is_what_the_sql_above_is_for(
    machine: SetupRig, emulator: EmulatorProcess
) -> None:
    done = machine.run("setup", *ANSWERS, "--url", emulator.url)

    assert done.returncode == 0
    assert "next: the SQL above; then: sudo badge-agent check" in done.stdout
    assert done.stdout.count("ALTER USER") == 1


def test_two_doors_with_one_user_are_told_to_share_the_key_and_do_so_with_the_option(
    machine: SetupRig, tmp_path: Path
) -> None:
    key_file = tmp_path / "door-1.p8"
    key = generate_key(key_file)

    done = machine.run("setup", *ANSWERS, "--no-start", "--private-key-file", str(key_file))

    assert (
        "If another door uses this user, the first line would invalidate its key: give this door a user of\n"
        "its own, or the other door's key (--private-key-file).\n"
    ) in done.stdout
    first_line = done.stdout.partition("For your administrator, in Snowflake:\n")[2].splitlines()[0]
    assert first_line.strip().startswith(f"ALTER USER {USER} SET RSA_PUBLIC_KEY='")
    assert stored_key(machine) == key.fingerprint


def test_run_twice_it_changes_nothing(machine: SetupRig) -> None:
    machine.run("setup", *ANSWERS)
    before = machine.config.read_text(), stored_key(machine)

    again = machine.run("setup", *ANSWERS)
    bare = machine.run("setup", "--yes")

    assert (again.returncode, bare.returncode) == (0, 0)
    assert "unchanged" in again.stdout
    assert (machine.config.read_text(), stored_key(machine)) == before
    assert set(machine.told) == {"enable --now badge-agent.service"}  # which starts only what is stopped
    assert not machine.config.with_name("config.toml.old").exists()


def test_what_is_given_anew_changes_and_everything_else_stays(machine: SetupRig) -> None:
    machine.run("setup", *ANSWERS)
    with machine.config.open("a") as file:
        file.write("[uploader]\nmax_bytes_per_second = 5_000\n# metered\n")
    edited, key = machine.config.read_text(), stored_key(machine)

    done = machine.run("setup", "--yes", "--pipe", "OTHER_PIPE", "--reader", "id=RDR-101,zone=ZONE-2")

    settings = load(machine.config)
    assert done.returncode == 0
    assert settings.snowflake.pipe == "OTHER_PIPE"
    assert settings.uploader.max_bytes_per_second == 5_000
    (reader,) = settings.readers
    assert (reader.zone_id, reader.protocol, reader.direction) == ("ZONE-2", "rdm6300", "ENTRY")
    assert machine.config.with_name("config.toml.old").read_text() == edited
    assert stored_key(machine) == key
    assert machine.told[-1] == "restart badge-agent.service"


def test_the_proxy_and_its_login_are_written_and_can_be_removed(machine: SetupRig) -> None:
    proxy = ("--proxy", "http://proxy.example:3128", "--proxy-login-file", str(machine.etc / "login"))

    given = machine.run("setup", *ANSWERS, *proxy)
    before = load(machine.config).snowflake
    removed = machine.run("setup", "--yes", "--proxy", "-")

    assert (given.returncode, removed.returncode) == (0, 0)
    after = load(machine.config).snowflake
    assert (before.proxy, before.proxy_login_file) == (proxy[1], machine.etc / "login")
    assert (after.proxy, after.proxy_login_file) == (None, None)


def test_the_packages_example_is_no_configuration_and_stays_at_hand(machine: SetupRig) -> None:
    machine.config.parent.mkdir()
    shutil.copy(EXAMPLE, machine.config)

    missing = machine.run("setup", "--yes")
    done = machine.run("setup", *ANSWERS)

    assert is_example(tomllib.loads(EXAMPLE.read_text()))
    assert missing.returncode == 2
    assert done.returncode == 0
    assert load(machine.config).agent.id == "hq-lobby-1"
    assert len(load(machine.config).readers) == 1
    assert machine.config.with_name("config.example.toml").read_text() == EXAMPLE.read_text()


def test_every_missing_answer_is_named_at_once_and_nothing_is_written(machine: SetupRig) -> None:
    machine.plug_in("usb-second")

    done = machine.run("setup", "--yes", "--account", ACCOUNT, "--reader", "id=RDR-101")

    assert done.returncode == 2
    for option in ("--user", "--database", "--schema", "--pipe", "--reader RDR-101: zone=, protocol=, port="):
        assert option in done.stderr
    assert "usb-reader, " in done.stderr
    assert "--account" not in done.stderr.partition("missing")[2]
    assert list(machine.etc.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (("--account", "xy12345"), "snowflake.account: found 'xy12345', which looks like an account locator"),
        (("--agent-id", "a|b"), "agent.id: found 'a|b'"),
        (("--proxy", "https://proxy:3128"), "snowflake.proxy: found the scheme 'https', only HTTP"),
        (("--reader", f"{READER},formats=H10301+H1"), "readers[0].formats[1]: found 'H1'"),
        (("--reader", READER.replace("rdm6300", "rdm630")), "did you mean rdm6300?"),
    ],
)
def test_a_wrong_answer_is_refused_with_its_reason_before_anything_is_written(
    machine: SetupRig, answer: tuple[str, str], said: str
) -> None:
    base = ("--yes", *NAMES, *(("--reader", READER) if answer[0] != "--reader" else ()))

    done = machine.run("setup", *base, *answer)

    assert done.returncode == 78
    assert said in done.stderr
    assert list(machine.etc.iterdir()) == []


@pytest.mark.parametrize("text", ["RDR-101", "id=A,id=B", "color=red", "zone_id=Z"])
def test_a_reader_is_written_in_keys_and_values(machine: SetupRig, text: str) -> None:
    done = machine.run("setup", "--yes", "--reader", text)

    assert done.returncode == 2
    assert "must be KEY=VALUE" in done.stderr


def test_without_a_terminal_it_says_so_and_does_not_wait(machine: SetupRig) -> None:
    done = machine.run("setup")

    assert done.returncode == 2
    assert "give every answer as an option, and --yes" in done.stderr


def test_several_readers_each_need_their_port(machine: SetupRig) -> None:
    second = machine.plug_in("usb-second")
    readers = (
        f"{READER},port={machine.root}/dev/serial/by-id/usb-reader",
        f"id=RDR-102,zone=Z,port={second}",
    )

    done = machine.run(
        "setup", "--yes", *NAMES, *CLOSED, *(f"--reader={reader}" for reader in (readers[0],)),
        f"--reader={readers[1]},protocol=bits,formats=H10301+C1k35s,keypad=burst4,baudrate=19200",
    )  # fmt: skip

    settings = load(machine.config)
    assert done.returncode == 1  # /dev/null is no serial port; it is waited for all the same
    assert "RDR-102: " in done.stdout
    assert machine.told == ["enable --now badge-agent.service"]
    assert [reader.id for reader in settings.readers] == ["RDR-101", "RDR-102"]
    assert settings.readers[1].formats == ("H10301", "C1k35s")
    assert (settings.readers[1].keypad, settings.readers[1].baudrate) == ("burst4", 19_200)


def test_the_key_of_a_configured_file_moves_into_the_services_keeping(machine: SetupRig) -> None:
    key_file = machine.config.with_name("rsa_key.p8")
    machine.config.parent.mkdir()
    key = generate_key(key_file)
    machine.run("setup", *ANSWERS)
    shutil.rmtree(machine.etc / "credstore.encrypted")
    text = machine.config.read_text().replace("[snowflake]", '[snowflake]\nprivate_key_file = "rsa_key.p8"')
    machine.config.write_text(text)

    done = machine.run("setup", "--yes")

    assert done.returncode == 0
    assert f"key: imported, {key.fingerprint}" in done.stdout
    assert f"next: the file is no longer needed: sudo rm {key_file}" in done.stdout
    assert load(machine.config).snowflake.private_key_file is None
    assert stored_key(machine) == key.fingerprint


def test_another_key_is_checked_and_not_the_one_from_the_last_rotation(
    machine: SetupRig, emulator: EmulatorProcess
) -> None:
    machine.run("setup", *ANSWERS, "--url", emulator.url)
    handed_over = machine.runtime_dir / "private_key"
    machine.runtime_dir.mkdir()
    handed_over.touch(mode=0o600)
    handed_over.write_bytes(pem(new_key()))

    done = machine.run("setup", "--yes", "--private-key-file", str(emulator.private_key_file))

    assert "hq-lobby-1-check opens in" in done.stdout
    assert load_private_key(handed_over) == load_private_key(emulator.private_key_file)
    assert machine.told[-1] == "restart badge-agent.service"


def test_a_key_that_cannot_be_used_is_refused_before_anything_is_written(
    machine: SetupRig, tmp_path: Path
) -> None:
    (tmp_path / "rsa_key.p8").touch(mode=0o600)

    done = machine.run("setup", *ANSWERS, "--private-key-file", str(tmp_path / "rsa_key.p8"))

    assert done.returncode == 78
    assert "holds no PEM private key" in done.stderr
    assert list(machine.etc.iterdir()) == []


def test_a_present_configuration_that_cannot_be_used_is_left_alone(machine: SetupRig) -> None:
    machine.config.parent.mkdir()
    machine.config.write_text('[agent]\nid = "a|b"\n')

    done = machine.run("setup", *ANSWERS)

    assert done.returncode == 78
    assert "agent.id: found 'a|b'" in done.stderr
    assert machine.config.read_text() == '[agent]\nid = "a|b"\n'


def test_the_service_can_be_left_alone(machine: SetupRig) -> None:
    done = machine.run("setup", *ANSWERS, "--no-start")

    assert done.returncode == 0
    assert machine.told == []
    assert "sudo systemctl enable --now badge-agent.service" in done.stdout


def test_a_service_that_does_not_start_is_told_with_where_to_look(machine: SetupRig) -> None:
    install(
        machine.programs,
        "systemctl",
        'case "$1" in cat) ;; *) echo "Job for badge-agent.service failed." >&2; exit 1;; esac',
    )

    done = machine.run("setup", *ANSWERS)

    assert done.returncode == 1
    assert "Job for badge-agent.service failed." in done.stderr
    assert "journalctl -u badge-agent" in done.stderr


def test_without_systemd_it_says_how_to_run_the_agent(tmp_path: Path) -> None:
    with PtyReader(tmp_path / "line") as line:
        machine = SetupRig(tmp_path / "machine", with_systemd=False)
        machine.plug_in("usb-reader", str(line.device))

        done = machine.run("setup", *ANSWERS)

    assert done.returncode == 0
    assert f"next: badge-agent run --config {machine.config}" in done.stdout


@pytest.mark.usefixtures("unprivileged")
def test_only_root_may_set_up(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["setup", "--yes"])

    err = capsys.readouterr().err
    assert code == 77
    assert "may not write to /etc" in err
    assert "next: sudo badge-agent setup" in err


def test_what_is_written_reads_as_what_was_meant() -> None:
    document = {
        "agent": {"id": 'a"b\\c', "state_dir": "/ä ö"},
        "readers": [
            {"id": "1", "formats": ["A", "B"], "options": {"bits": 24, "delimiter": "-", "odd key": True}},
            {"id": "2", "formats": [], "hold_off_ms": 1000},
        ],
        "outbox": {"retention_days": 0.5},
    }

    assert tomllib.loads(render(document)) == document


def test_a_taken_over_key_keeps_the_age_of_its_file(
    machine: SetupRig, rsa_key_file: Path, tmp_path: Path
) -> None:
    key = load_private_key(rsa_key_file)
    path = tmp_path / "old.p8"
    path.touch(mode=0o600)
    path.write_bytes(bare_pem(key))
    os.utime(path, (0, 1_600_000_000))

    done = machine.run("setup", *ANSWERS, "--private-key-file", str(path))

    assert "warning  key file:" in done.stdout
    assert "next: sudo badge-agent key rotate" in done.stdout


def bare_pem(key: KeyPair) -> bytes:
    return b"-----BEGIN" + pem(key).partition(b"-----BEGIN")[2]


def test_setup_can_start_the_service_after_a_check_that_gave_up_root(machine: SetupRig) -> None:
    needs(ROOT_USER)
    (machine.etc / "unit").write_text("[Service]\nExecStart=/usr/bin/badge-agent run\n")
    systemctl = machine.programs / "systemctl"
    cases = 'case "$1" in\n'
    systemctl.write_text(systemctl.read_text().replace(cases, f"{cases}  cat) cat {machine.etc}/unit ;;\n"))
    # The state directory becomes the service's with its first start, here before the check fails.
    install(machine.programs, "systemd-run", f"chown 12345 {machine.root}/state; exit 1")

    done = machine.run("setup", *ANSWERS)

    assert "checked without the sandbox of the service" in done.stdout
    assert "service: running" in done.stdout, done.stdout + done.stderr
    assert "enable --now badge-agent.service" in machine.told


def test_a_site_key_is_made_once_and_taken_to_the_next_door(machine: SetupRig, tmp_path: Path) -> None:
    key_file = tmp_path / "site.key"

    first = machine.run("setup", *ANSWERS, "--site-key", str(key_file))
    again = machine.run("setup", *ANSWERS, "--site-key", str(key_file))

    key = read_site_key(key_file)
    assert (first.returncode, again.returncode) == (0, 0), first.stdout + first.stderr
    assert f"site key: stored, {key.fingerprint}" in first.stdout
    assert f"site key: unchanged, {key.fingerprint}" in again.stdout
    assert f"{key.fingerprint}, the same at every door of this site" in first.stdout
    assert tomllib.loads(machine.config.read_text())["privacy"] == {"card_numbers": "keyed"}
    assert machine.run("pseudonym", "123-45015").stdout.strip() == key.badge("123-45015")
    files = [path for path in machine.etc.rglob("*") if path.is_file()]
    assert not any(key.line.strip() in path.read_bytes() for path in files)
    assert key.line.decode().strip() not in first.stdout + again.stdout


def test_setup_again_after_the_site_key_file_was_deleted_writes_the_stored_key(
    machine: SetupRig, tmp_path: Path
) -> None:
    key_file = tmp_path / "site.key"
    machine.run("setup", *ANSWERS, "--site-key", str(key_file))
    key = read_site_key(key_file)
    key_file.unlink()

    again = machine.run("setup", *ANSWERS, "--site-key", str(key_file))

    assert f"site key: unchanged, {key.fingerprint}" in again.stdout
    assert read_site_key(key_file) == key


def test_a_keyed_configuration_without_a_site_key_changes_nothing(machine: SetupRig) -> None:
    machine.run("setup", *ANSWERS)
    machine.config.write_text(machine.config.read_text() + '\n[privacy]\ncard_numbers = "keyed"\n')
    before = machine.config.read_text()

    done = machine.run("setup", *ANSWERS)

    assert done.returncode == 78
    assert "no site key is stored" in done.stderr
    assert machine.config.read_text() == before


def test_a_name_that_two_adapters_claim_is_never_written(machine: SetupRig) -> None:
    shared = f"{machine.root}/dev/serial/by-id/usb-reader"
    machine.claim(shared, "c188:0", "c188:1")

    chosen = machine.run("setup", *ANSWERS)
    given = machine.run("setup", *ANSWERS[:-1], f"{READER},port={shared}")

    assert (chosen.returncode, given.returncode) == (2, 2)
    assert "port= (no serial port found)" in chosen.stderr
    assert f"several adapters claim {shared}; name the socket instead" in given.stderr
    assert not machine.config.exists()
