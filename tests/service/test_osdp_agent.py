"""A real agent with two OSDP readers on one line, one of them encrypted."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from agent.cli.status import command
from tests.support.agent_process import AgentProcess, PtyReader, reader_table, sent_rows
from tests.support.emulator_process import EmulatorProcess
from tests.support.osdp_device import BUZ, LED, LSTATR, OsdpDevice, raw
from tests.support.osdp_line import devices_on
from tests.support.swipes import wait_until

KEY = bytes.fromhex("4b8f1d02c7739ae6055e21b4d8f06c93")
GREEN = 2


def test_cards_become_rows_the_light_follows_and_status_shows_the_readers(
    tmp_path: Path, line: PtyReader, pipe: EmulatorProcess
) -> None:
    keys = tmp_path / "reader.keys"
    keys.write_text(f"RDR-1 {KEY.hex()}\n")
    keys.chmod(0o600)
    devices = OsdpDevice(1, key=KEY), OsdpDevice(2)
    tables = [
        reader_table(
            line.device,
            protocol="osdp",
            reader_id=f"RDR-{address}",
            more=f'options = {{ address = {address}, secure = "{secure}" }}',
        )
        for address, secure in ((1, "required"), (2, "none"))
    ]
    with (
        devices_on(line, *devices),
        AgentProcess(
            tmp_path / "agent",
            url=pipe.url,
            private_key_file=pipe.private_key_file,
            readers=tables,
            agent_lines=f'reader_keys_file = "{keys}"',
            log_level="debug",
        ) as agent,
    ):
        for device in devices:
            wait_until(lambda device=device: LED in dict(device.outputs), what="a light")  # type: ignore[misc]
            device.events.append(raw(32, 0x1000 + device.address, 0))
        agent.wait_until_committed(2)
        for device in devices:
            wait_until(lambda device=device: BUZ in dict(device.outputs), what="a beep")  # type: ignore[misc]
        devices[0].events.append((LSTATR, b"\1\0"))
        wait_until(
            lambda: agent.status()["readers"][0]["conditions"] == ["tamper"], what="the tamper in status"
        )
        first, second = agent.status()["readers"]
        shown = CliRunner().invoke(command, ["--config", str(agent.config)])

    rows = {row["reader_id"]: row["card_raw"] for row in sent_rows(pipe)}
    assert rows == {"RDR-1": "00001001", "RDR-2": "00001002"}
    for device in devices:
        codes = [(code, data[5] if code == LED else 0) for code, data in device.outputs]
        assert codes == [(LED, 0), (LED, GREEN), (BUZ, 0)]
    assert (first["osdp"]["online"], first["osdp"]["secure"], second["osdp"]["secure"]) == (True, True, False)
    assert first["osdp"]["identity"]["firmware"] == "3.2.1"
    assert shown.exit_code == 1
    assert "tamper: it was opened or taken off its wall" in shown.output
    assert "open, encrypted, tamper" in " ".join(shown.output.split())
    assert KEY.hex() not in agent.log
