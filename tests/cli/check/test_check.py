from __future__ import annotations

import re
import threading
import tomllib
from collections.abc import Iterator, Sequence
from importlib import metadata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import main
from agent.cli.check import LIBRARIES
from agent.cli.check.runner import Found, Step, in_order, within
from agent.cli.console import Finding
from agent.errors import AgentError, ConfigError, OutboxError
from tests.support.cli_rig import CLOSED, Check, CliRig
from tests.support.paths import ROOT


def test_a_door_in_order_passes_every_step(check: Check) -> None:
    checked = check()

    assert (checked.code, checked.ok, checked.failed) == (0, True, [])
    assert [one["name"] for one in checked.findings] == [
        *("context", "Python", "libraries", "config", "key file", "account", "reader RDR-101", "cardholders"),
        *("outbox", "disk", "clock", "host name", "TLS", "JWT", "server clock", "ingest host"),
        *("scoped token", "channel", "door events", "large request"),
    ]


def test_every_failure_says_what_to_do_next(door: CliRig, check: Check) -> None:
    door.configure(
        port="/dev/no-such-reader", private_key_file="missing.p8", cardholders="missing.csv", url=CLOSED
    )

    checked = check()

    assert checked.failed == ["key file", "reader RDR-101", "cardholders", "TLS"]
    assert all(one["next"] for one in checked.findings if one["state"] == "failed")


def test_the_first_failure_gives_the_exit_code(door: CliRig, check: Check) -> None:
    door.configure(port="/dev/no-such-reader", url=CLOSED)
    reader_first = check()
    door.configure(private_key_file="missing.p8")

    assert (reader_first.code, check().code) == (1, 78)


def test_offline_asks_nobody(door: CliRig, check: Check) -> None:
    door.configure(url=CLOSED)

    checked = check("--offline")

    assert checked.code == 0
    assert checked.findings[-1]["name"] == "clock"


def test_a_person_reads_states_and_the_next_step_below(
    door: CliRig, capsys: pytest.CaptureFixture[str]
) -> None:
    door.configure(port="/dev/no-such-reader")

    main(["check", "--offline", "--config", str(door.config)])

    out = capsys.readouterr().out
    assert "\nok       config: " in out
    assert (
        "\nfailed   reader RDR-101: /dev/no-such-reader is not there\n"
        "         next: is the reader plugged in? ls -l /dev/serial/by-id/\n"
    ) in out


def test_every_problem_of_a_configuration_is_a_finding(door: CliRig, check: Check) -> None:
    door.config.write_text("[agent]\nlog_level = 'loud'\nid = ' '\n")

    checked = check()

    assert checked.code == 78
    assert set(checked.failed) == {"config"}
    texts = " ".join(one["text"] for one in checked.findings)
    assert "agent.log_level" in texts
    assert "agent.id" in texts
    assert "snowflake.pipe" in texts
    assert "everything else" in checked.named("not checked")["text"]


def test_what_to_do_about_a_configuration_is_printed_once(
    door: CliRig, capsys: pytest.CaptureFixture[str]
) -> None:
    door.config.write_text("[agent]\nlog_level = 'loud'\nid = ' '\n")

    main(["check", "--config", str(door.config)])

    assert capsys.readouterr().out.count("next: correct the file") == 1


def test_a_missing_library_comes_with_its_package(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "pyserial":
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(metadata, "version", version)

    checked = check()

    assert checked.named("libraries")["next"] == "sudo apt install python3-serial"
    assert "config" in checked.named("not checked")["text"]


def test_the_libraries_looked_at_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    names = {re.split("[>=<]", dependency)[0] for dependency in project["dependencies"]}

    assert set(LIBRARIES) == names


# --- the walk itself ------------------------------------------------------------------------


def step(name: str, *needs: str, error: Exception | None = None) -> Step:
    def look() -> Iterator[Finding]:
        if error is not None:
            raise error
        yield Finding(name, "ok", "")

    return Step(name, look, needs)


def names(founds: Sequence[Found], state: str) -> list[str]:
    return [found.finding.name for found in founds if found.finding.state == state]


@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 9))), max_size=10))
def test_every_step_is_found_or_named_as_not_tried(plan: list[tuple[bool, set[int]]]) -> None:
    steps = [
        step(f"s{at}", *(f"s{need}" for need in needs if need < at), error=None if well else OutboxError("x"))
        for at, (well, needs) in enumerate(plan)
    ]

    founds = list(in_order(steps))

    tried = names(founds, "ok") + names(founds, "failed")
    untried = [
        name
        for found in founds
        if found.finding.name == "not checked"
        for name in found.finding.text.partition(" (")[0].split(", ")
    ]
    assert sorted(tried + untried) == sorted(one.name for one in steps)
    assert not set(untried) & {one.name for one in steps if not one.needs}


def test_what_a_failed_step_keeps_back_is_said_once_with_the_first_cause() -> None:
    steps = [step("a", error=OutboxError("x")), step("b", "a"), step("c", "b"), step("d")]

    founds = list(in_order(steps))

    assert [found.exit_code for found in founds] == [74, 0, 0]
    assert founds[-1].finding.text == "b, c (needs a)"


def test_problems_of_a_configuration_are_findings_of_their_own() -> None:
    error = ConfigError("c.toml: 2 problems", hint="correct it", problems=("a: wrong", "b: wrong"))

    founds = list(in_order([step("config", error=error)]))

    assert [found.finding.text for found in founds] == ["a: wrong", "b: wrong"]
    assert {found.exit_code for found in founds} == {78}


def test_a_check_that_breaks_is_a_failure_without_the_words_it_broke_on() -> None:
    founds = list(in_order([step("a", error=ValueError("card 123-11223")), step("b")]))

    assert names(founds, "failed") == ["a"]
    assert names(founds, "ok") == ["b"]
    assert "11223" not in founds[0].finding.text


def test_a_walk_that_hangs_comes_to_an_end() -> None:
    hanging = threading.Event()

    def walk() -> Iterator[Found]:
        yield Found(Finding("a", "ok", ""))
        hanging.wait()

    founds = list(within(walk, 0.2))

    hanging.set()
    assert names(founds, "failed") == ["time"]
    assert "last completed check: a;" in founds[-1].finding.text
    assert founds[-1].exit_code == 69


def test_a_walk_that_raises_ends_with_the_reason_and_not_at_the_time_limit() -> None:
    def walk() -> Iterator[Found]:
        yield Found(Finding("a", "ok", ""))
        raise KeyError("11223")

    founds = list(within(walk, 5.0))

    assert names(founds, "failed") == ["check"]
    assert founds[-1].finding.text == "stopped with an unexpected KeyError"


def test_a_walk_that_ends_is_passed_on_whole() -> None:
    founds = list(within(lambda: in_order([step("a"), step("b", error=AgentError("x"))]), 60))

    assert [found.exit_code for found in founds] == [0, 1]
