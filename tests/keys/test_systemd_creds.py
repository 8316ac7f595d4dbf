from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.errors import KeyFileError
from agent.keys import systemd_creds
from tests.support.needs import ROOT_USER, needs
from tests.support.programs import install, without_systemd_creds, working_systemd_creds

SECRET = b"-----BEGIN PRIVATE KEY-----\nnot for a disk\n"


@pytest.fixture(autouse=True)
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(systemd_creds, "ETC", tmp_path / "etc")
    return tmp_path / "etc"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def files(etc: Path) -> list[str]:
    return sorted(str(path.relative_to(etc)) for path in etc.rglob("*") if path.is_file())


def test_a_machine_that_can_encrypt_keeps_no_readable_key(programs: Path, etc: Path) -> None:
    working_systemd_creds(programs)

    stored = systemd_creds.store(SECRET)

    assert stored.encrypted
    assert files(etc) == ["credstore.encrypted/badge-agent.private_key_encrypted"]
    assert SECRET not in stored.path.read_bytes()
    assert stored.path.stat().st_mode & 0o777 == 0o600
    assert stored.path.parent.stat().st_mode & 0o777 == 0o700
    assert systemd_creds.find() == stored
    assert systemd_creds.read(stored) == SECRET


@pytest.mark.parametrize("script", ["exit 1", "cat >/dev/null; echo not what it was"])
def test_a_machine_that_cannot_encrypt_keeps_the_key_for_root_alone(
    programs: Path, etc: Path, script: str
) -> None:
    install(programs, "systemd-creds", script)

    stored = systemd_creds.store(SECRET)

    assert not stored.encrypted
    assert files(etc) == ["credstore/badge-agent.private_key"]
    assert stored.path.stat().st_mode & 0o777 == 0o600
    assert systemd_creds.find() == stored
    assert systemd_creds.read(stored) == SECRET


def test_a_machine_without_the_program_keeps_it_too(
    etc: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_systemd_creds(monkeypatch, tmp_path)

    assert not systemd_creds.store(SECRET).encrypted
    assert files(etc) == ["credstore/badge-agent.private_key"]


def test_the_key_is_in_one_of_the_stores_only(programs: Path, etc: Path) -> None:
    install(programs, "systemd-creds", "exit 1")
    systemd_creds.store(b"old")

    working_systemd_creds(programs)
    systemd_creds.store(SECRET)
    assert files(etc) == ["credstore.encrypted/badge-agent.private_key_encrypted"]

    install(programs, "systemd-creds", "exit 1")
    systemd_creds.store(b"newest")
    assert files(etc) == ["credstore/badge-agent.private_key"]


@pytest.mark.parametrize("later_encrypts", [True, False])
def test_a_waiting_key_leaves_the_present_one_alone_until_it_is_promoted(
    programs: Path, etc: Path, *, later_encrypts: bool
) -> None:
    working_systemd_creds(programs)
    systemd_creds.store(b"present")
    if not later_encrypts:
        install(programs, "systemd-creds", "exit 1")

    systemd_creds.store(b"next", waiting=True)

    present, waiting = systemd_creds.find(), systemd_creds.find(waiting=True)
    assert present is not None
    assert waiting is not None
    assert waiting.encrypted is later_encrypts
    working_systemd_creds(programs)
    assert systemd_creds.read(present) == b"present"
    assert systemd_creds.read(waiting) == b"next"

    assert systemd_creds.read(systemd_creds.promote()) == b"next"
    assert systemd_creds.find(waiting=True) is None
    assert len(files(etc)) == 1


def test_nothing_is_promoted_where_nothing_waits() -> None:
    with pytest.raises(KeyFileError, match="there is no waiting key"):
        systemd_creds.promote()


def test_a_key_of_another_machine_says_how_to_make_a_new_one(programs: Path) -> None:
    working_systemd_creds(programs)
    stored = systemd_creds.store(SECRET)
    install(programs, "systemd-creds", 'echo "Decryption failed (incorrect key?)" >&2; exit 1')

    with pytest.raises(KeyFileError, match=r"cannot decrypt the stored key .*incorrect key") as caught:
        systemd_creds.read(stored)

    assert f"sudo rm {stored.path}; sudo badge-agent setup" in caught.value.hint


def test_a_store_that_cannot_be_written_is_told(etc: Path) -> None:
    etc.write_text("a file where a directory should be")

    with pytest.raises(KeyFileError, match="the key cannot be stored"):
        systemd_creds.store(SECRET)


def test_the_real_program_gives_back_what_it_took() -> None:
    needs(ROOT_USER)  # the machine's own key is root's
    stored = systemd_creds.store(SECRET)

    assert systemd_creds.read(stored) == SECRET
