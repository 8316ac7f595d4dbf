"""A real agent on a damaged outbox, killed again and again: every readable swipe arrives once, in order."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from agent.outbox import Outbox
from agent.outbox.database import PAGE_BYTES
from tests.support.agent_process import AGENT_ID, AgentProcess, PtyReader, reader_table, sent_rows
from tests.support.emulator_process import EmulatorProcess
from tests.support.outbox_rig import keep, looked_up
from tests.support.swipes import wait_until

ROWS = 20_000
# Small steps, so that a kill finds the recovery under way.
_SLOWLY = "from agent.outbox.recovery import row_mover; row_mover._STEP_ROWS = 50"


def damage(state_dir: Path) -> set[int]:
    """Zero one page of rows in the middle; the cards that may be lost with it."""
    path = state_dir / "outbox.db"
    content = bytearray(path.read_bytes())
    at = content.index(f'"card_raw":"{ROWS // 2:010X}"'.encode()) // PAGE_BYTES * PAGE_BYTES
    page = bytes(content[at : at + PAGE_BYTES])
    found = [int(part[:10], 16) for part in page.split(b'"card_raw":"')[1:] if len(part) >= 10]
    content[at : at + PAGE_BYTES] = bytes(PAGE_BYTES)
    path.write_bytes(content)
    return set(range(min(found) - 1, max(found) + 2))


def new_rows(state_dir: Path) -> int:
    ((count,),) = looked_up(state_dir, f"SELECT count(*) FROM swipes WHERE n > {ROWS}")  # noqa: S608
    return int(count)


def wait_for_rows(state_dir: Path, count: int) -> None:
    wait_until(lambda: new_rows(state_dir) == count, what="a swipe stored beside the recovery")


def test_a_kill_during_the_recovery_loses_and_doubles_no_swipe(tmp_path: Path) -> None:
    with (
        EmulatorProcess(tmp_path / "emulator", options=("--no-limits",)) as emulator,
        PtyReader(tmp_path / "reader") as reader,
    ):
        agent = AgentProcess(
            tmp_path / "agent",
            url=emulator.url,
            private_key_file=emulator.private_key_file,
            readers=[reader_table(reader.device)],
            but_first=_SLOWLY,
        )
        with closing(Outbox(agent.state_dir, agent_id=AGENT_ID)) as outbox:
            keep(outbox, ROWS)
        lost = damage(agent.state_dir)

        with agent:
            for number in range(1, 6):
                reader.present(ROWS + number)
                wait_for_rows(agent.state_dir, number)
                agent.kill()
                agent.start()
            wait_until(lambda: agent.outbox().recovery is None, what="the end of the recovery", timeout_s=120)
            wait_until(lambda: agent.outbox().pending == 0, what="delivery", timeout_s=120)

            status = agent.status()

        cards = [int(row["card_raw"], 16) for row in sent_rows(emulator)]
        assert status["uploader"]["reason"] is None
        assert cards == sorted(set(cards))
        assert set(cards) >= set(range(1, ROWS + 6)) - lost
        assert cards[-5:] == list(range(ROWS + 1, ROWS + 6))
