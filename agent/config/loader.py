"""Loads the configuration file into frozen settings; one ConfigError lists every problem."""

from __future__ import annotations

import os
import re
import shlex
import socket
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

from agent.config.toml_table import Table
from agent.errors import ConfigError, quoted
from agent.readers.cards.badge_id import badge_id_problem
from agent.readers.cards.formats import FORMATS
from agent.readers.framing.line_framer import LONGEST_PIN_DIGITS
from agent.readers.protocol import OptionError
from agent.readers.protocols import PROTOCOLS, WITHOUT_KEYS, make_protocol
from agent.readers.shared_port import sharing_problems
from agent.settings import (
    AgentSettings,
    CardNumbers,
    ClockSettings,
    Direction,
    HeartbeatSettings,
    Keypad,
    LineParity,
    LogLevel,
    OutboxSettings,
    ParityPolicy,
    PrivacySettings,
    ReaderSettings,
    Settings,
    SnowflakeSettings,
    Trust,
    UnknownLengths,
    UploaderSettings,
)
from agent.snowpipe.account_url import (
    account_problem,
    account_url,
    heartbeat_url_problem,
    proxy_problem,
    url_problem,
)
from agent.swipe import LONGEST_NAME

DEFAULT_CONFIG = Path("/etc/badge-agent/config.toml")


def find_config(option: Path | None, environ: Mapping[str, str]) -> Path:
    """The path of the configuration: --config, else $BADGE_AGENT_CONFIG, else DEFAULT_CONFIG."""
    return option or Path(environ.get("BADGE_AGENT_CONFIG") or DEFAULT_CONFIG)


def load(path: Path) -> Settings:
    """Read and check a configuration file. Raises ConfigError with every problem in it."""
    path = path.absolute()
    return settings_of(parse(path), path)


def settings_of(document: Mapping[str, object], path: Path) -> Settings:
    """Check the parsed content of the file at `path`. Raises ConfigError with every problem in it."""
    problems: list[str] = []
    root = Table(document, "", problems)
    settings = Settings(
        agent=_agent(root.table("agent"), path.parent),
        readers=_readers(root),
        cardholders_file=root.table("cardholders").path("file", None, base=path.parent),
        snowflake=_snowflake(root.table("snowflake"), path.parent),
        outbox=_outbox(root.table("outbox")),
        uploader=_uploader(root.table("uploader")),
        clock=_clock(root.table("clock")),
        privacy=_privacy(root.table("privacy"), path.parent),
        heartbeat=_heartbeat(root.table("heartbeat")),
        path=path,
    )
    root.report_unknown_keys()
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"{path}: {count}", hint=_next_command(path), problems=problems)
    return settings


