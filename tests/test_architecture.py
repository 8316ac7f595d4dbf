"""The import contracts of pyproject.toml hold, and each of them detects what it forbids."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

LINT = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"


def lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT], cwd=directory, capture_output=True, text=True, check=False
    )


def test_every_import_contract_holds() -> None:
    result = lint_imports(ROOT)

    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("rows", "import serial"),
        ("rows", "import sqlite3"),
        ("service/status", "import sqlite_utils"),
        ("snowpipe/wire", "import jwt"),
        ("cli/key/rotate", "import cryptography"),
        ("snowpipe/client", "import http.client"),
        ("snowpipe/http", "import requests"),
        ("uploader/uploader", "import zstandard"),
        ("service/supervisor", "import systemd"),
        ("config/loader", "import click"),
        ("cli/run", "import rich"),
        ("uploader/uploader", "import aiohttp"),
        ("rows", "import orjson"),
        ("service/build", "import agent.emulator"),
        ("emulator/row_loader", "import agent.rows"),
        ("rows", "import agent.outbox"),
        ("outbox/store", "import agent.readers"),
        ("swipe", "import agent.rows"),
    ],
)
def test_an_import_that_breaks_a_contract_is_found(module: str, line: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "agent", tmp_path / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "agent" / f"{module}.py"
    path.write_text(f"{path.read_text()}\n{line}\n")

    result = lint_imports(tmp_path)

    assert result.returncode == 1
    assert "1 broken" in result.stdout


def test_a_new_module_must_be_given_its_layer(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "agent", tmp_path / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "agent" / "attic.py").write_text('"""A module without a layer."""\n')

    result = lint_imports(tmp_path)

    assert result.returncode == 1
    assert "attic" in result.stdout
