"""Stand-ins for system programs: executables in a folder of the test."""

from __future__ import annotations

from pathlib import Path

import pytest


def install(folder: Path, name: str, script: str) -> None:
    """Install a shell script under a name; the caller puts the folder first in PATH."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def working_systemd_creds(folder: Path) -> None:
    """A systemd-creds that encodes the secret and decodes it only under the same name."""
    install(
        folder,
        "systemd-creds",
        'for word in "$@"; do case "$word" in --name=*) name="${word#--name=}";; esac; done\n'
        'case "$1" in\n'
        '  encrypt) echo "$name"; base64 ;;\n'
        '  decrypt) read -r was; [ "$was" = "$name" ] || { echo "wrong name" >&2; exit 1; }; base64 -d ;;\n'
        "esac",
    )


def without_systemd_creds(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Set a PATH without any program."""
    monkeypatch.setenv("PATH", str(folder / "no-programs"))
