from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.log import journal
from agent.log.message_ids import MessageId, fields
from tests.support.agent_process import AGENT_ID, AgentProcess, PtyReader, reader_table
from tests.support.paths import ROOT
from tests.support.service_manager import ServiceManager
from tests.support.swipes import wait_until

NOBODY_LISTENS = "http://127.0.0.1:9"  # the discard port
SET_UP = """
import logging
from agent.errors import PortBusyError
from agent.log.message_ids import MessageId, fields
from agent.log import journal
journal.set_up("debug")
log = logging.getLogger("agent.test")
"""
ALWAYS = {"CODE_FILE", "CODE_LINE", "CODE_FUNC", "LOGGER", "MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path / "manager", has_journal=True) as manager:
        yield manager


def say(manager: ServiceManager, code: str, *, before: str = "") -> str:
    """Run a few lines of Python as a service; returns what it wrote to stderr instead of the journal."""
    with (manager.directory / "stderr").open("wb+") as stderr:
        subprocess.run(
            manager.command([sys.executable, "-c", before + SET_UP + code]),
            env=manager.environment(stderr.fileno()),
            stderr=stderr,
            cwd=ROOT,
            check=True,
        )
        stderr.seek(0)
        return stderr.read().decode()


def test_a_line_has_its_fields(manager: ServiceManager) -> None:
    code = """
error = PortBusyError("/dev/ttyUSB0 is held by process 7")
told = fields(MessageId.READER_LOST, reader="RDR-101", seq=12, channel="hq-lobby-1-0a1b", error=error)
log.warning("reader %s: %s", "RDR-101", error, extra=told)
"""

    on_stderr = say(manager, code)

    assert on_stderr == ""
    (entry,) = manager.logged(MESSAGE="reader RDR-101: /dev/ttyUSB0 is held by process 7")
    assert entry["MESSAGE_ID"] == MessageId.READER_LOST
    assert (entry["READER"], entry["SEQ"], entry["CHANNEL"]) == ("RDR-101", "12", "hq-lobby-1-0a1b")
    assert (entry["ERROR_CODE"], entry["PRIORITY"]) == ("PortBusyError", "4")
    assert (entry["SYSLOG_IDENTIFIER"], entry["LOGGER"]) == ("badge-agent", "agent.test")
    assert entry["CODE_FUNC"] == "<module>"


def test_a_line_has_nothing_but_what_it_says_and_the_fields_it_names(manager: ServiceManager) -> None:
    code = """
try:
    int("card 02F657AE")
except ValueError as error:
    log.error("died of %s", type(error).__name__, exc_info=True)
log.info("%.0s", "card 02F657AE")
"""

    say(manager, code)

    assert [entry.keys() for entry in manager.entries] == [ALWAYS, ALWAYS]
    assert b"02F657AE" not in b"".join(manager.datagrams)


def test_a_line_about_a_port_has_a_field_for_each_of_its_readers() -> None:
    record = logging.makeLogRecord({"name": "agent", "msg": "hangs", **fields(reader="IN, OUT")})

    entry = journal._entry(record).splitlines()

    assert [line for line in entry if line.startswith(b"READER=")] == [b"READER=IN", b"READER=OUT"]


def test_what_has_several_lines_is_one_entry(manager: ServiceManager) -> None:
    say(manager, r'log.error("died of %s\n%s", "ValueError", "  in body\n  in keep")')

    assert [entry["MESSAGE"] for entry in manager.entries] == ["died of ValueError\n  in body\n  in keep"]


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)]
)
def test_an_entry_has_the_priority_of_its_line(manager: ServiceManager, level: str, priority: int) -> None:
    say(manager, f'log.{level}("something")')

    assert [entry["PRIORITY"] for entry in manager.entries] == [str(priority)]


def test_without_the_socket_lines_have_their_priority(manager: ServiceManager) -> None:
    on_stderr = say(
        manager,
        r'log.error("first\nsecond", extra=fields(MessageId.THREAD_DIED))',
        before="import os; os.unlink('/run/systemd/journal/socket')",
    )

    assert on_stderr == "<3>first\n<3>second\n"
    assert manager.entries == []


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.unlink('/run/systemd/journal/socket'); log.info('something')",
        "log.info('something' + ' ' * 1_000_000)",
    ],
    ids=["no journal", "too long"],
)
def test_a_line_that_the_journal_does_not_take_comes_out_of_stderr(
    manager: ServiceManager, code: str
) -> None:
    on_stderr = say(manager, code)

    assert on_stderr.rstrip() == "<6>something"
    assert manager.entries == []


# --- what an operator alerts on --------------------------------------------------------------------


def test_the_life_of_an_agent_can_be_followed_by_its_events(
    tmp_path: Path, manager: ServiceManager, rsa_key_file: Path
) -> None:
    with (
        PtyReader(tmp_path / "reader") as line,
        AgentProcess(
            tmp_path / "door",
            url=NOBODY_LISTENS,
            private_key_file=rsa_key_file,
            readers=[reader_table(line.device)],
            under=manager,
        ) as agent,
    ):
        wait_until(
            lambda: bool(manager.logged(MESSAGE_ID=MessageId.SNOWFLAKE_UNREACHABLE)),
            what="a pipe that is away",
        )
        line.unplug()
        wait_until(lambda: bool(manager.logged(MESSAGE_ID=MessageId.READER_LOST)), what="a lost reader")
        line.plug_in()
        wait_until(
            lambda: bool(manager.logged(MESSAGE_ID=MessageId.READER_BACK)), what="a reader that is back"
        )
        agent.end()

    (away,) = manager.logged(MESSAGE_ID=MessageId.SNOWFLAKE_UNREACHABLE)
    assert away["CHANNEL"].startswith(f"{AGENT_ID}-")
    assert away["ERROR_CODE"] == "UnreachableError"
    for event in (MessageId.READER_LOST, MessageId.READER_BACK):
        (entry,) = manager.logged(MESSAGE_ID=event)
        assert entry["READER"] == "RDR-101"
    assert len(manager.logged(MESSAGE_ID=MessageId.READY, PRIORITY="6")) == 1
    assert len(manager.logged(MESSAGE_ID=MessageId.STOPPED)) == 1
    assert agent.log == ""


def test_an_agent_that_cannot_start_says_why_in_one_entry(
    tmp_path: Path, manager: ServiceManager, rsa_key_file: Path
) -> None:
    agent = AgentProcess(
        tmp_path / "door",
        url=NOBODY_LISTENS,
        private_key_file=rsa_key_file,
        readers=['id = "RDR-101"\nbaud_rate = 9600'],
        under=manager,
    )

    agent.start(wait=False)

    assert agent.ended() == 78
    (entry,) = manager.logged(MESSAGE_ID=MessageId.GAVE_UP)
    assert (entry["PRIORITY"], entry["ERROR_CODE"]) == ("2", "ConfigError")
    assert "\n  - readers[0].baud_rate: " in entry["MESSAGE"]
    assert agent.log == ""
