"""The Debian package of this checkout, and other versions of it for upgrades."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.support.paths import ROOT

_CONFIG = "etc/badge-agent/config.toml"


def built() -> Path:
    """The package of this checkout, built by `make deb`."""
    made = _run("make", "--no-print-directory", "deb")
    return ROOT / made.split()[-1]


def newer(package: Path, directory: Path) -> Path:
    """The same package with the next version number."""
    root = _unpacked(package, directory)
    _change_version(root, ".1")
    return _packed(root)


def earlier(package: Path, directory: Path) -> Path:
    """The same package as version 0.1.0 had it: its configuration is a file of the package."""
    root = _unpacked(package, directory)
    _change_version(root, "~earlier")
    example = root / "usr/share/doc/badge-agent/examples/config.example.toml"
    # Another text than that of the next version, which would make dpkg ask if that still had the file.
    (root / _CONFIG).write_text("# An example.\n" + example.read_text())
    (root / "DEBIAN/conffiles").write_text(f"/{_CONFIG}\n")
    return _packed(root)


def _unpacked(package: Path, directory: Path) -> Path:
    _run("dpkg-deb", "--raw-extract", str(package), str(directory / "package"))
    return directory / "package"


def _change_version(root: Path, suffix: str) -> None:
    for path in (root / "DEBIAN/control", root / "usr/share/badge-agent/agent/__init__.py"):
        text = path.read_text()
        changed = re.sub(
            r'^(Version: |__version__ = ")([0-9.]+)', rf"\g<1>\g<2>{suffix}", text, flags=re.MULTILINE
        )
        assert changed != text
        path.write_text(changed)


def _packed(root: Path) -> Path:
    made = _run("dpkg-deb", "--root-owner-group", "--build", str(root), str(root.parent))
    return Path(made.split("'")[-2])


def _run(*words: str) -> str:
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout
