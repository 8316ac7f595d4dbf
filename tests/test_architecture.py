"""The import contracts of pyproject.toml hold, and each of them detects what it forbids."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

LINT = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"


def lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT], cwd=directory, capture_output=True, text=True, check=False
    )


def test_every_import_contract_holds() -> None:
    result = lint_imports(ROOT)

    assert result.returncode == 0, result.stdout


FORBIDDEN = (
    ("rows", "serial"),
    ("rows", "sqlite3"),
    ("service/status", "sqlite_utils"),
    ("snowpipe/wire", "jwt"),
    ("cli/key/rotate", "cryptography"),
    ("snowpipe/client", "http"),
    ("snowpipe/http", "requests"),
    ("uploader/uploader", "zstandard"),
    ("service/supervisor", "systemd"),
    ("config/loader", "click"),
    ("cli/run", "rich"),
    ("uploader/uploader", "aiohttp"),
    ("rows", "orjson"),
    ("service/build", "agent.emulator"),
    ("emulator/row_loader", "agent.rows"),
    ("sql/columns", "agent.swipe"),
    ("rows", "agent.outbox"),
    ("outbox/store", "agent.readers"),
    ("swipe", "agent.rows"),
)


def test_every_import_that_breaks_a_contract_is_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "agent", tmp_path / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for module, imported in FORBIDDEN:
        with (tmp_path / "agent" / f"{module}.py").open("a") as file:
            file.write(f"\nimport {imported}\n")

    result = lint_imports(tmp_path)

    assert result.returncode == 1
    assert "Contracts: 0 kept, " in result.stdout
    for module, imported in FORBIDDEN:
        assert f"agent.{module.replace('/', '.')} -> {imported} (l." in result.stdout


def test_a_new_module_must_be_given_its_layer(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "agent", tmp_path / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "agent" / "attic.py").write_text('"""A module without a layer."""\n')

    result = lint_imports(tmp_path)

    assert result.returncode == 1
    assert "attic" in result.stdout
