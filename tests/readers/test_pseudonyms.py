"""card_numbers = "keyed": no file, row or log holds a number that opens a door."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli import main
from agent.clock.reading import ClockReading
from agent.config.loader import load
from agent.errors import ConfigError, KeyFileError, KeyNotStoredError
from agent.keys.site_key import SiteKey, new_site_key, read_site_key, site_key_of, write_site_key
from agent.readers.events import RawCredential, raw_hex
from agent.readers.line_monitor import LineMonitor
from agent.readers.swipe_pipeline import ReadTime, SwipePipeline
from agent.settings import PrivacySettings, ReaderSettings
from agent.swipe import CardCheck, LastRead
from tests.support.agent_process import AgentProcess, PtyReader, reader_table, sent_rows
from tests.support.emulator_process import EmulatorProcess
from tests.support.paths import ROOT
from tests.support.stand_in_sink import MemorySink

# Random 40 bits: ten digits of a number that no file holds by chance.
TAG = 0x5A_C3_91_7E_B4
NUMBER = TAG & 0xFFFFFFFF
KEY = SiteKey(bytes(range(32)))


def spellings() -> list[bytes]:
    """The card as readers, hosts and programs write it."""
    raw = raw_hex(40, TAG)
    texts = [raw, raw.lower(), raw[2:], raw[2:].lower(), str(TAG), str(NUMBER), f"{TAG:040b}"]
    words = [
        TAG.to_bytes(5, "big"),
        TAG.to_bytes(5, "little"),
        NUMBER.to_bytes(4, "big"),
        NUMBER.to_bytes(4, "little"),
    ]
    return [*(text.encode() for text in texts), *words]


@pytest.mark.parametrize("card_numbers", ["keyed", "plain"])
def test_no_file_of_an_agent_and_no_row_holds_the_number(
    tmp_path: Path,
    pipe: EmulatorProcess,
    line: PtyReader,
    card_numbers: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    door = tmp_path / "door"
    door.mkdir()
    write_site_key(door / "site.key", KEY)
    badge = f"{TAG >> 32}-{NUMBER}"
    keyed = card_numbers == "keyed"
    (door / "holders.csv").write_text(f"badge_id,user_id\n{KEY.badge(badge) if keyed else badge},USR-001\n")
    with AgentProcess(
        door,
        url=pipe.url,
        private_key_file=pipe.private_key_file,
        readers=[reader_table(line.device, more='formats = ["EM4100"]')],
        tables=f'[privacy]\ncard_numbers = "{card_numbers}"\nsite_key_file = "site.key"\n'
        '[cardholders]\nfile = "holders.csv"\n',
        log_level="debug",
    ) as agent:
        line.present(TAG)
        agent.wait_until_committed(1)
        config = str(agent.config)
        files = {path: path.read_bytes() for path in door.rglob("*") if path.is_file()}
        assert main(["replay", "--from", "1", "--dry-run", "--config", config]) == 0
    (row,) = sent_rows(pipe)
    files |= {path: path.read_bytes() for path in door.rglob("*") if path.is_file()}
    contents = [*files.values(), json.dumps(row).encode(), capsys.readouterr().out.encode()]

    found = [text for text in spellings() for content in contents if text in content]

    assert row["user_id"] == "USR-001"
    assert bool(found) != keyed
    if keyed:
        assert {"facility_code", "card_number"}.isdisjoint(row)
        assert (row["badge_id"], row["card_raw"]) == (KEY.badge(badge), KEY.card(40, raw_hex(40, TAG)))


def pipeline(sink: MemorySink, key: SiteKey | None = KEY) -> SwipePipeline:
    reader = ReaderSettings(id="RDR-101", zone_id="ZONE-1", port=Path("/dev/null"), protocol="rdm6300")
    monitor = LineMonitor("RDR-101", expect_within_s=None)
    return SwipePipeline(reader, sink=sink, line_monitor=monitor, repeats_while_held=True, site_key=key)


def test_a_card_in_the_field_during_a_restart_is_one_swipe() -> None:
    first, second = MemorySink(), MemorySink()
    event = RawCredential(40, TAG, CardCheck.CHECKSUM)
    read = ReadTime(ClockReading(10**15, "boot", 10**9, trusted=True))
    pipeline(first).process([event], read, 0.0)
    (swipe,) = first.kept

    restarted = pipeline(second)
    restarted.seed([LastRead(swipe.card.bits, swipe.card.raw, read.at.boot_ms)], 0)
    restarted.process([event], read, 0.0)

    assert second.kept == []


def test_two_doors_with_one_key_have_one_pseudonym_and_two_keys_have_none_in_common() -> None:
    texts = ("1-1", "40:010063E9AE")

    assert [KEY.badge(text) for text in texts] == [SiteKey(bytes(range(32))).badge(text) for text in texts]
    other = new_site_key()
    assert not {KEY.badge(text) for text in texts} & {other.badge(text) for text in texts}
    assert KEY.badge("40:010063E9AE") != KEY.card(40, "010063E9AE")
    assert KEY.fingerprint != other.fingerprint


def test_the_command_computes_the_pseudonyms_of_rows_and_of_a_cardholders_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file, holders = tmp_path / "site.key", tmp_path / "holders.csv"
    write_site_key(key_file, KEY)
    holders.write_text("badge_id,user_id\n123-45015,USR-001\n")

    assert main(["pseudonym", "--site-key", str(key_file), "123-45015"]) == 0
    with holders.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert main(["pseudonym", "--site-key", str(key_file), "--cardholders"]) == 0

    badge = KEY.badge("123-45015")
    assert capsys.readouterr().out == f"{badge}\nbadge_id,user_id\n{badge},USR-001\n"


def test_a_key_that_others_may_read_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    write_site_key(path, KEY)
    assert read_site_key(path) == KEY
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="accessible to other users"):
        read_site_key(path)
    path.chmod(0o600)
    path.write_text("12 34")

    with pytest.raises(KeyFileError, match="64 hex digits") as caught:
        read_site_key(path)

    assert "12 34" not in str(caught.value)


def test_a_key_that_is_not_there_is_no_reason_to_stay_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "site_key_encrypted").write_bytes(b"none")  # as the unit sets it
    example = load(ROOT / "config.example.toml")
    settings = replace(example, privacy=PrivacySettings(card_numbers="keyed"))

    with pytest.raises(KeyNotStoredError) as caught:
        site_key_of(settings)

    assert caught.value.exit_code != ConfigError.exit_code  # after which systemd does not restart the agent
    write_site_key(tmp_path / "site_key", KEY)
    assert site_key_of(settings) == KEY
