"""badge-agent sql: what is printed, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cli import main
from agent.keys.keypair import load_private_key, new_key, pem

CONFIG = """
[agent]
id = "door"
[[readers]]
id = "RDR-101"
zone_id = "ZONE-LOBBY-1"
port = "/dev/ttyUSB0"
protocol = "rdm6300"
[snowflake]
account = "MYORG-MYACCOUNT"
user = "SFE_INGEST_USER"
database = "SNOWFLAKE_EXAMPLE"
schema = "RAW_INGESTION"
pipe = "SFE_BADGE_EVENTS_PIPE"
private_key_file = "{key}"
"""


@pytest.fixture
def config(tmp_path: Path, rsa_key_file: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.format(key=rsa_key_file))
    return path


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    code = main(["sql", *map(str, words)])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def test_the_scripts_come_in_the_order_in_which_they_are_run(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "--config", config)

    places = [
        text.index(one)
        for one in ("CREATE TABLE", "CREATE PIPE", "CREATE USER", "config_toml", "VIEW", "PROCEDURE")
    ]
    assert places == sorted(places)
    assert "DROP" not in text.replace("UNDROP", "")


def test_the_public_key_is_in_it_and_the_private_one_is_not(
    config: Path, rsa_key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = load_private_key(rsa_key_file)

    text = printed(capsys, "--config", config)

    assert f"SET RSA_PUBLIC_KEY = '{key.public_key_line}';" in text
    assert key.fingerprint in text
    secret_lines = rsa_key_file.read_text().splitlines()[1:-1]
    assert not any(line in text for line in secret_lines)


def test_a_key_that_is_not_here_leaves_a_slot_and_a_note(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(CONFIG.format(key="not_here.p8"))

    code = main(["sql", "--config", str(config)])

    out, err = capsys.readouterr()
    assert code == 0
    assert "-- ALTER USER SFE_INGEST_USER SET RSA_PUBLIC_KEY = '<" in out
    assert "not_here.p8" in err


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("setup", "CREATE DATABASE"),
        ("access", "CREATE ROLE"),
        ("handoff", "SELECT '[snowflake]"),
        ("views", "CREATE OR REPLACE VIEW"),
        ("procedures", "CREATE OR REPLACE PROCEDURE"),
        ("replace-pipe", "CREATE OR REPLACE PIPE"),
        ("dynamic-table", "CREATE OR REPLACE DYNAMIC TABLE"),
        ("alerts", "CREATE OR REPLACE ALERT"),
        ("privacy", "CREATE OR REPLACE SECURE VIEW"),
        ("costs", "SNOWPIPE_STREAMING_CHANNEL_HISTORY"),
        ("cleanup", "DROP VIEW"),
    ],
)
def test_one_script_can_be_asked_for(
    config: Path, capsys: pytest.CaptureFixture[str], name: str, first: str
) -> None:
    text = printed(capsys, "--only", name, "--config", config)

    assert text.startswith("-- ==")
    assert first in text
    assert text.count("-- ==") == 1


def test_the_dashboard_is_python_with_the_configured_schema(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text().replace('"SNOWFLAKE_EXAMPLE"', '"my db"'))

    text = printed(capsys, "--only", "dashboard", "--config", config)

    compile(text, "streamlit_app.py", "exec")
    assert 'VIEWS_SCHEMA = "\\"my db\\".ANALYTICS_LAYER"' in text


def test_pipes_and_networks_are_options(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--pipes", 2, "--allow-ip", "203.0.113.0/24", "--config", config)

    assert "SFE_BADGE_EVENTS_PIPE_2 TO ROLE SFE_INGEST_ROLE;" in text
    assert "\n  ALLOWED_IP_LIST = ('203.0.113.0/24');" in text


def test_the_pipe_of_door_events_is_the_configured_one(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text() + 'events_pipe = "MY_EVENTS"\n')

    text = printed(capsys, "--config", config)

    assert "CREATE PIPE IF NOT EXISTS SNOWFLAKE_EXAMPLE.RAW_INGESTION.MY_EVENTS AS" in text
    assert "GRANT OPERATE ON PIPE SNOWFLAKE_EXAMPLE.RAW_INGESTION.MY_EVENTS TO" in text
    assert '\nevents_pipe = "MY_EVENTS"\n' in text
    assert "SFE_DOOR_EVENTS_PIPE" not in text


def test_names_that_snowflake_would_not_take_are_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text().replace('"RAW_INGESTION"', f'"{"x" * 256}"'))

    code = main(["sql", "--config", str(config)])

    out, err = capsys.readouterr()
    assert (code, out) == (78, "")
    assert "snowflake.schema: " in err


def test_after_a_rotation_the_key_is_set_in_the_slot_that_it_is_registered_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, key_file, config = new_key("RSA_PUBLIC_KEY_2"), tmp_path / "rsa_key.p8", tmp_path / "config.toml"
    key_file.touch(mode=0o600)
    key_file.write_bytes(pem(key))
    config.write_text(CONFIG.format(key=key_file))

    text = printed(capsys, "--config", config, "--only", "access")

    assert f"SET RSA_PUBLIC_KEY_2 = '{key.public_key_line}';" in text
    assert f"RSA_PUBLIC_KEY_2_FP: {key.fingerprint}" in text
    assert "SET RSA_PUBLIC_KEY =" not in text
