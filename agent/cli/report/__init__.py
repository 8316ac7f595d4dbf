"""badge-agent report: one archive for support, without secrets."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import click

from agent import __version__
from agent.cli import config_option, describe_error
from agent.cli.new_file import incomplete, new_file
from agent.cli.report.parts import Part, parts_of
from agent.cli.report.redaction import redacted
from agent.config.loader import load
from agent.errors import AgentError, ConfigError
from agent.settings import Settings

_MANIFEST = "manifest.json"
_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the parts of a report."""

    files: list[dict[str, object]] = field(default_factory=list)
    missing: list[dict[str, str]] = field(default_factory=list)


@click.command("report", epilog="Example: sudo badge-agent report --out report.tar.gz")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The archive to make, with mode 0600 [default: badge-agent-report-ID-TIME.tar.gz].",
)
@click.option("--offline", is_flag=True, help="Without the checks that need the network.")
@config_option
def command(config: Path, out: Path | None, *, offline: bool) -> None:
    """Write an archive for support: checks, status, settings, journal, versions, kernel messages.

    It has no card number, PIN, key or token, and no row of the outbox. What cannot be read is listed in its
    manifest with the reason, so it also works while the agent does not, or without a usable configuration.
    Takes a few minutes at most.
    """
    settings, why = _settings(config)
    moment = time.gmtime()
    agent_id = settings.agent.id if settings is not None else "unknown"
    name = f"badge-agent-report-{agent_id}-{time.strftime('%Y%m%dT%H%M%SZ', moment)}"
    path = out or Path(f"{name}.tar.gz")
    with new_file(path) as file:
        try:
            written = _write(file, name, parts_of(config, settings, why, offline=offline))
        except OSError as error:
            raise incomplete(path, error) from error
    for part in written.missing:
        click.echo(f"without {part['name']}: {part['reason']}", err=True)
    size = path.stat().st_size / 1e3
    click.echo(f"written to {path}: {len(written.files)} files, {size:,.0f} kB")
    click.echo(f"read it before you send it: tar --extract --to-stdout --file {path} | less")


def _settings(config: Path) -> tuple[Settings | None, str]:
    try:
        return load(config), ""
    except ConfigError as error:
        return None, describe_error(error)


def _write(file: BinaryIO, name: str, parts: Iterable[Part]) -> Written:
    """Write the archive; its last file is the manifest."""
    written = Written()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for part in parts:
            text, removed = redacted(_text_of(part, written))
            if text:
                content = text.encode(errors="replace")
                _add(archive, f"{name}/{part.name}", content)
                digest = hashlib.sha256(content).hexdigest()
                entry = {"name": part.name, "from": part.source, "bytes": len(content), "sha256": digest}
                written.files.append(entry | {"removed": removed})
        manifest = {
            "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "version": __version__,
            "files": written.files,
            "missing": written.missing,
        }
        _add(archive, f"{name}/{_MANIFEST}", (json.dumps(manifest, indent=2) + "\n").encode())
    return written


def _text_of(part: Part, written: Written) -> str:
    try:
        return part.text()
    except AgentError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
    except Exception as error:  # noqa: BLE001 - a report of a faulty machine must not fail with it
        # Without its message, which may quote data such as a card number.
        reason = f"unexpected {type(error).__name__}"
    written.missing.append({"name": part.name, "reason": redacted(reason)[0]})
    return ""


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(content), int(time.time()), _MODE
    archive.addfile(entry, io.BytesIO(content))
