from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from agent.readers.events import raw_hex
from tests.support.agent_process import (
    AGENT_ID,
    AgentProcess,
    PtyReader,
    assert_in_order_and_whole,
    bits_line,
    h10301,
    has_clock,
    raws,
    rdm6300_frame,
    reader_table,
    sent_rows,
)
from tests.support.emulator_process import EmulatorProcess, is_append_of_swipes
from tests.support.service_manager import ServiceManager
from tests.support.swipes import wait_until

# TimeoutStopSec= of the unit: systemd kills what takes longer. On an idle machine it takes less than 5 s.
STOP_SECONDS = 15.0


@pytest.fixture
def agent(tmp_path: Path, pipe: EmulatorProcess, line: PtyReader) -> Iterator[AgentProcess]:
    with a_door(tmp_path / "door", pipe, reader_table(line.device)) as agent:
        yield agent


def a_door(
    directory: Path,
    pipe: EmulatorProcess,
    *readers: str,
    tables: str = "",
    log_level: str = "info",
    under: ServiceManager | None = None,
) -> AgentProcess:
    return AgentProcess(
        directory,
        url=pipe.url,
        private_key_file=pipe.private_key_file,
        readers=readers,
        tables=tables,
        log_level=log_level,
        under=under,
    )


def has_kept(agent: AgentProcess, swipes: int) -> bool:
    return agent.outbox().last_seq == swipes


# --- delivery -------------------------------------------------------------------------------


def test_three_hundred_swipes_at_twenty_a_second_are_three_hundred_right_rows(
    agent: AgentProcess, pipe: EmulatorProcess, line: PtyReader
) -> None:
    tags = range(0x01_0000_0001, 0x01_0000_0001 + 300)
    before = datetime.now(UTC)

    line.present_steadily(tags, per_second=20)

    agent.wait_until_committed(300)
    after = datetime.now(UTC)
    rows = sent_rows(pipe)
    assert_in_order_and_whole(rows, tags)
    outbox_id = agent.outbox().outbox_id
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for row, tag in zip(rows, tags, strict=True):
        expected = {
            "badge_id": f"40:{raw_hex(40, tag)}",
            "user_id": "UNKNOWN",
            "zone_id": "ZONE-LOBBY-1",
            "reader_id": "RDR-101",
            "event_timestamp": row["event_timestamp"],
            "direction": "ENTRY",
            "event_id": str(uuid.UUID(row["event_id"])),
            "agent_id": AGENT_ID,
            "outbox_id": outbox_id,
            "seq": row["seq"],
            "chain": row["chain"],
            "card_bits": 40,
            "card_raw": raw_hex(40, tag),
            "card_check": "checksum",
            "clock": row["clock"],
            "boot_id": boot_id[:8],
            "boot_ms": row["boot_ms"],
            "person_salt": row["person_salt"],
        }
        assert has_clock(row, "synced")
        if row["clock"] != "synced":
            expected |= {name: row[name] for name in ("time_uncertainty_ms", "recorded_at")}
        assert row == expected | ({"chain_before": outbox_id} if row["seq"] == 1 else {})
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", row["event_timestamp"])
        assert re.fullmatch(r"[0-9a-f]{16}", row["person_salt"])
    times = [datetime.fromisoformat(row["event_timestamp"]) for row in rows]
    assert before <= times[0] + timedelta(milliseconds=rows[0].get("time_uncertainty_ms", 0))
    assert times[-1] <= after
    assert times == sorted(times)
    assert [row["boot_ms"] for row in rows] == sorted(row["boot_ms"] for row in rows)


def test_a_thousand_swipes_in_five_seconds_are_a_thousand_rows(
    agent: AgentProcess, pipe: EmulatorProcess, line: PtyReader
) -> None:
    tags = range(1, 1001)

    # Within less than the ten seconds after which a disk that is short of space takes no more of them.
    line.present_steadily(tags, per_second=200)

    agent.wait_until_committed(1000)
    assert_in_order_and_whole(sent_rows(pipe), tags)
    # Over the whole time, not within any second: a busy machine may deliver two seconds' requests in one.
    arrived = [request["arrived_ns"] for request in pipe.state()["seen"]]
    assert len(arrived) <= 10 * ((arrived[-1] - arrived[0]) / 1e9 + 1)


def test_a_wiegand_card_is_decoded_and_has_its_badge_and_its_holder(
    tmp_path: Path, pipe: EmulatorProcess, line: PtyReader
) -> None:
    (tmp_path / "cardholders.csv").write_text("badge_id,user_id\n123-0000045015,USR-001\n")
    reader = reader_table(
        line.device,
        protocol="bits",
        more='badge_id = "{facility_code}-{card_number:010d}"',
    )
    tables = f'[cardholders]\nfile = "{tmp_path}/cardholders.csv"'

    with a_door(tmp_path / "door", pipe, reader, tables=tables) as agent:
        line.write(bits_line(26, h10301(123, 45_015)) + bits_line(36, 0x2_0000_0001))
        agent.wait_until_committed(2)

    decoded, other = sent_rows(pipe)
    assert decoded["badge_id"] == "123-0000045015"
    assert decoded["user_id"] == "USR-001"
    assert (decoded["card_bits"], decoded["card_raw"]) == (26, raw_hex(26, h10301(123, 45_015)))
    assert (decoded["card_format"], decoded["facility_code"], decoded["card_number"]) == (
        "H10301",
        123,
        45_015,
    )
    assert decoded["card_check"] == "parity"
    assert (other["badge_id"], other["user_id"]) == ("36:200000001", "UNKNOWN")
    assert "card_format" not in other


