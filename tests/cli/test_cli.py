from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from agent import __version__
from agent.cli import COMMANDS, config_option, main
from agent.errors import AgentError, ConfigError, NotPermittedError

Stand = Callable[[Callable[..., object]], None]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Puts a function in the place of the command `status`."""

    def put(function: Callable[..., object]) -> None:
        module = SimpleNamespace(command=click.command("status")(function))
        monkeypatch.setitem(sys.modules, "agent.cli.status", module)

    return put


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([name, "--help"])

    assert code == 0
    assert capsys.readouterr().out.startswith(f"Usage: badge-agent {name} ")


@pytest.mark.parametrize(
    "level", [[], ["key"], ["key", "generate"], ["key", "fingerprint"], ["key", "public"]]
)
def test_the_help_of_every_level_has_an_example(level: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*level, "--help"])

    usage, _, rest = capsys.readouterr().out.partition("\n")
    assert usage.startswith("Usage: ")
    assert " ".join(["badge-agent", *level]) in rest


def test_the_help_lists_every_command_and_imports_none() -> None:
    heavy = (
        "rich",
        "http.client",
        "cryptography",
        "serial",
        "agent.config.loader",
        *(f"agent.cli.{name}" for name in COMMANDS),
    )

    done = process(
        "-c",
        "import sys, agent.cli; agent.cli.main(['--help']); "
        f"sys.exit(' '.join(set(sys.modules) & set({heavy!r})) or 0)",
    )

    assert done.returncode == 0, done.stderr
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


def test_python_m_agent_is_the_command() -> None:
    done = process("-m", "agent", "--version")

    assert done.returncode == 0
    assert done.stdout == f"badge-agent {__version__}\n"


def test_a_shell_can_complete_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_BADGE_AGENT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "badge-agent k")
    monkeypatch.setenv("COMP_CWORD", "1")

    done = process("-m", "agent")

    assert done.stdout == "plain,key\n"


def test_an_error_is_said_with_its_problems_and_the_next_step(
    stand_in: Stand, capsys: pytest.CaptureFixture[str]
) -> None:
    @stand_in
    def _fail() -> None:
        raise ConfigError(
            "c.toml: 2 problems",
            hint="correct the file",
            problems=["readers[0].baudrate: found 1", "agent.id: no"],
        )

    code = main(["status"])

    captured = capsys.readouterr()
    assert code == 78
    assert captured.out == ""
    assert captured.err == (
        "error: c.toml: 2 problems\n"
        "  - readers[0].baudrate: found 1\n"
        "  - agent.id: no\n"
        "  next: correct the file\n"
    )


@pytest.mark.parametrize(("error", "code"), [(NotPermittedError("no"), 77), (AgentError("no"), 1)])
def test_an_error_ends_with_its_own_exit_code(
    stand_in: Stand, capsys: pytest.CaptureFixture[str], error: AgentError, code: int
) -> None:
    @stand_in
    def _fail() -> None:
        raise error

    assert main(["status"]) == code
    assert capsys.readouterr().err == "error: no\n"


@pytest.mark.parametrize("arguments", [["nope"], ["--nope"], ["key", "nope"], ["--config"]])
def test_wrong_usage_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Error: " in capsys.readouterr().err


def test_what_a_command_returns_is_its_exit_code(stand_in: Stand) -> None:
    stand_in(lambda: 1)

    assert main(["status"]) == 1


def test_ctrl_c_is_exit_130_without_a_traceback(stand_in: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    @stand_in
    def _interrupted() -> None:
        raise KeyboardInterrupt

    assert main(["status"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_is_one_line_that_quotes_nothing(stand_in: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    @stand_in
    def _broken() -> None:
        raise ValueError("card 11223")

    code = main(["status"])

    err = capsys.readouterr().err
    assert code == 1
    assert err.startswith(f"error: badge-agent {__version__} stopped with an unexpected ValueError\n  next: ")
    assert "BADGE_AGENT_TRACEBACK=1" in err
    assert "11223" not in err


def test_the_traceback_of_a_bug_is_there_for_the_asking(
    stand_in: Stand, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BADGE_AGENT_TRACEBACK", "1")

    @stand_in
    def _broken() -> None:
        raise ValueError("what went wrong")

    assert main(["status"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["key", "--help"]])
def test_a_closed_pipe_is_silent(arguments: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "agent", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        err = running.stderr.read()

    assert err == b""
    assert running.returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        *([name, "--help"] for name in COMMANDS),
        ["--version"],
        ["protocols"],
        ["protocols", "--json"],
        ["decode", "bits", "26:2F657AE"],
        ["sql", "setup", "--help"],
    ],
    ids=" ".join,
)
def test_a_full_disk_where_the_output_goes_is_74_and_said_in_plain_words(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "agent", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.stderr == (
        "error: no space left on the device that this command writes to; the output is incomplete\n"
        "  next: free some space or write the output to another device, then run it again\n"
    )
    assert done.returncode == 74


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["status"], "", "/etc/badge-agent/config.toml"),
        (["status"], "env.toml", "env.toml"),
        (["--config", "before.toml", "status"], "env.toml", "before.toml"),
        (["status", "--config", "after.toml"], "env.toml", "after.toml"),
        (["--config", "before.toml", "status", "--config", "after.toml"], "", "after.toml"),
    ],
)
def test_the_configuration_is_named_before_or_after_the_command(
    stand_in: Stand, monkeypatch: pytest.MonkeyPatch, arguments: list[str], environment: str, expected: str
) -> None:
    monkeypatch.setenv("BADGE_AGENT_CONFIG", environment)
    seen: list[Path] = []

    @stand_in
    @config_option
    def _see(config: Path) -> None:
        seen.append(config)

    assert main(arguments) == 0
    assert seen == [Path(expected)]
