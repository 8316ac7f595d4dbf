"""The command line: what it prints, what it refuses, and HTTPS."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli import main
from tests.support.emulator_process import (
    EmulatorProcess,
    make_certificate,
    make_key,
    private_pem,
    public_pem,
)
from tests.support.emulator_rig import EmulatorRig, row


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A command line that lacks nothing."""
    key = tmp_path / "rsa_key.pub"
    key.write_bytes(public_pem(make_key()))
    state = tmp_path / "state"
    return [
        "emulator",
        "--port=0",
        f"--public-key={key}",
        "--account=A-B",
        "--user=U",
        f"--state-dir={state}",
    ]


def test_the_first_line_says_where_it_listens(words: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "agent", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        process.send_signal(2)

        rest, code = process.stdout.read(), process.wait()

    assert first.startswith("listening on http://127.0.0.1:")
    assert second.startswith("control on http://127.0.0.1:")
    assert (rest, code) == ("", 0)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.com"])  # noqa: S104 - refused
def test_it_listens_on_loopback_only(words: list[str], host: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([*words, f"--host={host}"])

    assert code == 78
    assert f"listens on loopback only, not on {host}" in capsys.readouterr().err


def test_a_port_in_use_is_said_to_be_in_use(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        code = main([*words, f"--port={port}"])

    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_a_private_key_is_not_a_public_key(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rsa_key.p8"
    path.write_bytes(private_pem(make_key()))

    code = main([*words, f"--public-key={path}"])

    assert code == 78
    assert f"{path}: not a public key in PEM form" in capsys.readouterr().err


def test_a_missing_key_file_is_named(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([*words, f"--public-key={tmp_path}/missing.pub"])

    assert code == 78
    assert "missing.pub: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--tls-cert", "--tls-key"])
def test_certificate_and_key_belong_together(
    words: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([*words, f"{option}={words[2].partition('=')[2]}"])

    assert code == 78
    assert "belong together" in capsys.readouterr().err


def test_a_certificate_that_is_none_is_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    public_key = words[2].partition("=")[2]

    code = main([*words, f"--tls-cert={public_key}", f"--tls-key={public_key}"])

    assert code == 78
    assert f"{public_key}: cannot be used with its key" in capsys.readouterr().err


def test_a_state_directory_that_cannot_be_made_is_named(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").write_text("a file is in the way")

    code = main([*words[:-1], f"--state-dir={tmp_path}/state/below"])

    assert code == 1
    assert "state/below" in capsys.readouterr().err


def test_a_missing_extra_gets_one_sentence(words: list[str]) -> None:
    # None in sys.modules is how Python says that a module is not there.
    program = (
        "import sys; sys.modules['aiohttp'] = None; from agent.cli import main; sys.exit(main(sys.argv[1:]))"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 78
    assert "pip install 'badge-agent[emulator]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_speaks_https_with_a_given_certificate(tmp_path: Path) -> None:
    ca, certificate, key = make_certificate(tmp_path)
    with EmulatorProcess(tmp_path, tls=(certificate, key)) as emulator:
        door = EmulatorRig(emulator.url, verify=str(ca)).opened()

        door.append([row()], "1")

        assert emulator.url.startswith("https://127.0.0.1:")
        assert door.committed("1")["rows_inserted"] == 1
