"""Edits the configuration file for `setup`: other settings are preserved, the old file is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.atomic_file import replace_file
from agent.config.loader import parse, settings_of
from agent.errors import ConfigError, NotPermittedError
from agent.settings import Settings

# The package of version 0.1.0 installed the example as the configuration, and an upgrade leaves it there; no
# real installation has this account and port.
_EXAMPLE_ACCOUNT = "MYORG-MYACCOUNT"
_EXAMPLE_PORT = "/dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0"

_HEAD = """\
# Written by `badge-agent setup`, can be edited by hand: config.example.toml documents every key.
# After a change: sudo badge-agent check && sudo systemctl restart badge-agent
"""

# The order of the example.
_ORDER = (
    "agent",
    "readers",
    "cardholders",
    "snowflake",
    "outbox",
    "uploader",
    "clock",
    "privacy",
    "heartbeat",
)

Document = dict[str, Any]


def read_document(path: Path) -> Document:
    """The present configuration; empty if there is no file or only the example. Raises ConfigError."""
    if not path.exists():
        return {}
    document = parse(path)
    return {} if is_example(document) else document


def is_example(document: Mapping[str, Any]) -> bool:
    """Whether this is config.example.toml with its placeholders unchanged."""
    snowflake, readers = document.get("snowflake"), document.get("readers")
    return (
        isinstance(snowflake, dict)
        and snowflake.get("account") == _EXAMPLE_ACCOUNT
        and isinstance(readers, list)
        and [reader.get("port") for reader in readers if isinstance(reader, dict)] == [_EXAMPLE_PORT]
    )


def write_document(path: Path, document: Document) -> tuple[Settings, Path | None]:
    """Check and write the file, atomically and durably; returns the settings and the path of the backup.

    An example is kept as config.example.toml, any other file with the suffix `.old`.
    Raises ConfigError for an invalid document, without writing anything, and NotPermittedError.
    """
    settings = settings_of(document, path)
    text = render(document)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        kept = _keep(path)
        replace_file(path, text.encode(), mode=0o644)
    except PermissionError as error:
        raise NotPermittedError(
            f"{path}: this user may not write the configuration", hint="run the same command with sudo"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written: {error.strerror}", hint=f"df -h {path.parent}; ls -ld {path.parent}"
        ) from error
    return settings, kept


def _keep(path: Path) -> Path | None:
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        return None
    example = is_example(parse(path))
    kept = path.with_name("config.example.toml") if example else path.with_name(f"{path.name}.old")
    replace_file(kept, before, mode=0o644)
    return kept


def render(document: Mapping[str, Any]) -> str:
    """The document as TOML."""
    return "\n".join([_HEAD, *_tables(document)])


def _tables(document: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(document, key=_ORDER.index):
        value = document[name]
        # Tables and arrays of tables at the top; nested tables such as `options` are written inline.
        tables = value if isinstance(value, list) else [value]
        head = f"[[{name}]]" if isinstance(value, list) else f"[{name}]"
        for table in tables:
            yield "\n".join([head, *(f"{key} = {_value(item)}" for key, item in table.items()), ""])


def _value(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            # A JSON string of printable characters is a valid TOML string; settings allow no others.
            return json.dumps(value, ensure_ascii=False)
        case int():
            return str(value)
        case float() if math.isfinite(value):
            return repr(value)
        case Mapping():
            return "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
        case Sequence():
            return "[" + ", ".join(map(_value, value)) + "]"
    raise ConfigError(
        f"found a value of a type that no setting has: {value}", hint="correct the configuration file"
    )


def _key(key: str) -> str:
    return json.dumps(key, ensure_ascii=False)
