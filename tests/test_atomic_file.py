from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.atomic_file import replace_file, sync


def test_a_file_is_replaced_whole_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("a longer text from before")
    path.chmod(0o644)

    replace_file(path, b"new", mode=0o600, owner=(os.geteuid(), os.getegid()))

    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_finished_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    path.write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new", mode=0o600)

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_planted_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    (tmp_path / f".secret.{os.getpid()}").symlink_to(elsewhere)
    (tmp_path / "secret").symlink_to(elsewhere)

    replace_file(tmp_path / "secret", b"new", mode=0o600)

    assert elsewhere.read_text() == "precious"
    assert (tmp_path / "secret").read_bytes() == b"new"


def test_files_and_directories_are_synced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("bytes")

    sync(tmp_path / "file")
    sync(tmp_path)


def test_what_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "file")
