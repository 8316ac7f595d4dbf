from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.clock.reading import ClockReading
from agent.config.loader import load
from agent.errors import KeyFileError, NotPermittedError
from agent.keys import systemd_creds
from agent.keys.age import age_of
from agent.keys.keypair import KeyPair, new_key, pem
from agent.keys.lookup import HANDED_OVER, find_key
from agent.settings import Settings

CONFIG = """
[agent]
runtime_dir = "run"
[[readers]]
id = "R"
zone_id = "Z"
port = "/dev/ttyUSB0"
protocol = "rdm6300"
[snowflake]
account = "ORG-ACCOUNT"
user = "U"
database = "D"
schema = "S"
pipe = "P"
"""


@pytest.fixture(scope="module")
def keys() -> list[KeyPair]:
    return [new_key() for _ in range(4)]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(systemd_creds, "ETC", tmp_path / "etc")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "config.toml").write_text(CONFIG)
    return load(tmp_path / "config.toml")


def secret_file(path: Path, key: KeyPair) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(pem(key))
    return path


def test_the_nearest_key_wins_the_file_then_the_one_handed_over_then_the_credential(
    settings: Settings, keys: list[KeyPair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []
    places.append(systemd_creds.store(pem(keys[0])).path)
    assert find_key(settings) == (places[-1], keys[0])

    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "passed-on"))
    places.append(secret_file(tmp_path / "passed-on" / "private_key", keys[1]))
    assert find_key(settings) == (places[-1], keys[1])

    places.append(secret_file(settings.agent.runtime_dir / HANDED_OVER, keys[2]))
    assert find_key(settings) == (places[-1], keys[2])

    places.append(secret_file(tmp_path / "rsa_key.p8", keys[3]))
    named = replace(settings, snowflake=replace(settings.snowflake, private_key_file=places[-1]))
    assert find_key(named) == (places[-1], keys[3])


def test_a_credential_that_the_unit_loads_encrypted_has_a_name_of_its_own(
    settings: Settings, keys: list[KeyPair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "passed-on"))
    path = secret_file(tmp_path / "passed-on" / "private_key_encrypted", keys[0])

    assert find_key(settings) == (path, keys[0])


def test_without_any_key_the_way_to_one_is_told(settings: Settings) -> None:
    with pytest.raises(KeyFileError, match="no private key") as caught:
        find_key(settings)

    assert "sudo badge-agent setup" in caught.value.hint


def test_a_service_without_its_credential_is_not_told_to_look_as_root(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "passed-on"))

    with pytest.raises(KeyFileError, match="no private key") as caught:
        find_key(settings)

    assert caught.value.exit_code == 78


def test_a_stored_key_is_for_root(
    settings: Settings, keys: list[KeyPair], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    systemd_creds.store(pem(keys[0]))
    for directory in (tmp_path / "etc").iterdir():
        directory.chmod(0o000)
    request.getfixturevalue("unprivileged")

    with pytest.raises(NotPermittedError, match="only root") as caught:
        find_key(settings)

    assert "sudo" in caught.value.hint


def test_the_age_is_told_by_a_trusted_clock_alone() -> None:
    now = ClockReading(wall_us=1_760_000_000_000_000, boot_id="b", boot_us=1_000, trusted=True)
    born = datetime.fromtimestamp(1_760_000_000, UTC) - timedelta(days=91)

    assert age_of(born, now) == timedelta(days=91)
    assert age_of(born, replace(now, trusted=False)) is None
    assert age_of(None, now) is None


def test_a_key_that_systemd_could_not_decrypt_is_none_and_the_plain_one_is_used(
    settings: Settings, keys: list[KeyPair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/private_key_encrypted").write_text("none")  # SetCredential= of the unit

    with pytest.raises(KeyFileError, match="this machine cannot decrypt it") as caught:
        find_key(settings)

    assert "badge-agent setup" in caught.value.hint
    plain = secret_file(tmp_path / "credentials/private_key", keys[0])
    assert find_key(settings) == (plain, keys[0])
