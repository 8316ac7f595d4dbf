"""The real process under a watchdog: when it is notified, and when not, so that systemd would restart it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.log.message_ids import MessageId
from tests.support.agent_process import AgentProcess, PtyReader, reader_table
from tests.support.emulator_process import EmulatorProcess
from tests.support.needs import SYSTEMD_PYTHON, needs
from tests.support.service_manager import ServiceManager
from tests.support.swipes import wait_until

WATCHDOG_S = 0.6  # three notifications in this time
HUNG_S = 2.0  # well above what a thread waits for a busy processor
IMPATIENT = f"""
from agent.service import supervisor
supervisor._READER_HUNG_S = supervisor._WRITER_HUNG_S = supervisor._UPLOADER_HUNG_S = {HUNG_S}
"""
# Twice as long as it is hung, and several times as long as feeding takes.
LONG_S = 4.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    needs(SYSTEMD_PYTHON)
    with ServiceManager(tmp_path / "manager", watchdog_s=WATCHDOG_S) as manager:
        yield manager


@pytest.fixture
def agent(
    tmp_path: Path, pipe: EmulatorProcess, line: PtyReader, manager: ServiceManager
) -> Iterator[AgentProcess]:
    with AgentProcess(
        tmp_path / "door",
        url=pipe.url,
        private_key_file=pipe.private_key_file,
        readers=[reader_table(line.device)],
        tables=f'[cardholders]\nfile = "{tmp_path / "cardholders.csv"}"',
        under=manager,
        but_first=IMPATIENT,
    ) as agent:
        yield agent


def feedings(manager: ServiceManager) -> int:
    return manager.heard("WATCHDOG=1")


def wait_until_fed(manager: ServiceManager) -> None:
    before = feedings(manager)
    wait_until(lambda: feedings(manager) >= before + 3, what="watchdog notifications")


def is_starved(manager: ServiceManager) -> bool:
    """Whether nothing comes for twice the time after which systemd would start it again."""
    before = feedings(manager)
    time.sleep(2 * WATCHDOG_S)
    return feedings(manager) == before


def test_a_reader_at_which_nobody_swipes_and_an_idle_uploader_are_well(
    agent: AgentProcess, manager: ServiceManager
) -> None:
    time.sleep(LONG_S)

    wait_until_fed(manager)
    assert "hangs" not in agent.log


def test_a_dead_network_is_no_reason_to_start_again(
    agent: AgentProcess, manager: ServiceManager, pipe: EmulatorProcess, line: PtyReader
) -> None:
    pipe.kill()
    line.present(1)
    wait_until(lambda: agent.status()["uploader"]["state"] == "waiting", what="an uploader that found nobody")

    time.sleep(LONG_S)

    wait_until_fed(manager)
    assert "hangs" not in agent.log


def test_a_reader_that_is_unplugged_is_no_reason_to_start_again(
    agent: AgentProcess, manager: ServiceManager, line: PtyReader
) -> None:
    line.unplug()
    wait_until(lambda: agent.status()["readers"][0]["state"] == "lost", what="a lost reader")

    time.sleep(LONG_S)

    wait_until_fed(manager)
    assert "hangs" not in agent.log


def test_a_writer_that_hangs_starves_the_watchdog_and_is_named_once(
    tmp_path: Path, agent: AgentProcess, manager: ServiceManager, line: PtyReader
) -> None:
    wait_until_fed(manager)
    os.mkfifo(tmp_path / "cardholders.csv")  # opening it never returns
    line.present(1)
    wait_until(lambda: "writer: hangs" in agent.log, what="a hanging thread")

    starved = is_starved(manager)
    (tmp_path / "cardholders.csv").write_text("badge_id,user_id\n")  # lets it go on

    assert starved
    wait_until(lambda: "writer: responds again" in agent.log, what="a thread that goes on")
    wait_until_fed(manager)
    assert agent.log.count(" hangs;") == 1


def test_an_uploader_that_hangs_starves_the_watchdog(
    agent: AgentProcess, manager: ServiceManager, pipe: EmulatorProcess, line: PtyReader
) -> None:
    pipe.fault(
        "delay", on="append", seconds=20
    )  # an honest request here, but longer than this agent's patience
    line.present(1)

    wait_until(lambda: "uploader: hangs" in agent.log, what="a hanging thread")

    assert is_starved(manager)


def test_a_process_that_stands_still_starves_the_watchdog(
    agent: AgentProcess, manager: ServiceManager
) -> None:
    wait_until_fed(manager)
    os.kill(agent.pid, signal.SIGSTOP)
    time.sleep(WATCHDOG_S)  # what is on its way arrives

    starved = is_starved(manager)
    os.kill(agent.pid, signal.SIGCONT)

    assert starved
    wait_until_fed(manager)


def test_systemd_is_told_of_the_readiness_before_anything_else_and_of_the_end(
    agent: AgentProcess, manager: ServiceManager
) -> None:
    agent.end()

    assert [manager.heard(field) for field in ("READY=1", "STOPPING=1")] == [1, 1]
    states = [told for told in manager.told if told.startswith(("READY=1", "WATCHDOG=1", "STOPPING=1"))]
    assert states[0].startswith("READY=1")
    assert states[-1] == "STOPPING=1"


def test_a_hanging_thread_is_an_event_of_its_reader(
    tmp_path: Path, pipe: EmulatorProcess, line: PtyReader
) -> None:
    hang = "from agent.readers.swipe_pipeline import SwipePipeline\nimport time\n"
    hang += "SwipePipeline.process = lambda *_: time.sleep(20)\n"
    with (
        ServiceManager(tmp_path / "manager", watchdog_s=WATCHDOG_S, has_journal=True) as manager,
        AgentProcess(
            tmp_path / "door",
            url=pipe.url,
            private_key_file=pipe.private_key_file,
            readers=[reader_table(line.device)],
            under=manager,
            but_first=IMPATIENT + hang,
        ),
    ):
        line.present(1)

        wait_until(lambda: bool(manager.logged(MESSAGE_ID=MessageId.THREAD_HUNG)), what="a hanging thread")

        (entry,) = manager.logged(MESSAGE_ID=MessageId.THREAD_HUNG)
        assert (entry["READER"], entry["PRIORITY"]) == ("RDR-101", "3")
