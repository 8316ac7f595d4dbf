"""The script that creates database, schemas, table and pipes."""

from __future__ import annotations

from agent.sql.columns import ADDED, COLUMNS, PIPED, names
from agent.sql.plan import CHANNELS_PER_PIPE, DOORS_PER_PIPE, Plan

STREAM = "TABLE(DATA_SOURCE(TYPE => 'STREAMING'))"


def setup(plan: Plan) -> str:
    """Database, schemas, table, error logging, row timestamps, pipes."""
    return "\n\n".join([_places(plan), _table(plan), _missing_columns(plan), _properties(plan), _pipes(plan)])


def pipe_select() -> str:
    """The pipe's SELECT: one expression for each column that the pipe fills, in the order of PIPED."""
    expressions = ",\n      ".join(column.expression for column in PIPED)
    return f"SELECT\n      {expressions}\n    FROM {STREAM}"


def _places(plan: Plan) -> str:
    return f"""\
-- SYSADMIN owns what is made here, the service user none of it. If another role owns the
-- database already, use that one in place of SYSADMIN, here and in the other scripts.
USE ROLE SYSADMIN;

CREATE DATABASE IF NOT EXISTS {plan.database};

-- Rows and views have separate schemas: readers of the views need no privilege on the first.
CREATE SCHEMA IF NOT EXISTS {plan.schema};
CREATE SCHEMA IF NOT EXISTS {plan.views_schema};"""


def _table(plan: Plan) -> str:
    width = max(len(column.name) for column in COLUMNS)
    columns = ",\n".join(f"  {column.name:<{width}}  {column.type}" for column in COLUMNS)
    return f"""\
-- One row for every swipe that arrived. The columns from event_id on let SQL prove that
-- nothing is missing, doubled or altered: see the views. All times are UTC.
CREATE TABLE IF NOT EXISTS {plan.table} (
{columns}
);"""


def _missing_columns(plan: Plan) -> str:
    additions = "\n".join(
        f"ALTER TABLE {plan.table} ADD COLUMN IF NOT EXISTS {column.name} {column.type};" for column in ADDED
    )
    return f"""\
-- For a table that was there before, such as the one of the demo: the columns it lacks. A column
-- agent_version of an earlier version of this script stays as it is and is no longer filled.
{additions}"""


def _properties(plan: Plan) -> str:
    return f"""\
-- A row that cannot be loaded is skipped, and the stream goes on: streaming knows no other way.
-- With error logging the skipped row is kept, with the reason: see V_CHANNEL_ERRORS.
ALTER TABLE {plan.table} SET ERROR_LOGGING = TRUE;

-- When a row was committed. ingestion_time does not show it: SYSDATE() in a pipe is the time at which
-- Snowflake compiled the pipe's statement, which may be hours before the row.
ALTER TABLE {plan.table} SET ROW_TIMESTAMP = TRUE;"""


def _pipes(plan: Plan) -> str:
    created = "\n\n".join(
        f"CREATE PIPE IF NOT EXISTS {pipe} AS\n"
        f"  COPY INTO {plan.table} (\n    {names('    ', PIPED)}\n  )\n"
        f"  FROM (\n    {pipe_select()}\n  );"
        for pipe in plan.pipes
    )
    return f"""\
-- The columns are named, because COPY INTO without names goes by position: a SELECT in another
-- order than the table's would put the direction into signal_quality without an error.
-- event_timestamp is sent in UTC, with a Z; TO_TIMESTAMP_NTZ takes it unchanged, whatever the
-- account's TIMEZONE. signal_strength keeps its decimals (a plain ::NUMBER rounds them away),
-- and -999 means a reader that does not measure it.
--
-- A pipe that exists is left as it is. To replace one, write CREATE OR REPLACE PIPE: its channels
-- and their positions go with it, and every agent opens a new channel at its own position.
-- Replace one that was made for an earlier version, before the agents are upgraded: it does not
-- fill chain_before and person_salt, and without them V_DOOR_CHAIN cannot check a row. Rows that
-- it loaded from upgraded agents can be completed:
-- UPDATE {plan.table}
--   SET person_salt = raw_json:person_salt::VARCHAR, chain_before = raw_json:chain_before::VARCHAR
--   WHERE person_salt IS NULL AND person_digest IS NULL AND raw_json:person_salt IS NOT NULL;
-- A pipe takes {CHANNELS_PER_PIPE:,} channels. Plan for at most {DOORS_PER_PIPE:,} doors, because each has a
-- second channel while it replays, and one more for 30 days after a new SD card: see --pipes.
{created}"""  # noqa: S608 - the UPDATE is printed as a comment