def test_readers_of_one_door_share_one_numbering(tmp_path: Path, pipe: EmulatorProcess) -> None:
    with (
        PtyReader(tmp_path / "in") as entry,
        PtyReader(tmp_path / "out") as leave,
        a_door(
            tmp_path / "door",
            pipe,
            reader_table(entry.device, reader_id="RDR-IN"),
            reader_table(leave.device, reader_id="RDR-OUT"),
        ) as agent,
    ):
        threads = [
            threading.Thread(target=line.present_steadily, args=(range(1, 101), 200))
            for line in (entry, leave)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        agent.wait_until_committed(200)

    rows = sent_rows(pipe)
    assert [row["seq"] for row in rows] == list(range(1, 201))
    for reader_id in ("RDR-IN", "RDR-OUT"):
        assert [row["card_raw"] for row in rows if row["reader_id"] == reader_id] == raws(range(1, 101))


def test_noise_makes_no_row_and_hides_no_card(
    agent: AgentProcess, pipe: EmulatorProcess, line: PtyReader
) -> None:
    broken = bytearray(rdm6300_frame(7))
    broken[-2] ^= 1

    line.write(b"\x00\xff garbage \r\n" + bytes(broken) + rdm6300_frame(8)[:9] + b"\x02" * 5000)
    line.present(9)
    line.write(rdm6300_frame(10)[:5])

    agent.wait_until_committed(1)
    wait_until(lambda: agent.status()["readers"][0]["noise"] >= 4, what="counted noise")
    assert [row["card_raw"] for row in sent_rows(pipe)] == raws([9])
    assert agent.status()["readers"][0]["swipes"] == 1


def test_an_unplugged_reader_is_read_again_when_it_is_back(
    agent: AgentProcess, pipe: EmulatorProcess, line: PtyReader
) -> None:
    line.present(1)
    agent.wait_until_committed(1)

    line.unplug()
    wait_until(lambda: agent.status()["readers"][0]["state"] == "lost", what="a lost reader")
    line.plug_in()
    wait_until(lambda: agent.status()["readers"][0]["state"] == "open", what="an open reader")
    line.present(2)

    agent.wait_until_committed(2)
    assert_in_order_and_whole(sent_rows(pipe), [1, 2])


# --- stopping and starting ------------------------------------------------------------------


def test_a_stop_in_the_middle_and_a_new_start_lose_and_double_nothing(
    agent: AgentProcess, pipe: EmulatorProcess, line: PtyReader
) -> None:
    for first in (1, 101, 201):
        line.present_steadily(range(first, first + 100), per_second=200)
        code, seconds = agent.end()
        agent.start()

        assert code == 0
        assert seconds < STOP_SECONDS

    agent.wait_until_committed(300)
    assert_in_order_and_whole(sent_rows(pipe), range(1, 301))


def test_a_power_cut_in_the_middle_loses_no_kept_swipe_and_doubles_none(
    agent: AgentProcess, pipe: EmulatorProcess, line: PtyReader
) -> None:
    for first in (1, 101):
        tags = range(first, first + 100)
        line.present_steadily(tags, per_second=200)
        wait_until(partial(has_kept, agent, tags[-1]), what="kept swipes")
        agent.kill()
        agent.start()

    agent.wait_until_committed(200)
    assert_in_order_and_whole(sent_rows(pipe), range(1, 201))


def test_a_stop_is_obeyed_while_a_request_hangs(
    agent: AgentProcess, pipe: EmulatorProcess, line: PtyReader
) -> None:
    pipe.fault("delay", on="append", seconds=300)
    line.present(1)
    wait_until(lambda: any(map(is_append_of_swipes, pipe.state()["seen"])), what="a hanging append")

    code, seconds = agent.end()

    assert code == 0
    assert seconds < STOP_SECONDS
    pipe.fault("clear")
    agent.start()
    agent.wait_until_committed(1)
    assert_in_order_and_whole(sent_rows(pipe), [1])


def test_an_outage_of_the_pipe_is_bridged(
    agent: AgentProcess, pipe: EmulatorProcess, line: PtyReader
) -> None:
    line.present_steadily(range(1, 51), per_second=200)
    pipe.kill()
    line.present_steadily(range(51, 151), per_second=200)
    wait_until(partial(has_kept, agent, 150), what="kept swipes")

    pipe.start()

    agent.wait_until_committed(150)
    assert_in_order_and_whole(sent_rows(pipe), range(1, 151))


# --- bad input ------------------------------------------------------------------------------


def run(config: Path, timeout_s: float = 20.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", "run", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def test_a_configuration_with_several_mistakes_reports_all_of_them(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        """
[agent]
log_level = "loud"
[[readers]]
id = "RDR-101"
zone_id = "ZONE-LOBBY-1"
port = "/dev/ttyUSB0"
protocol = "rdm6300"
baud_rate = 9600
direction = "BOTH"
[snowflake]
account = "MYORG-MYACCOUNT"
user = "SFE_INGEST_USER"
database = "SNOWFLAKE_EXAMPLE"
schema = "RAW_INGESTION"
private_key_file = "rsa_key.p8"
"""
    )

    result = run(config)

    assert result.returncode == 78
    for path in ("agent.log_level", "readers[0].baud_rate", "readers[0].direction", "snowflake.pipe"):
        assert path in result.stderr


def test_an_agent_without_a_usable_key_keeps_swipes_and_sends_them_once_it_is_replaced(
    tmp_path: Path, pipe: EmulatorProcess, line: PtyReader
) -> None:
    with a_door(tmp_path / "door", pipe, reader_table(line.device)) as agent:
        line.present(1)
        agent.wait_until_committed(1)
        agent.end()
        key = pipe.private_key_file.read_bytes()
        pipe.private_key_file.write_bytes(b"scratched")

        agent.start()
        line.present(2)
        wait_until(lambda: agent.outbox().last_seq == 2, what="the second swipe kept")
        wait_until(lambda: agent.status()["uploader"]["state"] == "holding", what="the reported fault")
        pipe.private_key_file.write_bytes(key)
        os.kill(agent.pid, signal.SIGHUP)

        agent.wait_until_committed(2)
        assert "holds no PEM private key" in agent.log
    assert_in_order_and_whole(sent_rows(pipe), [1, 2])


def test_a_key_that_others_may_read_is_refused_with_the_command_that_helps(
    tmp_path: Path, pipe: EmulatorProcess, line: PtyReader
) -> None:
    agent = a_door(tmp_path / "door", pipe, reader_table(line.device))
    pipe.private_key_file.chmod(0o644)

    result = run(agent.config)

    assert result.returncode == 78
    assert str(pipe.private_key_file) in result.stderr
    assert "chmod 600" in result.stderr
    assert not list(agent.state_dir.iterdir())


def test_a_second_agent_on_the_same_state_is_refused(agent: AgentProcess) -> None:
    result = run(agent.config)

    assert result.returncode == 74
    assert f"pid {agent.pid}" in result.stderr
    assert agent.status()["readers"][0]["state"] == "open"


@pytest.mark.parametrize("has_journal", [False, True], ids=["lines", "journal"])
def test_no_log_at_any_level_shows_a_card_a_token_or_a_key(
    tmp_path: Path, pipe: EmulatorProcess, line: PtyReader, *, has_journal: bool
) -> None:
    tags = [0x01_0063_E9AE, 0x01_0071_BEEF]
    reader = reader_table(line.device)

    with (
        ServiceManager(tmp_path / "manager", has_journal=has_journal) as manager,
        a_door(tmp_path / "door", pipe, reader, log_level="debug", under=manager) as agent,
    ):
        line.present(tags[0])
        line.write(rdm6300_frame(tags[0])[:9] + b"noise")
        agent.wait_until_committed(1)
        pipe.fault("expire_tokens")
        pipe.fault("drop_after", on="append", times=1)
        pipe.fault("status", on="append", status=503, times=1)
        line.present(tags[1])
        agent.wait_until_committed(2)
        line.unplug()
        wait_until(lambda: agent.status()["readers"][0]["state"] == "lost", what="a lost reader")
        agent.end()
        shown = agent.log + (agent.runtime_dir / "status.json").read_text()
        shown += "\n".join(manager.told) + b"\n".join(manager.datagrams).decode()

    assert ("PRIORITY=7" if has_journal else "DEBUG") in shown
    assert has_journal == (agent.log == "")
    for tag in tags:
        assert raw_hex(40, tag)[2:] not in shown.upper()
        assert str(tag) not in shown
        assert str(tag & 0xFFFF_FFFF) not in shown
    assert "eyJ" not in shown
    assert "Bearer" not in shown
    key_lines = pipe.private_key_file.read_text().splitlines()[1:-1]
    assert not [line for line in key_lines if line in shown]


def test_an_idle_agent_sends_nothing_and_wakes_for_its_readers_waits_only(
    agent: AgentProcess, pipe: EmulatorProcess, line: PtyReader
) -> None:
    line.present(1)
    agent.wait_until_committed(1)
    time.sleep(0.5)  # until the last status file is written
    requests, woken, begun_s = len(pipe.state()["seen"]), wake_ups(agent.pid), time.monotonic()

    time.sleep(2.0)

    assert len(pipe.state()["seen"]) == requests
    # A reader's wait is divided into four a second; on a busy machine this test may last longer.
    assert wake_ups(agent.pid) - woken <= 4 * (time.monotonic() - begun_s) + 1


def wake_ups(pid: int) -> int:
    """The voluntary context switches of the process's threads."""
    statuses = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in statuses)
