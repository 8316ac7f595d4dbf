from __future__ import annotations

from pathlib import Path

import pytest

from agent.durable import sync


def test_files_and_directories_are_synced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("bytes")

    sync(tmp_path / "file")
    sync(tmp_path)


def test_what_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "file")
