"""Checks of the package that do not install it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from agent import __version__


def test_lintian_finds_nothing(package: Path) -> None:
    found = subprocess.run(
        ["lintian", "--allow-root", "--fail-on=error,warning", str(package)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (found.returncode, found.stdout) == (0, "")


def test_its_version_is_the_programs(package: Path) -> None:
    field = subprocess.run(
        ["dpkg-deb", "--field", str(package), "Version"], capture_output=True, text=True, check=True
    )

    assert field.stdout.strip() == __version__
