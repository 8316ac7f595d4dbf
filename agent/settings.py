"""Every value of config.example.toml as frozen types: the only copy of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ParityPolicy = Literal["reject", "flag"]


Keypad = Literal["none", "burst4", "burst8", "card26"]


DEFAULT_FORMATS = ("H10301", "H10306", "C1k35s", "H10304", "C1k48s")  # the common one of each length


LogLevel = Literal["debug", "info", "warning", "error"]


Direction = Literal["ENTRY", "EXIT"]


Trust = Literal["auto", "always"]


@dataclass(frozen=True)
class AgentSettings:
    """The table [agent]."""

    id: str
    state_dir: Path = Path("/var/lib/badge-agent")
    runtime_dir: Path = Path("/run/badge-agent")
    log_level: LogLevel = "info"


@dataclass(frozen=True)
class ReaderSettings:
    """One [[readers]]; `baudrate` None is the protocol's own, `options` are what it alone can be told."""

    id: str
    zone_id: str
    port: Path
    protocol: str
    direction: Direction | None = None
    baudrate: int | None = None
    formats: tuple[str, ...] = DEFAULT_FORMATS
    keypad: Keypad = "none"
    pin_facility_code: int = 0
    parity: ParityPolicy = "reject"
    badge_id: str = "{facility_code}-{card_number}"
    hold_off_ms: int = 1000
    expect_traffic_within: int | None = None
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class SnowflakeSettings:
    """The table [snowflake]; `url` has neither path nor trailing slash.

    Without a `private_key_file` the key is the service's credential (agent.keys.lookup).
    """

    account: str
    user: str
    database: str
    schema: str
    pipe: str
    url: str
    role: str | None = None
    private_key_file: Path | None = None
    private_key_passphrase_file: Path | None = None
    ca_file: Path | None = None


@dataclass(frozen=True)
class OutboxSettings:
    """The table [outbox]."""

    retention_days: float = 7
    max_bytes: int = 2_000_000_000
    reserve_bytes: int = 8_000_000


@dataclass(frozen=True)
class UploaderSettings:
    """The table [uploader]; the first three defaults are also the most that Snowflake allows."""

    max_request_bytes: int = 4_000_000
    max_requests_per_second: int = 10
    max_bytes_per_second: int = 20_000_000
    backoff_max_seconds: float = 60


@dataclass(frozen=True)
class ClockSettings:
    """The table [clock]."""

    trust: Trust = "auto"
    hold_unsynced_seconds: float = 120


@dataclass(frozen=True)
class Settings:
    """The whole file at `path`; every path in it is absolute."""

    agent: AgentSettings
    readers: tuple[ReaderSettings, ...]
    cardholders_file: Path | None
    snowflake: SnowflakeSettings
    outbox: OutboxSettings
    uploader: UploaderSettings
    clock: ClockSettings
    path: Path
