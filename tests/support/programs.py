"""Stand-ins for the machine's programs: real executables, in a folder of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest


def install(folder: Path, name: str, script: str) -> None:
    """A shell script under this name; put the folder first in PATH."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def working_systemd_creds(folder: Path) -> None:
    """Encrypts so that no byte of the secret is readable, and opens only under the name it was given."""
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
    """A PATH on which there is nothing."""
    monkeypatch.setenv("PATH", str(folder / "no-programs"))
