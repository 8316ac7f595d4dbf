"""A view: its purpose and its SELECT, the same text in Snowflake, in the emulator and in the tests."""

from __future__ import annotations

from dataclasses import dataclass, fields

from agent.sql.columns import names

# A row of send-sample, which is no traffic: it has an agent but no outbox. The demo's rows have neither.
NO_SAMPLE = "(outbox_id IS NOT NULL OR agent_id IS NULL)"

# The time of a row whose clock was never set may be far off; then its arrival is the better time.
HAPPENED_AT = """CASE WHEN clock = 'estimated' AND COALESCE(time_uncertainty_ms, 60001) > 60000
                  THEN {arrived_at} ELSE event_timestamp
             END"""


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of the SELECTs, as SQL; `arrived_at` and `reported_at` are expressions over the tables."""

    table: str
    events: str
    errors: str
    purged: str
    anchors: str
    door_events: str
    expected_doors: str
    door_status: str
    arrived_at: str
    reported_at: str


@dataclass(frozen=True, slots=True)
class View:
    """One view: its purpose, and its SELECT with the names of Sources in braces."""

    name: str
    why: str
    template: str

    def select(self, sources: Sources) -> str:
        """The SELECT over these sources."""
        return self.template.format(
            **{field.name: getattr(sources, field.name) for field in fields(sources)},
            columns=names(indent=" " * 7),
            inner_columns=names(indent=" " * 9),
        )
