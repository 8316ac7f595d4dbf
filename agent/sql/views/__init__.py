"""The monitoring views: one SELECT each, the same text in Snowflake and in the emulator."""

from __future__ import annotations

from agent.sql.names import commented
from agent.sql.plan import Plan
from agent.sql.views.chain import CHAIN
from agent.sql.views.doors import ANCHORS, ERRORS, FLEET, GAPS, OPERATOR_ACTIONS, STATUS
from agent.sql.views.latency import LATENCY, LATENCY_DAILY
from agent.sql.views.people import PASSBACK, PRESENT
from agent.sql.views.rows import DUPLICATES, EVENTS, METRICS, ROW_DIFFERS
from agent.sql.views.view import Sources, View

__all__ = [
    "ANCHORS",
    "ARRIVED_AT",
    "CHAIN",
    "EVENTS",
    "FLEET",
    "GAPS",
    "LATENCY",
    "METRICS",
    "OPERATOR_ACTIONS",
    "PASSBACK",
    "PRESENT",
    "STATUS",
    "VIEWS",
    "Sources",
    "View",
    "sources",
    "views",
]

# In the order in which they are created: a view is based on those before it.
VIEWS = (
    *(EVENTS, METRICS, ANCHORS, GAPS, CHAIN, STATUS, LATENCY, LATENCY_DAILY, ERRORS),
    *(DUPLICATES, ROW_DIFFERS, PRESENT, PASSBACK, FLEET, OPERATOR_ACTIONS),
)

# When a row was committed, as Snowflake recorded it. Rows from before ROW_TIMESTAMP was set have no such
# time, and that of an erased row is the time of the erasure.
_COMMITTED_AT = "CONVERT_TIMEZONE('UTC', METADATA$ROW_LAST_COMMIT_TIME)::TIMESTAMP_NTZ"
ARRIVED_AT = f"""COALESCE(
           CASE WHEN person_digest IS NULL
             THEN {_COMMITTED_AT} END,
           ingestion_time)"""


def sources(plan: Plan) -> Sources:
    """The sources in an account."""
    return Sources(
        table=plan.table,
        events=plan.view(EVENTS.name),
        errors=f"ERROR_TABLE({plan.table})",
        purged=plan.purged,
        anchors=plan.view(ANCHORS.name),
        door_events=plan.events_table,
        expected_doors=plan.expected_doors,
        door_status=plan.view(STATUS.name),
        arrived_at=ARRIVED_AT,
        reported_at=f"COALESCE(\n           {_COMMITTED_AT}, ingestion_time)",
    )


def views(plan: Plan) -> str:
    """The views, each with its purpose."""
    created = "\n\n".join(
        f"{commented(view.why)}\n"
        f"CREATE OR REPLACE VIEW {plan.view(view.name)} COPY GRANTS AS\n"
        f"{view.select(sources(plan))};"
        for view in VIEWS
    )
    channels = "\n".join(f"SHOW CHANNELS IN PIPE {pipe};" for pipe in plan.every_pipe)
    return f"""\
-- Views are replaced each time: they hold no rows, and COPY GRANTS keeps the privileges on them.
-- To let a role read them, grant USAGE on {plan.database} and {plan.views_schema},
-- and SELECT on the view: the view reads the table with its owner's privileges.
-- Needs CREATE VIEW on both schemas and SELECT on the tables; their owner has them.
USE ROLE {plan.owner};

{created}

-- The demo has this view in the schema of its table: it is replaced there.
CREATE OR REPLACE VIEW {plan.demo_metrics} COPY GRANTS AS
SELECT * FROM {plan.view(METRICS.name)};

-- The channels, each with its committed offset token. SHOW CHANNELS IN TABLE does not list those of a
-- named pipe.
{channels}"""
