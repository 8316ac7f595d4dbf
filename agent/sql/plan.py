"""What the scripts create: the objects in the account, named as in the configuration."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from agent.errors import ConfigError
from agent.sql.names import identifier, name_problem, qualified, stored, user_identifier

TABLE = "RAW_BADGE_EVENTS"
EVENTS_TABLE = "RAW_DOOR_EVENTS"
EVENTS_PIPE = "SFE_DOOR_EVENTS_PIPE"
PURGED_TABLE = "PURGED"
EXPECTED_TABLE = "EXPECTED_DOORS"
VIEWS_SCHEMA = "ANALYTICS_LAYER"
DEFAULT_ROLE = "SFE_INGEST_ROLE"
OWNER = "SYSADMIN"
# Has what USERADMIN owns. The user of the demo belongs to it, and USERADMIN cannot alter that one.
USER_OWNER = "ACCOUNTADMIN"

# The default warehouse of the session is used where there is one, because this name is a guess.
WAREHOUSE_NEEDED = "Needs a warehouse. If the session has none: USE WAREHOUSE {};"

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
    events_pipe_name: str = EVENTS_PIPE
    pipe_count: int = 1
    public_key_line: str | None = field(default=None, repr=False)
    fingerprint: str | None = None
    key_slot: str = "RSA_PUBLIC_KEY"  # of the user; a rotation changes to RSA_PUBLIC_KEY_2 and back
    allowed_networks: tuple[str, ...] = ()
    warehouse_name: str = "COMPUTE_WH"

    def __post_init__(self) -> None:
        """Raises ConfigError with every problem."""
        problems = [
            f"snowflake.{key} {wrong}"
            for key, name in (
                ("database", self.database_name),
                ("schema", self.schema_name),
                ("pipe", self.pipe_names[-1]),
                ("events_pipe", self.events_pipe_names[-1]),
                ("user", self.user_name),
                ("role", self.role_name),
            )
            if (wrong := name_problem(name) or _block_problem(name))
        ]
        if wrong := name_problem(self.warehouse_name):
            problems.append(f"the name of the warehouse {wrong}")
        problems += filter(None, map(_network_problem, self.allowed_networks))
        if len(set(self.stored_pipe_names)) < 2 * self.pipe_count:
            problems.append("snowflake.events_pipe has the name of a pipe for swipes")
        if not 1 <= self.pipe_count <= PIPES_PER_TABLE:
            problems.append(f"{self.pipe_count} pipes: a table takes 1 to {PIPES_PER_TABLE}")
        if problems:
            raise ConfigError(
                "no SQL can be written for these names",
                hint="correct them; Snowflake's names have 1 to 255 printable characters",
                problems=problems,
            )

    @property
    def owner(self) -> str:
        """The role that owns database, tables, pipes and views."""
        return OWNER

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
        return self._raw(TABLE)

    @property
    def events_table(self) -> str:
        """The table of door events and heartbeats."""
        return self._raw(EVENTS_TABLE)

    @property
    def events_pipe_names(self) -> list[str]:
        """The own names of the pipes of door events: as many as of swipes, a door has a channel in both."""
        return _numbered(self.events_pipe_name, self.pipe_count)

    @property
    def events_pipes(self) -> list[str]:
        """The pipes of door events and heartbeats, each with its database and schema."""
        return [self._raw(name) for name in self.events_pipe_names]

    @property
    def purged(self) -> str:
        """The table of what was deleted on purpose."""
        return self._raw(PURGED_TABLE)

    @property
    def expected_doors(self) -> str:
        """The table of the doors that should be there."""
        return self._raw(EXPECTED_TABLE)

    @property
    def pipe_names(self) -> list[str]:
        """The pipes' own names; the first is the configured one, so that more can be added later."""
        return _numbered(self.pipe_name, self.pipe_count)

    @property
    def pipes(self) -> list[str]:
        """The pipes, each with its database and schema."""
        return [qualified(self.database_name, self.schema_name, name) for name in self.pipe_names]

    @property
    def every_pipe(self) -> list[str]:
        """The pipes of both tables."""
        return [*self.pipes, *self.events_pipes]

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
        return identifier(f"{self._policy_prefix}_NETWORK")

    @property
    def purge(self) -> str:
        """The procedure that deletes old rows."""
        return self._raw("PURGE_BADGE_EVENTS")

    @property
    def erase(self) -> str:
        """The procedure that erases a person."""
        return self._raw("ERASE_PERSON")

    @property
    def demo_metrics(self) -> str:
        """The place of V_INGESTION_METRICS in the demo."""
        return self._raw("V_INGESTION_METRICS")

    @property
    def warehouse(self) -> str:
        """The warehouse that alerts and the dynamic table use."""
        return identifier(self.warehouse_name)

    @property
    def dynamic_table(self) -> str:
        """The dynamic table with every event once."""
        return self.view("BADGE_EVENTS")

    @property
    def site_roles(self) -> str:
        """The table that says which role may see which site."""
        return self._raw("SITE_ROLES")

    @property
    def tag(self) -> str:
        """The tag of personal columns."""
        return self._raw("BADGE_PERSONAL")

    def mask(self, kind: str) -> str:
        """The masking policy of columns of this type."""
        return self._raw(f"BADGE_MASK_{kind}")

    @property
    def stored_pipe_names(self) -> list[str]:
        """The names of the pipes of both tables as Snowflake's own tables of objects have them."""
        return [stored(name) for name in (*self.pipe_names, *self.events_pipe_names)]

    @property
    def stored_database(self) -> str:
        """The database as Snowflake's own tables of objects have it."""
        return stored(self.database_name)

    @property
    def stored_schema(self) -> str:
        """The schema of table and pipes as Snowflake's own tables of objects have it."""
        return stored(self.schema_name)

    @property
    def ipv4_networks(self) -> list[str]:
        """The allowed networks that the list of a network policy takes."""
        return self._networks(version=4)

    @property
    def ipv6_networks(self) -> list[str]:
        """The allowed networks that need a network rule."""
        return self._networks(version=6)

    @property
    def network_rule(self) -> str:
        """The network rule for the service user's IPv6 networks."""
        return self._raw(f"{self._policy_prefix}_IPV6")

    @property
    def authentication_policy(self) -> str:
        """The authentication policy of the service user."""
        return self._raw("BADGE_KEYPAIR_ONLY")

    @property
    def _policy_prefix(self) -> str:
        return stored(self.user_name).upper()[:240]

    def _networks(self, *, version: int) -> list[str]:
        return [
            text
            for text in self.allowed_networks
            if ipaddress.ip_network(text, strict=False).version == version
        ]

    def _raw(self, name: str) -> str:
        return qualified(self.database_name, self.schema_name, name)

    def view(self, name: str) -> str:
        """One of the views."""
        return f"{self.views_schema}.{name}"


def _numbered(name: str, count: int) -> list[str]:
    return [name, *(f"{name}_{number}" for number in range(2, count + 1))]


def _block_problem(name: str) -> str | None:
    return "holds $$, which ends a block of these scripts" if "$$" in name else None


def _network_problem(text: str) -> str | None:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"the network {text!r} is no IP address or range"
    return None
