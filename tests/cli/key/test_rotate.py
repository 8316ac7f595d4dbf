"""`key rotate` while the agent runs: no restart, no lost swipe, a valid key at every moment."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agent.cli import main
from agent.keys import systemd_creds
from agent.keys.keypair import KeyPair, load_private_key, new_key, parse_private_key, pem
from tests.cli.setup.test_setup import NAMES, READER
from tests.support.agent_process import AgentProcess, PtyReader, raws, reader_table, sent_rows
from tests.support.emulator_process import EmulatorProcess, make_key, private_pem
from tests.support.programs import install
from tests.support.setup_rig import SetupRig
from tests.support.swipes import wait_until
from tests.support.terminal import Terminal

_SET = re.compile(r"SET (RSA_PUBLIC_KEY(?:_2)?)='([^']+)';")
_UNSET = re.compile(r"UNSET (RSA_PUBLIC_KEY(?:_2)?);")


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[EmulatorProcess]:
    with EmulatorProcess(tmp_path / "pipe", commit_lag_seconds=0.05) as pipe:
        yield pipe


@pytest.fixture
def line(tmp_path: Path) -> Iterator[PtyReader]:
    with PtyReader(tmp_path / "line") as line:
        yield line


class Service:
    """A commissioned machine whose agent runs as systemd would run it."""

    def __init__(self, root: Path, pipe: EmulatorProcess, line: PtyReader) -> None:
        self.machine = SetupRig(root)
        self.machine.plug_in("usb-reader", str(line.device))
        self.pipe = pipe
        options = ("--url", pipe.url, "--private-key-file", str(pipe.private_key_file), "--trust-clock")
        done = self.machine.run("setup", "--yes", *NAMES, *options, "--reader", READER)
        assert done.returncode == 0, done.stdout + done.stderr
        self.process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        credentials = self.machine.root / "credentials"
        credentials.mkdir(exist_ok=True)
        passed_on = credentials / "private_key_encrypted"
        passed_on.touch(mode=0o600)
        passed_on.write_bytes(pem(self.stored()))
        with (self.machine.root / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.machine.command("run"),
                env={**self.machine.environment, "CREDENTIALS_DIRECTORY": str(credentials)},
                stderr=log,
            )
        (self.machine.root / "pid").write_text(str(self.process.pid))
        try:
            wait_until(lambda: self.signs_with() == self.stored().fingerprint, what="a running agent")
            yield
        finally:
            self.process.terminate()
            assert self.process.wait(timeout=15) == 0

    def stored(self, *, waiting: bool = False) -> KeyPair:
        (stored,) = (
            path
            for path in (self.machine.etc / "credstore.encrypted").iterdir()
            if path.name.endswith(".next") == waiting
        )
        plain = subprocess.run(
            [self.machine.programs / "systemd-creds", "decrypt", "--name=private_key_encrypted", "-", "-"],
            input=stored.read_bytes(),
            capture_output=True,
            check=True,
        )
        return parse_private_key(plain.stdout, stored)

    def signs_with(self) -> str | None:
        with suppress(FileNotFoundError):
            status = json.loads((self.machine.runtime_dir / "status.json").read_bytes())
            if status["pid"] == getattr(self.process, "pid", None):
                fingerprint: str = status["key"]["fingerprint"]
                return fingerprint
        return None

    @contextmanager
    def rotating(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            self.machine.command("key", "rotate", "--yes", *options),
            env=self.machine.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as rotation:
            yield rotation

    def register(self, line: str) -> str:
        """What the administrator does with a line of SQL; the slot."""
        found = _SET.search(line)
        assert found is not None, line
        self.pipe.alter_user(found[1], found[2])
        return found[1]

    def rotate(self, *options: str) -> tuple[str, str]:
        """A whole rotation; the slots that the printed lines fill and empty."""
        with self.rotating(*options) as rotation:
            assert rotation.stdout is not None
            text = "".join(iter(rotation.stdout.readline, "\n"))  # up to the empty line below the SQL
            filled = self.register(text)
            rest = rotation.stdout.read()
        assert rotation.returncode == 0, rest
        emptied = _UNSET.search(rest)
        assert emptied is not None, rest
        self.pipe.alter_user(emptied[1], None)
        return filled, emptied[1]


@pytest.fixture
def service(tmp_path: Path, pipe: EmulatorProcess, line: PtyReader) -> Service:
    return Service(tmp_path / "machine", pipe, line)


def test_the_running_agent_goes_over_to_the_new_key_and_no_swipe_is_lost(
    service: Service, pipe: EmulatorProcess, line: PtyReader
) -> None:
    tags = range(1, 31)
    before = service.stored()

    with service.running():
        line.present_steadily(tags[:10], per_second=50)
        slots = service.rotate()
        pipe.fault("expire_tokens")  # nothing is left that the old key was good for
        line.present_steadily(tags[10:], per_second=50)
        wait_until(lambda: len(pipe.rows()) == len(tags), what="every swipe in the table")
        handed_over = service.machine.runtime_dir / "private_key"

        after = service.stored()
        assert slots == ("RSA_PUBLIC_KEY_2", "RSA_PUBLIC_KEY")
        assert after != before
        assert service.signs_with() == after.fingerprint
        assert list(pipe.state()["public_keys"].values()) == [after.fingerprint]
        assert [row["card_raw"] for row in sent_rows(pipe)] == raws(tags)
        assert service.machine.told[-1] == "reload badge-agent.service"
        assert handed_over.stat().st_mode & 0o777 == 0o600
        log = (service.machine.root / "agent.log").read_text()
        assert f"signing with a new key, {after.fingerprint[:15]}..." in log
        assert ": 401" not in log

    handed_over.unlink()  # as systemd does with the runtime directory
    with service.running():
        line.present(99)
        wait_until(lambda: len(pipe.rows()) == len(tags) + 1, what="a swipe after the next start")


def test_the_next_rotation_goes_back_to_the_first_slot(service: Service) -> None:
    with service.running():
        first, second = service.rotate(), service.rotate()

    assert first == ("RSA_PUBLIC_KEY_2", "RSA_PUBLIC_KEY")
    assert second == ("RSA_PUBLIC_KEY", "RSA_PUBLIC_KEY_2")


def test_a_slot_can_be_named(service: Service) -> None:
    with service.rotating("--slot", "1") as rotation:
        assert rotation.stdout is not None
        text = "".join(iter(rotation.stdout.readline, "\n"))
        rotation.send_signal(signal.SIGINT)

    assert "SET RSA_PUBLIC_KEY='" in text


def test_a_rotation_cut_short_after_the_switch_is_finished_with_the_key_in_place(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd_creds, "ETC", service.machine.etc)
    monkeypatch.setenv("PATH", service.machine.environment["PATH"])
    new = new_key("RSA_PUBLIC_KEY_2")

    with service.running():
        systemd_creds.store(pem(new))
        slots = service.rotate()

        assert slots == ("RSA_PUBLIC_KEY_2", "RSA_PUBLIC_KEY")
        assert service.signs_with() == new.fingerprint
    assert service.stored() == new


def test_doors_of_one_user_take_the_same_new_key(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "next.p8"
    path.touch(mode=0o600)
    path.write_bytes(private_pem(make_key("next")))

    service.rotate("--private-key-file", str(path))

    again = service.machine.run("key", "rotate", "--yes", "--private-key-file", str(path))
    assert service.stored() == load_private_key(path)
    assert again.returncode == 78
    assert "this is the key that the agent uses already" in again.stderr


def test_without_a_running_agent_the_next_start_takes_the_new_key(service: Service) -> None:
    with service.rotating() as rotation:
        assert rotation.stdout is not None
        service.register("".join(iter(rotation.stdout.readline, "\n")))
        rest = rotation.stdout.read()

    assert rotation.returncode == 0
    assert "its next start uses the new key" in rest
    assert service.stored().slot == "RSA_PUBLIC_KEY_2"


def test_an_agent_that_does_not_take_it_up_keeps_the_old_key_registered(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(service.machine.programs, "systemctl", "exit 0")
    patch_machine(service.machine, monkeypatch)
    monkeypatch.setattr("agent.service.key_rotation._RELOAD_TIMEOUT_S", 0.5)
    new = new_key("RSA_PUBLIC_KEY_2")
    service.pipe.alter_user(new.slot, new.public_key_line)

    with service.running():
        systemd_creds.store(pem(new), waiting=True)
        code = main(["key", "rotate", "--yes", "--config", str(service.machine.config)])

    told = capsys.readouterr()
    assert code == 1
    assert "does not use it yet" in told.err
    assert "sudo systemctl restart badge-agent" in told.err
    assert "UNSET" not in told.out


def patch_machine(machine: SetupRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same places for a command in this process."""
    monkeypatch.setattr("agent.keys.systemd_creds.ETC", machine.etc)
    monkeypatch.setattr("agent.service.systemctl.BOOTED", machine.root / "booted")
    monkeypatch.setattr("agent.service.key_rotation.DEFAULT_CONFIG", machine.config)
    monkeypatch.setattr("agent.config.loader.AgentSettings.state_dir", machine.root / "state")
    monkeypatch.setattr("agent.config.loader.AgentSettings.runtime_dir", machine.runtime_dir)
    monkeypatch.setenv("PATH", machine.environment["PATH"])


