"""The script that creates database, schemas, tables and pipes."""

from __future__ import annotations

from agent.sql.columns import ADDED, COLUMNS, Column
from agent.sql.door_events import EVENT_COLUMNS
from agent.sql.pipes import pipes
from agent.sql.plan import Plan


def setup(plan: Plan) -> str:
    """Database, schemas, tables, error logging, row timestamps, pipes."""
    return "\n\n".join(
        [
            _places(plan),
            _table(plan),
            _missing_columns(plan),
            _events_table(plan),
            _operators_tables(plan),
            _properties(plan),
            pipes(plan),
        ]
    )


def _places(plan: Plan) -> str:
    return f"""\
-- {plan.owner} owns what is made here, the service user owns nothing. If another role owns the database
-- or its objects already, replace {plan.owner} by that role in every script.
-- Needs CREATE DATABASE on the account, which {plan.owner} has, also where the database exists.
USE ROLE {plan.owner};

CREATE DATABASE IF NOT EXISTS {plan.database};

-- Rows and views have separate schemas: readers of the views need no privilege on the first.
CREATE SCHEMA IF NOT EXISTS {plan.schema};
CREATE SCHEMA IF NOT EXISTS {plan.views_schema};"""


def _table(plan: Plan) -> str:
    return f"""\
-- One row for every swipe that arrived. With the columns from event_id on, the views find rows that are
-- missing, doubled or altered. All times are UTC, except ingestion_time in a table of the demo, which is
-- in the time zone of the account.
{_created(plan.table, COLUMNS)}"""


def _missing_columns(plan: Plan) -> str:
    additions = "\n".join(
        f"ALTER TABLE {plan.table} ADD COLUMN IF NOT EXISTS {column.name} {column.type};" for column in ADDED
    )
    return f"""\
-- Adds the columns that a table of the demo or of an earlier version lacks. A column agent_version of an
-- earlier version of this script is kept and is no longer filled.
{additions}"""


def _events_table(plan: Plan) -> str:
    return f"""\
-- What happened to a door (a reader lost, the clock set, an operator's command), and its signed
-- heartbeats: V_ANCHORS and V_FLEET read them.
{_created(plan.events_table, EVENT_COLUMNS)}"""


def _operators_tables(plan: Plan) -> str:
    return f"""\
-- What PURGE_BADGE_EVENTS has deleted: V_DOOR_GAPS and V_DOOR_CHAIN begin after it. A role that may
-- write here can hide a deletion: grant no INSERT on it.
CREATE TABLE IF NOT EXISTS {plan.purged} (
  agent_id       VARCHAR NOT NULL,
  outbox_id      VARCHAR NOT NULL,
  up_to_seq      NUMBER(38,0) NOT NULL,
  chain          VARCHAR,
  row_count      NUMBER(38,0),
  missing_count  NUMBER(38,0),
  purged_at      TIMESTAMP_NTZ DEFAULT SYSDATE(),
  purged_by      VARCHAR
);

-- Insert your doors here: V_FLEET then also shows a door that never sent anything.
CREATE TABLE IF NOT EXISTS {plan.expected_doors} (
  agent_id  VARCHAR NOT NULL,
  site      VARCHAR,
  note      VARCHAR
);"""


def _properties(plan: Plan) -> str:
    return f"""\
-- Streaming skips a row that cannot be loaded and continues. With error logging the skipped row is kept
-- with the reason: see V_CHANNEL_ERRORS. On a table with error logging your own INSERT and UPDATE
-- statements also record such rows instead of failing, and a plain COPY INTO from a stage is refused:
-- load files into another table first.
ALTER TABLE {plan.table} SET ERROR_LOGGING = TRUE;
ALTER TABLE {plan.events_table} SET ERROR_LOGGING = TRUE;

-- ROW_TIMESTAMP records when a row was committed. ingestion_time does not show it: its default is computed
-- when Snowflake compiles the pipe's statement, which may be hours before the row.
ALTER TABLE {plan.table} SET ROW_TIMESTAMP = TRUE;
ALTER TABLE {plan.events_table} SET ROW_TIMESTAMP = TRUE;"""


def _created(table: str, columns: tuple[Column, ...]) -> str:
    width = max(len(column.name) for column in columns)
    lines = ",\n".join(f"  {column.name:<{width}}  {column.type}" for column in columns)
    return f"CREATE TABLE IF NOT EXISTS {table} (\n{lines}\n);"
