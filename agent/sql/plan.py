"""What the scripts create: the objects in the account, named as in the configuration."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from agent.errors import ConfigError
from agent.sql.names import identifier, name_problem, qualified, stored, user_identifier

TABLE = "RAW_BADGE_EVENTS"
VIEWS_SCHEMA = "ANALYTICS_LAYER"
DEFAULT_ROLE = "SFE_INGEST_ROLE"

# Snowflake's limits for the high-performance architecture.
CHANNELS_PER_PIPE = 2_000
PIPES_PER_TABLE = 10
# A door has one channel and a second one while it replays; a new SD card is a new channel, and the old
# one lives on for 30 days. So not all of a pipe's channels can be promised to doors.
DOORS_PER_PIPE = 1_800


@dataclass(frozen=True, slots=True)
class Plan:
    """The names of the account's objects; the properties are those names as SQL."""

    account: str
    database_name: str
    schema_name: str
    pipe_name: str
    user_name: str
    role_name: str = DEFAULT_ROLE
    pipe_count: int = 1
    public_key_line: str | None = field(default=None, repr=False)
    fingerprint: str | None = None
    key_slot: str = "RSA_PUBLIC_KEY"  # of the user; a rotation changes to RSA_PUBLIC_KEY_2 and back
    allowed_networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ConfigError with every problem."""
        problems = [
            f"snowflake.{key} {wrong}"
            for key, name in (
                ("database", self.database_name),
                ("schema", self.schema_name),
                ("pipe", self.pipe_names[-1]),
                ("user", self.user_name),
                ("role", self.role_name),
            )
            if (wrong := name_problem(name))
        ]
        problems += [
            f"the network {network!r} is no IPv4 address or range"
            for network in self.allowed_networks
            if not _is_network(network)
        ]
        if not 1 <= self.pipe_count <= PIPES_PER_TABLE:
            problems.append(f"{self.pipe_count} pipes: a table takes 1 to {PIPES_PER_TABLE}")
        if problems:
            raise ConfigError(
                "no SQL can be written for these names",
                hint="correct them; Snowflake's names have 1 to 255 printable characters",
                problems=problems,
            )

    @property
    def database(self) -> str:
        """The database."""
        return identifier(self.database_name)

    @property
    def schema(self) -> str:
        """The schema of table and pipes."""
        return qualified(self.database_name, self.schema_name)

    @property
    def views_schema(self) -> str:
        """The schema of the views."""
        return qualified(self.database_name, VIEWS_SCHEMA)

    @property
    def table(self) -> str:
        """The table that receives the rows."""
        return qualified(self.database_name, self.schema_name, TABLE)

    @property
    def pipe_names(self) -> list[str]:
        """The pipes' own names; the first is the configured one, so that more can be added later."""
        return [self.pipe_name, *(f"{self.pipe_name}_{number}" for number in range(2, self.pipe_count + 1))]

    @property
    def pipes(self) -> list[str]:
        """The pipes, each with its database and schema."""
        return [qualified(self.database_name, self.schema_name, name) for name in self.pipe_names]

    @property
    def user(self) -> str:
        """The service user."""
        return user_identifier(self.user_name)

    @property
    def role(self) -> str:
        """The role of the service user."""
        return identifier(self.role_name)

    @property
    def network_policy(self) -> str:
        """The network policy of the service user."""
        return identifier(f"{stored(self.user_name).upper()[:240]}_NETWORK")

    def view(self, name: str) -> str:
        """One of the views."""
        return f"{self.views_schema}.{name}"


def _is_network(text: str) -> bool:
    try:
        ipaddress.IPv4Network(text, strict=False)
    except ValueError:
        return False
    return True