def test_without_a_terminal_it_says_so_and_does_not_wait(service: Service) -> None:
    done = service.machine.run("key", "rotate")

    assert done.returncode == 2
    assert "add --yes" in done.stderr


# --- an ordinary key file, and the wait -------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path, pipe: EmulatorProcess, line: PtyReader) -> AgentProcess:
    return AgentProcess(
        tmp_path / "door",
        url=pipe.url,
        private_key_file=pipe.private_key_file,
        readers=[reader_table(line.device)],
    )


def test_interrupted_it_goes_on_with_the_same_key(agent: AgentProcess, pipe: EmulatorProcess) -> None:
    command = (sys.executable, "-m", "agent", "key", "rotate", "--config", str(agent.config))
    key_file = pipe.private_key_file
    before = load_private_key(key_file)

    with agent:
        with Terminal(command) as terminal:
            first = _SET.findall(terminal.expect("next try in"))
            assert terminal.interrupted() == 130
        assert load_private_key(key_file) == before

        with Terminal(command) as terminal:
            second = _SET.findall(terminal.expect("next try in"))
            pipe.alter_user(*second[0])
            terminal.expect(f"pid {agent.pid}, not restarted")
            terminal.expect("UNSET RSA_PUBLIC_KEY;")
            assert terminal.ended() == 0

        after = load_private_key(key_file)
        assert first == second == [("RSA_PUBLIC_KEY_2", after.public_key_line)]
        assert agent.status()["key"]["fingerprint"] == after.fingerprint
        assert [path.name for path in key_file.parent.glob("rsa_key.p8*")] == ["rsa_key.p8"]


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [({}, 1, "Snowflake does not know the new key yet"), ({"do": "refuse"}, 69, "no connection to")],
)
def test_unattended_it_gives_up_in_time_and_keeps_the_key_for_the_next_try(
    agent: AgentProcess,
    pipe: EmulatorProcess,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: dict[str, str],
    code: int,
    said: str,
) -> None:
    monkeypatch.setattr("agent.cli.key.rotate._UNATTENDED_S", 0)
    for do in fault.values():
        pipe.fault(do)

    words = ["key", "rotate", "--yes", "--config", str(agent.config)]
    codes = [main(words), main(words)]

    told = capsys.readouterr()
    lines = _SET.findall(told.out)
    assert codes == [code, code]
    assert said in told.err
    assert "continues with the same key" in told.err
    assert lines[0] == lines[1]
    waiting = pipe.private_key_file.with_name("rsa_key.p8.next")
    assert load_private_key(waiting).public_key_line == lines[0][1]
    assert waiting.stat().st_mode & 0o777 == 0o600


def test_a_key_with_a_passphrase_is_followed_by_one_with_the_same(
    agent: AgentProcess,
    pipe: EmulatorProcess,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    passphrase_file = pipe.private_key_file.with_name("passphrase")
    passphrase_file.touch(mode=0o600)
    passphrase_file.write_text("open sesame\n")
    pipe.private_key_file.write_bytes(pem(load_private_key(pipe.private_key_file), b"open sesame"))
    text = agent.config.read_text()
    agent.config.write_text(
        text.replace("[clock]", f'private_key_passphrase_file = "{passphrase_file}"\n[clock]')
    )
    monkeypatch.setattr("agent.cli.key.rotate._UNATTENDED_S", 0)
    words = ["key", "rotate", "--yes", "--config", str(agent.config)]
    assert main(words) == 1  # not registered yet
    ((slot, line),) = _SET.findall(capsys.readouterr().out)
    pipe.alter_user(slot, line)

    code = main(words)

    assert code == 0
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in pipe.private_key_file.read_bytes()
    assert load_private_key(pipe.private_key_file, passphrase_file).public_key_line == line
