"""The pipes: their statements, the fall-back without functions, and the replacement of an older pipe."""

from __future__ import annotations

from agent.sql.access import created_role
from agent.sql.columns import PIPED, SENT, Column, names
from agent.sql.door_events import EVENT_PIPED
from agent.sql.names import commented, literal, stored
from agent.sql.plan import CHANNELS_PER_PIPE, DOORS_PER_PIPE, WAREHOUSE_NEEDED, Plan

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
-- {DOORS_PER_PIPE:,} doors per pipe (--pipes), because a door has a second channel while it replays, and
-- the channel of an SD card that was replaced stays for 30 days.
{created}

-- The pipes use only functions of the list "Supported functions" of "Transforming data during a load".
-- If the account refuses NVL, TO_TIMESTAMP_NTZ or CASE nevertheless, use this statement, which only
-- casts. signal_strength is then NULL in place of -999, signal_quality is NULL, and the direction is
-- stored as it was sent; the views compute the rest. In the pipe of door events below replace
-- TO_TIMESTAMP_NTZ($1:at::STRING) by $1:at::TIMESTAMP_NTZ.
{commented(_pipe(plan, plan.pipes[0], _CREATE, casts_only=True))}

-- Door events and heartbeats.
{_events_pipes(plan, _CREATE)}

{_check(plan)}"""


def replacement(plan: Plan) -> str:
    """Replaces the pipes, restores their grants, and completes the rows that the old pipes loaded."""
    created = "\n\n".join(_pipe(plan, pipe, _REPLACE) for pipe in plan.pipes)
    grants = "\n".join(f"GRANT OPERATE ON PIPE {pipe} TO ROLE {plan.role};" for pipe in plan.every_pipe)
    return f"""\
-- For a pipe that was made by an earlier version, or by the demo, and does not fill every column. Run
-- it after the script setup has stopped at such a pipe; then run setup and the rest again.
-- A pipe is replaced with its channels and their positions; every agent opens a new channel and continues
-- at its own position, and no row is lost. For some minutes afterwards an agent may log 404 or 409: it
-- tries again.
{created_role(plan)}

-- Needs OWNERSHIP of the pipe and CREATE PIPE on the schema.
USE ROLE {plan.owner};

{created}

{_events_pipes(plan, _REPLACE)}

-- Replacing a pipe drops the grants on it. MONITOR, if it was granted: badge-agent sql --only privacy.
{grants}

{_completion(plan)}"""


def _completion(plan: Plan) -> str:
    columns = [column for column in PIPED if column.name != "raw_json"]
    assignments = ",\n      ".join(
        f"{column.name} = {column.expression.replace('$1', 'raw_json')}" for column in columns
    )
    return f"""\
-- Completes the rows of the doors that the old pipe has loaded, from their raw_json. It changes their
-- time of arrival: V_END_TO_END_LATENCY shows them as late for a day. Where the table has error logging,
-- a row that cannot be completed stays as it is, and is recorded in the error table.
-- {WAREHOUSE_NEEDED.format(plan.warehouse)}
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


def _complete(pipe_names: list[str], members: list[str]) -> str:
    """The condition that a pipe of these names reads these members."""
    listed = ", ".join(literal(stored(name)) for name in pipe_names)
    reads = "\n          ".join(f"AND CONTAINS(LOWER(definition), {literal(member)})" for member in members)
    return f"(pipe_name IN ({listed})\n          {reads})"


def _check(plan: Plan) -> str:
    """A block that raises an exception if a pipe lacks a member; a worksheet then stops here."""
    complete = "\n        OR ".join(
        [
            _complete(plan.pipe_names, [column.name for column in SENT]),
            _complete(plan.events_pipe_names, [column.name for column in EVENT_PIPED if column.is_member]),
        ]
    )
    listed = ", ".join(map(literal, plan.stored_pipe_names))
    return f"""\
-- CREATE PIPE IF NOT EXISTS keeps a pipe that is there, such as the demo's. Its SELECT does not fill
-- the columns of the doors: they would be NULL, and every V_DOOR_ view empty. No door can see this. So
-- this block stops the script. INFORMATION_SCHEMA.PIPES shows a pipe to its owner and to roles with
-- MONITOR on it. {WAREHOUSE_NEEDED.format(plan.warehouse)}
EXECUTE IMMEDIATE $$
DECLARE
  not_visible EXCEPTION (-20001,
    'A pipe is not visible to this role. Run the script with the role that owns the pipe.');
  incomplete EXCEPTION (-20002,
    'A pipe does not fill every column. Run badge-agent sql --only replace-pipe, then this script again.');
  visible_count INTEGER;
  complete_count INTEGER;
BEGIN
  SELECT COUNT(*), COUNT_IF(
        {complete})
    INTO :visible_count, :complete_count
    FROM {plan.database}.INFORMATION_SCHEMA.PIPES
    WHERE pipe_schema = {literal(stored(plan.schema_name))}
      AND pipe_name IN ({listed});
  IF (visible_count < {len(plan.every_pipe)}) THEN
    RAISE not_visible;
  END IF;
  IF (complete_count < {len(plan.every_pipe)}) THEN
    RAISE incomplete;
  END IF;
  RETURN 'The pipes fill every column.';
END;
$$;"""
