"""The commands in the README exist and work."""

from __future__ import annotations

import re
import shlex

import pytest
from click.testing import CliRunner

from agent.cli import COMMANDS, _group
from agent.log.message_ids import MessageId
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()
NAMED = sorted(set(re.findall(r"(?:`|    |bin/|sudo )badge-agent ([a-z][a-z-]+)", README)))
RUNNABLE = re.findall(r"`badge-agent (decode [^`]+|protocols)`", README)
TARGETS = sorted(set(re.findall(r"(?:`|    )make ([a-z-]+)", README)))


@pytest.mark.parametrize("command", NAMED)
def test_every_command_it_names_exists_and_explains_itself(command: str) -> None:
    result = CliRunner().invoke(_group, [command, "--help"])

    assert command in COMMANDS
    assert result.exit_code == 0


@pytest.mark.parametrize("line", RUNNABLE)
def test_examples_that_need_no_reader_work_as_written(line: str) -> None:
    result = CliRunner().invoke(_group, shlex.split(line.replace("\n", " ")))

    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("target", TARGETS)
def test_every_make_target_it_names_is_there(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()

    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_every_command_is_in_it() -> None:
    assert set(COMMANDS) - set(re.findall(r"[`, ]([a-z][a-z-]+)`", README)) - set(NAMED) == set()


def test_every_event_worth_an_alarm_is_in_it_once() -> None:
    ids = re.findall(r"`([0-9a-f]{32})`", README)

    assert sorted(ids) == sorted(MessageId)
