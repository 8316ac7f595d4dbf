"""The pipes: their statements, the fall-back without functions, and the replacement of an older pipe."""

from __future__ import annotations

from agent.sql.columns import PIPED, SENT, Column, names
from agent.sql.door_events import EVENT_PIPED
from agent.sql.names import literal, stored
from agent.sql.plan import CHANNELS_PER_PIPE, DOORS_PER_PIPE, Plan

STREAM = "TABLE(DATA_SOURCE(TYPE => 'STREAMING'))"

_CREATE, _REPLACE = "CREATE PIPE IF NOT EXISTS", "CREATE OR REPLACE PIPE"


def pipe_select(columns: tuple[Column, ...] = PIPED, *, casts_only: bool = False) -> str:
    """A pipe's SELECT: one expression for each column that the pipe fills, in the order of the columns."""
    expressions = ",\n      ".join(_expression(column, casts_only=casts_only) for column in columns)
    return f"SELECT\n      {expressions}\n    FROM {STREAM}"


def pipes(plan: Plan) -> str:
    """The pipes of both tables, if they do not exist, and a check that they fill every column."""
    created = "\n\n".join(_pipe(plan, pipe, _CREATE) for pipe in plan.pipes)
    return f"""\
-- The columns are named, because COPY INTO without names goes by position: a SELECT in another
-- order than the table's would put the direction into signal_quality without an error.
-- event_timestamp is sent in UTC, with a Z; TO_TIMESTAMP_NTZ takes it unchanged, whatever the
-- account's TIMEZONE. signal_strength keeps its decimals (a plain ::NUMBER rounds them away),
-- and -999 means a reader that does not measure it.
--
-- Needs CREATE PIPE on the schema. A pipe takes {CHANNELS_PER_PIPE:,} channels. Plan for at most
-- {DOORS_PER_PIPE:,} doors, because each has a second channel while it replays, and one more for 30 days
-- after a new SD card: see --pipes.
{created}

-- Only functions of the list "Supported functions" of "Transforming data during a load" are used.
-- If the account refuses NVL, TO_TIMESTAMP_NTZ or CASE nevertheless, use this statement: casts
-- only. signal_strength is then NULL in place of -999, and the views compute the rest.
{_commented(_pipe(plan, plan.pipes[0], _CREATE, casts_only=True))}

-- Door events and heartbeats.
{_events_pipes(plan, _CREATE)}

{_check(plan)}"""


def replacement(plan: Plan) -> str:
    """Replaces the pipes, restores their grants, and completes the rows that the old pipes loaded."""
    created = "\n\n".join(_pipe(plan, pipe, _REPLACE) for pipe in plan.pipes)
    grants = "\n".join(f"GRANT OPERATE ON PIPE {pipe} TO ROLE {plan.role};" for pipe in plan.every_pipe)
    return f"""\
-- For a pipe that was made by an earlier version, or by the demo, and does not fill every column.
-- Its channels and their positions go with it; every agent opens a new channel at its own position,
-- and no row is lost. For some minutes after it an agent may log 404 or 409: it tries again.
-- Needs OWNERSHIP of the pipe and CREATE PIPE on the schema.
USE ROLE {plan.owner};

{created}

{_events_pipes(plan, _REPLACE)}

-- Replacing a pipe drops the grants on it.
{grants}

{_completion(plan)}"""


def _completion(plan: Plan) -> str:
    columns = [column for column in PIPED if column.name != "raw_json"]
    assignments = ",\n      ".join(
        f"{column.name} = {column.expression.replace('$1', 'raw_json')}" for column in columns
    )
    return f"""\
-- The rows that the old pipe has loaded, from their raw_json. The UPDATE moves their time of arrival:
-- the views on latency show them as late for a day.
UPDATE {plan.table}
  SET {assignments}
  WHERE raw_json:outbox_id IS NOT NULL
    AND person_digest IS NULL
    AND (outbox_id IS NULL OR (person_salt IS NULL AND raw_json:person_salt IS NOT NULL));"""


def _pipe(plan: Plan, pipe: str, verb: str, *, casts_only: bool = False) -> str:
    columns = tuple(column for column in PIPED if not casts_only or column.cast != "")
    return _statement(verb, pipe, plan.table, columns, casts_only=casts_only)


def _events_pipes(plan: Plan, verb: str) -> str:
    return "\n\n".join(
        _statement(verb, pipe, plan.events_table, EVENT_PIPED, casts_only=False) for pipe in plan.events_pipes
    )


def _statement(verb: str, pipe: str, table: str, columns: tuple[Column, ...], *, casts_only: bool) -> str:
    return (
        f"{verb} {pipe} AS\n"
        f"  COPY INTO {table} (\n    {names('    ', columns)}\n  )\n"
        f"  FROM (\n    {pipe_select(columns, casts_only=casts_only)}\n  );"
    )


def _expression(column: Column, *, casts_only: bool) -> str:
    return column.cast if casts_only and column.cast is not None else column.expression


def _check(plan: Plan) -> str:
    """A block that raises an exception if a pipe lacks a member; a worksheet then stops here."""
    listed = ", ".join(literal(stored(name)) for name in plan.pipe_names)
    complete = "\n        AND ".join(
        f"CONTAINS(LOWER(definition), {literal(column.name)})" for column in SENT
    )
    return f"""\
-- CREATE PIPE IF NOT EXISTS keeps a pipe that is there, such as the demo's, whose SELECT does not fill
-- the columns of the doors: they would be NULL, and every V_DOOR_ view empty. So this block stops the
-- script. INFORMATION_SCHEMA.PIPES shows a pipe to its owner and to roles with MONITOR on it.
EXECUTE IMMEDIATE $$
DECLARE
  not_visible EXCEPTION (-20001,
    'A pipe is not visible to this role. Run the script with the role that owns the pipe.');
  incomplete EXCEPTION (-20002,
    'A pipe does not fill every column. Replace it: badge-agent sql --only replace-pipe');
  visible_count INTEGER;
  complete_count INTEGER;
BEGIN
  SELECT COUNT(*), COUNT_IF(
        {complete})
    INTO :visible_count, :complete_count
    FROM {plan.database}.INFORMATION_SCHEMA.PIPES
    WHERE pipe_schema = {literal(stored(plan.schema_name))}
      AND pipe_name IN ({listed});
  IF (visible_count < {plan.pipe_count}) THEN
    RAISE not_visible;
  END IF;
  IF (complete_count < {plan.pipe_count}) THEN
    RAISE incomplete;
  END IF;
  RETURN 'The pipes fill every column.';
END;
$$;"""


def _commented(text: str) -> str:
    return "\n".join(f"-- {line}" for line in text.splitlines())