def parse(path: Path) -> dict[str, object]:
    """Parse a configuration file, unchecked. Raises ConfigError if it cannot be read or is not TOML."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such configuration file",
            hint="create it: sudo badge-agent setup; or name one: --config FILE or BADGE_AGENT_CONFIG=FILE",
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path}: the configuration cannot be read: {error.strerror}",
            hint=f"check its permissions: ls -l {shlex.quote(str(path))}; or run the same command with sudo",
        ) from error
    try:
        # utf-8-sig: editors on Windows, where SD cards are often prepared, write a byte order mark.
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}: not UTF-8 text (line {line})",
            hint=f"save it as UTF-8 in your editor, or: iconv -f latin1 -t utf-8 {shlex.quote(str(path))}",
        ) from error
    except ValueError as error:  # TOMLDecodeError, or an integer longer than Python's limit
        raise ConfigError(f"{path}: not valid TOML: {error}", hint=_next_command(path)) from error


def _next_command(path: Path) -> str:
    return f"correct the file, then: badge-agent check --offline --config {shlex.quote(str(path))}"


def _agent(table: Table, base: Path) -> AgentSettings:
    default = AgentSettings
    return AgentSettings(
        id=_checked(table, "id", socket.gethostname(), id_problem),
        state_dir=table.path("state_dir", default.state_dir, base=base),
        runtime_dir=table.path("runtime_dir", default.runtime_dir, base=base),
        log_level=table.choice("log_level", default.log_level, allowed=get_args(LogLevel)),
        heartbeat_minutes=table.number("heartbeat_minutes", default.heartbeat_minutes, low=0, high=1440),
        reader_keys_file=table.path("reader_keys_file", None, base=base),
    )


def _checked(table: Table, key: str, default: str, problem_with: Callable[[str], str | None]) -> str:
    value = table.text(key, default)
    problem = problem_with(value) if value else None
    if problem:
        table.problem(key, problem)
    return value


def _readers(root: Table) -> tuple[ReaderSettings, ...]:
    tables = root.tables("readers")
    readers = tuple(_reader(table) for table in tables)
    for index, reader in enumerate(readers):
        for earlier, other in enumerate(readers[:index]):
            if reader.id and reader.id == other.id:
                tables[index].problem("id", f"found {quoted(reader.id)}, already used by readers[{earlier}]")
            # Two names of one device are no mistake of the file: after a replugging they may be of two.
            if reader.port != Path() and os.path.normpath(reader.port) == os.path.normpath(other.port):
                for key, wrong in sharing_problems(reader, other, f"readers[{earlier}]").items():
                    tables[index].problem(key, wrong)
    return readers


def _reader(table: Table) -> ReaderSettings:
    default = ReaderSettings
    table.require("id", "zone_id", "port", "protocol")
    protocol = table.choice("protocol", "", allowed=PROTOCOLS)
    return ReaderSettings(
        id=_checked(table, "id", "", id_problem),
        zone_id=table.text("zone_id", "", longest=LONGEST_NAME),
        port=Path(_checked(table, "port", "", port_problem)),
        protocol=protocol,
        direction=table.choice("direction", None, allowed=get_args(Direction)),
        baudrate=table.integer("baudrate", None, low=50, high=4_000_000),
        data_bits=table.integer("data_bits", None, low=7, high=8),
        line_parity=table.choice("line_parity", None, allowed=get_args(LineParity)),
        stop_bits=table.integer("stop_bits", None, low=1, high=2),
        rs485=table.boolean("rs485", default=default.rs485),
        formats=table.words("formats", default.formats, allowed=FORMATS),
        unknown_lengths=table.choice("unknown_lengths", None, allowed=get_args(UnknownLengths)),
        keypad=table.choice("keypad", _keypad_of(protocol), allowed=get_args(Keypad)),
        pin_facility_code=table.integer("pin_facility_code", default.pin_facility_code, low=0, high=255),
        pin_digits=table.integer("pin_digits", default.pin_digits, low=1, high=LONGEST_PIN_DIGITS),
        parity=table.choice("parity", default.parity, allowed=get_args(ParityPolicy)),
        badge_id=_checked(table, "badge_id", default.badge_id, badge_id_problem),
        hold_off_ms=table.integer("hold_off_ms", default.hold_off_ms, low=0, high=3_600_000),
        expect_traffic_within=table.integer("expect_traffic_within", None, low=1, high=31_536_000),
        options=_options(table.table("options"), protocol),
    )


def _keypad_of(protocol: str) -> Keypad:
    """The default: known for readers that have no keys."""
    return "none" if protocol in WITHOUT_KEYS else ReaderSettings.keypad


def _options(table: Table, protocol: str) -> Mapping[str, object]:
    options = table.values()
    if protocol:  # without a valid protocol there is nothing to check against
        try:
            make_protocol(protocol, options)
        except OptionError as error:
            for key, wrong in error.problems.items():
                table.problem(key, wrong)
    return options


def _snowflake(table: Table, base: Path) -> SnowflakeSettings:
    table.require("account", "user", "database", "schema", "pipe")
    account = _checked(table, "account", "", account_problem)
    return SnowflakeSettings(
        account=account,
        user=table.text("user", ""),
        role=table.text("role", None),
        database=table.text("database", ""),
        schema=table.text("schema", ""),
        pipe=table.text("pipe", ""),
        events_pipe=table.text("events_pipe", SnowflakeSettings.events_pipe),
        private_key_file=table.path("private_key_file", None, base=base),
        private_key_passphrase_file=table.path("private_key_passphrase_file", None, base=base),
        # A wrong account gives no default URL, and is reported once already.
        url=_checked(
            table, "url", "" if account_problem(account) else account_url(account), url_problem
        ).rstrip("/"),
        ca_file=table.path("ca_file", None, base=base),
        proxy=_checked(table, "proxy", "", proxy_problem).rstrip("/") or None,
        proxy_login_file=table.path("proxy_login_file", None, base=base),
    )


def _outbox(table: Table) -> OutboxSettings:
    default = OutboxSettings
    outbox = OutboxSettings(
        retention_days=table.number("retention_days", default.retention_days, low=0.01, high=3650),
        max_bytes=table.integer("max_bytes", default.max_bytes, low=10_000_000, high=10**13),
        reserve_bytes=table.integer("reserve_bytes", default.reserve_bytes, low=0, high=10**12),
    )
    if outbox.reserve_bytes >= outbox.max_bytes:
        table.problem("reserve_bytes", f"found {outbox.reserve_bytes}; must be less than max_bytes")
    return outbox


def _uploader(table: Table) -> UploaderSettings:
    cap = UploaderSettings
    return UploaderSettings(
        max_request_bytes=table.integer(
            "max_request_bytes", cap.max_request_bytes, low=10_000, high=cap.max_request_bytes
        ),
        max_requests_per_second=table.integer(
            "max_requests_per_second", cap.max_requests_per_second, low=1, high=cap.max_requests_per_second
        ),
        max_bytes_per_second=table.integer(
            "max_bytes_per_second", cap.max_bytes_per_second, low=1_000, high=cap.max_bytes_per_second
        ),
        backoff_max_seconds=table.number("backoff_max_seconds", cap.backoff_max_seconds, low=0.1, high=3600),
    )


def _clock(table: Table) -> ClockSettings:
    default = ClockSettings
    return ClockSettings(
        trust=table.choice("trust", default.trust, allowed=get_args(Trust)),
        hold_unsynced_seconds=table.number(
            "hold_unsynced_seconds", default.hold_unsynced_seconds, low=0, high=86_400
        ),
    )


def _privacy(table: Table, base: Path) -> PrivacySettings:
    default = PrivacySettings
    return PrivacySettings(
        card_numbers=table.choice("card_numbers", default.card_numbers, allowed=get_args(CardNumbers)),
        site_key_file=table.path("site_key_file", None, base=base),
    )


def _heartbeat(table: Table) -> HeartbeatSettings:
    return HeartbeatSettings(
        url=_checked(table, "url", "", heartbeat_url_problem) or None,
        minutes=table.number("minutes", HeartbeatSettings.minutes, low=1, high=1440),
    )


# The agent's id is a part of the channel name, a reader's of the text that the chain is made
# over, with "|" between its fields: neither may hold anything that could be taken for more.
_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")


def id_problem(value: str) -> str | None:
    """An agent's or a reader's id."""
    if _ID.fullmatch(value):
        return None
    return (
        f"found {quoted(value)}; must be 1 to {LONGEST_NAME} of A-Z, a-z, 0-9, '.', '_' and '-', "
        "the first one a letter or digit"
    )


def port_problem(value: str) -> str | None:
    """The device of a serial port."""
    if value.startswith("/"):
        return None
    return (
        f"found {quoted(value)}; must be the full name of a device, best the one that stays the same "
        "after replugging: ls -l /dev/serial/by-id/"
    )
