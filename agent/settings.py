"""Every value of config.example.toml as frozen types: the only copy of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ParityPolicy = Literal["reject", "flag"]

# How a reader's keys are sent: a word of 4 or 8 bits per key; a PIN as a card of `pin_facility_code`; a PIN
# as the binary number in 26 or 34 bits, or as six decimal digits of four bits in 26. "unknown": the key
# is not set, so that `check` warns and a word that may be a PIN raises an alarm.
Keypad = Literal["unknown", "none", "burst4", "burst8", "card26", "pin26", "pin34", "pin26bcd"]

UnknownLengths = Literal["raw", "reject"]

LogLevel = Literal["debug", "info", "warning", "error"]

Direction = Literal["ENTRY", "EXIT"]

LineParity = Literal["none", "even", "odd"]

CardNumbers = Literal["plain", "keyed"]
Trust = Literal["auto", "always"]

DEFAULT_FORMATS = ("H10301", "H10306", "C1k35s", "H10304", "C1k48s")  # the most common of each length


@dataclass(frozen=True)
class AgentSettings:
    """The table [agent]."""

    id: str  # the door's name in Snowflake: `agent_id` of every row
    state_dir: Path = Path("/var/lib/badge-agent")  # holds outbox.db; on a disk
    runtime_dir: Path = Path("/run/badge-agent")  # holds status.json and metrics.prom; in memory
    log_level: LogLevel = "info"
    heartbeat_minutes: float = 60  # between two heartbeats into the pipe for door events; 0: none
    reader_keys_file: Path | None = None  # None: the service's credential; see agent.keys.reader_keys


@dataclass(frozen=True)
class ReaderSettings:
    """One table [[readers]]."""

    id: str
    zone_id: str
    port: Path
    protocol: str  # a key of agent.readers.protocols.PROTOCOLS
    direction: Direction | None = None
    baudrate: int | None = None  # None: the protocol's default; so for the next three
    data_bits: int | None = None
    line_parity: LineParity | None = None  # of each byte on the serial line
    stop_bits: int | None = None
    rs485: bool = False  # the port's driver switches the direction of its RS-485 transceiver by RTS
    formats: tuple[str, ...] = DEFAULT_FORMATS  # names of agent.readers.cards.formats
    # A Wiegand word of a length that no enabled format has is a card without fields, or noise. None: a
    # card with the default formats; with others noise, because each other length has lost or gained bits.
    unknown_lengths: UnknownLengths | None = None
    keypad: Keypad = "unknown"
    pin_facility_code: int = 0  # with `card26`: the facility code under which the keypad sends PINs
    pin_digits: int = 6  # with `pin26` and `pin34`: the most digits of a PIN
    parity: ParityPolicy = "reject"
    badge_id: str = "{facility_code}-{card_number}"  # a template, see agent.readers.cards.badge_id
    hold_off_ms: int = 1000  # a repeated read within this time is the same swipe
    expect_traffic_within: int | None = None  # seconds without data until the reader counts as silent
    options: Mapping[str, object] = field(default_factory=dict)  # of this protocol only


@dataclass(frozen=True)
class SnowflakeSettings:
    """The table [snowflake]."""

    account: str  # ORGANIZATION-ACCOUNT
    user: str
    database: str
    schema: str
    pipe: str
    url: str  # without path or trailing slash
    role: str | None = None  # None: the user's default role
    private_key_file: Path | None = None  # None: the service's credential, see agent.keys.lookup
    private_key_passphrase_file: Path | None = None
    ca_file: Path | None = None  # an additional certificate authority, PEM
    proxy: str | None = None  # http://HOST:PORT; the environment is not read
    proxy_login_file: Path | None = None  # one line, user:password
    events_pipe: str = "SFE_DOOR_EVENTS_PIPE"  # for door events and heartbeats


@dataclass(frozen=True)
class OutboxSettings:
    """The table [outbox]."""

    retention_days: float = 7  # how long committed rows are kept for replay
    max_bytes: int = 2_000_000_000  # committed rows are purged above this size; pending rows never
    reserve_bytes: int = 8_000_000  # preallocated, freed when the disk is full


@dataclass(frozen=True)
class UploaderSettings:
    """The table [uploader]; the first three defaults are Snowflake's limits for a channel."""

    max_request_bytes: int = 4_000_000  # of the compressed body
    max_requests_per_second: int = 10
    max_bytes_per_second: int = 20_000_000
    backoff_max_seconds: float = 60


@dataclass(frozen=True)
class ClockSettings:
    """The table [clock]."""

    trust: Trust = "auto"  # `always`: the clock counts as synchronised without the system's confirmation
    hold_unsynced_seconds: float = 120  # from the start: how long rows with an untrusted time wait


@dataclass(frozen=True)
class HeartbeatSettings:
    """The table [heartbeat]: an address of a monitoring service, which raises an alarm without requests."""

    url: str | None = field(default=None, repr=False)  # who knows it can make a dead door look alive
    minutes: float = 5  # between two requests


@dataclass(frozen=True)
class PrivacySettings:
    """The table [privacy]."""

    # `keyed`: pseudonyms instead of card_raw, card_number, facility_code, badge_id; see agent.keys.site_key
    card_numbers: CardNumbers = "plain"
    site_key_file: Path | None = None  # None: the service's credential


@dataclass(frozen=True)
class Settings:
    """The configuration file at `path`; every path in it is absolute."""

    agent: AgentSettings
    readers: tuple[ReaderSettings, ...]
    cardholders_file: Path | None
    snowflake: SnowflakeSettings
    outbox: OutboxSettings
    uploader: UploaderSettings
    clock: ClockSettings
    privacy: PrivacySettings
    heartbeat: HeartbeatSettings
    path: Path
