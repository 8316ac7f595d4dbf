"""The monitoring views: one SELECT each, the same text in Snowflake and in the emulator."""

from __future__ import annotations

from dataclasses import dataclass

from agent.sql.chain import CHAIN_SELECT
from agent.sql.columns import names
from agent.sql.plan import Plan

# When a row was committed, as Snowflake itself recorded it; rows from before ROW_TIMESTAMP was set have none.
ARRIVED_AT = "COALESCE(CONVERT_TIMEZONE('UTC', METADATA$ROW_LAST_COMMIT_TIME)::TIMESTAMP_NTZ, ingestion_time)"


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of the SELECTs, as SQL; `arrived_at` is an expression over the table."""

    table: str
    events: str
    errors: str
    arrived_at: str


@dataclass(frozen=True, slots=True)
class View:
    """One view: its purpose, and its SELECT with the names of Sources in braces."""

    name: str
    why: str
    template: str

    def select(self, sources: Sources) -> str:
        """The SELECT over these sources."""
        return self.template.format(
            table=sources.table,
            events=sources.events,
            errors=sources.errors,
            arrived_at=sources.arrived_at,
            columns=names(indent=" " * 7),
            inner_columns=names(indent=" " * 9),
        )


# A row sent again by `replay`, or after an outbox was restored from a backup, has the event_id it had.
# Rows of other senders have none, and go by what the demo takes for one event.
_EVENTS = """\
SELECT {columns},
       arrived_at
FROM (
  SELECT {inner_columns},
         {arrived_at} AS arrived_at,
         ROW_NUMBER() OVER (
           PARTITION BY COALESCE(
             event_id, badge_id || '|' || reader_id || '|' || CAST(event_timestamp AS VARCHAR))
           ORDER BY COALESCE(replay, FALSE), ingestion_time, outbox_id, seq
         ) AS copy_number
  FROM {table}
) AS copies
WHERE copy_number = 1"""

_METRICS = """\
SELECT DATE_TRUNC('HOUR', arrived_at) AS ingestion_hour,
       COUNT(*) AS event_count,
       ROUND(COUNT(*) / 3600.0, 2) AS events_per_second,
       COUNT(DISTINCT badge_id) AS unique_badges,
       COUNT(DISTINCT zone_id) AS unique_zones,
       ROUND(AVG(NULLIF(signal_strength, -999)), 2) AS avg_signal_strength,
       COUNT_IF(signal_quality = 'WEAK') AS weak_signal_count,
       ROUND(COUNT_IF(signal_quality = 'WEAK') * 100.0 / COUNT(*), 2) AS weak_signal_pct,
       COUNT_IF(direction = 'ENTRY') AS entry_count,
       COUNT_IF(direction = 'EXIT') AS exit_count,
       COUNT_IF(direction = 'ENTRY') - COUNT_IF(direction = 'EXIT') AS net_occupancy_change
FROM (
  SELECT badge_id, zone_id, signal_strength, signal_quality, direction,
         {arrived_at} AS arrived_at
  FROM {table}
) AS arrivals
WHERE arrived_at >= DATEADD('hour', -24, SYSDATE())
GROUP BY DATE_TRUNC('HOUR', arrived_at)
ORDER BY ingestion_hour DESC"""

# Over the table and not over the events: an event that two outboxes sent is one event, but a number of each.
_GAPS = """\
SELECT agent_id,
       outbox_id,
       previous_seq + 1 AS first_missing_seq,
       seq - 1 AS last_missing_seq,
       seq - previous_seq - 1 AS missing_count,
       previous_event_at AS last_event_before,
       event_timestamp AS first_event_after
FROM (
  SELECT agent_id,
         outbox_id,
         seq,
         event_timestamp,
         COALESCE(LAG(seq) OVER (PARTITION BY outbox_id ORDER BY seq), 0) AS previous_seq,
         LAG(event_timestamp) OVER (PARTITION BY outbox_id ORDER BY seq) AS previous_event_at
  FROM {table}
  WHERE outbox_id IS NOT NULL AND seq IS NOT NULL
) AS numbered
WHERE seq > previous_seq + 1
ORDER BY agent_id, outbox_id, first_missing_seq"""

# The time of a row whose clock was never set may be far off; then its arrival is the better time.
_STATUS = """\
SELECT agent_id,
       event_count,
       outbox_count,
       last_event_at,
       last_seen_at,
       ROUND(silent_seconds / 3600.0, 1) AS silent_hours,
       ROUND(expected_seconds / 3600.0, 1) AS expected_hours,
       CASE WHEN silent_seconds > expected_seconds THEN 'SILENT' ELSE 'OK' END AS status
FROM (
  SELECT agent_id,
         COUNT(*) AS event_count,
         COUNT(DISTINCT outbox_id) AS outbox_count,
         MAX(happened_at) AS last_event_at,
         MAX(arrived_at) AS last_seen_at,
         DATEDIFF('second', MAX(happened_at), SYSDATE()) AS silent_seconds,
         GREATEST(24 * 3600, COALESCE(MAX(pause_seconds), 0)) AS expected_seconds
  FROM (
    SELECT agent_id,
           outbox_id,
           happened_at,
           arrived_at,
           CASE WHEN happened_at >= DATEADD('day', -30, SYSDATE()) THEN DATEDIFF(
             'second', LAG(happened_at) OVER (PARTITION BY agent_id ORDER BY happened_at), happened_at)
           END AS pause_seconds
    FROM (
      SELECT agent_id,
             outbox_id,
             arrived_at,
             CASE WHEN clock = 'estimated' AND COALESCE(time_uncertainty_ms, 60001) > 60000
                  THEN arrived_at ELSE event_timestamp
             END AS happened_at
      FROM {events}
      WHERE agent_id IS NOT NULL AND outbox_id IS NOT NULL
    ) AS dated
  ) AS paused
  GROUP BY agent_id
) AS doors
ORDER BY status DESC, agent_id"""

_LATENCY = """\
SELECT agent_id,
       COUNT(*) AS event_count,
       ROUND(AVG(seconds), 2) AS average_seconds,
       ROUND(MAX(seconds), 2) AS longest_seconds,
       COUNT_IF(seconds > 120) AS late_count,
       MAX(arrived_at) AS last_seen_at,
       CASE
         WHEN MAX(seconds) > 300 THEN 'STALE'
         WHEN MAX(seconds) > 120 THEN 'WARNING'
         ELSE 'HEALTHY'
       END AS status
FROM (
  SELECT agent_id, arrived_at, DATEDIFF('millisecond', event_timestamp, arrived_at) / 1000.0 AS seconds
  FROM {events}
  WHERE COALESCE(clock, 'synced') <> 'estimated' AND arrived_at >= DATEADD('hour', -24, SYSDATE())
) AS timed
GROUP BY agent_id
ORDER BY longest_seconds DESC, agent_id"""

_ERRORS = """\
SELECT timestamp AS failed_at,
       error_metadata:details:pipe_name::VARCHAR AS pipe_name,
       error_metadata:details:channel_name::VARCHAR AS channel_name,
       error_metadata:details:offset_token_lower_bound::VARCHAR AS first_offset_token,
       error_metadata:details:offset_token_upper_bound::VARCHAR AS last_offset_token,
       error_code,
       error_metadata:error_message::VARCHAR AS error_message,
       TRY_PARSE_JSON(error_data:"$1"::VARCHAR):agent_id::VARCHAR AS agent_id,
       TRY_PARSE_JSON(error_data:"$1"::VARCHAR):seq::NUMBER(38,0) AS seq,
       TRY_PARSE_JSON(error_data:"$1"::VARCHAR):event_id::VARCHAR AS event_id
FROM {errors}
WHERE error_metadata:service::VARCHAR = 'snowpipe_streaming'
ORDER BY failed_at DESC"""

EVENTS = View(
    "V_BADGE_EVENTS", "Every event once, however often its row arrived. The others build on it.", _EVENTS
)
METRICS = View(
    "V_INGESTION_METRICS", "Rows of the last 24 hours, by the hour in which they arrived.", _METRICS
)
GAPS = View(
    "V_DOOR_GAPS",
    "Numbers that a door gave out and that are not here. A door counts 1, 2, 3 ... for each of its\n"
    "outboxes, so a number that is missing is a row that is lost, refused, or deleted here. Look at\n"
    "V_CHANNEL_ERRORS, then at the door: badge-agent status, badge-agent replay.",
    _GAPS,
)
CHAIN = View(
    "V_DOOR_CHAIN",
    "Rows that do not follow from the row before: altered, out of order, or with a row missing before\n"
    "them, also across the outboxes of a door. A row's chain is a hash over the chain before and what\n"
    "the reader read; here it is computed again. No rows here: what the doors sent is what is in the\n"
    "table, but rows deleted at the end of a door's last outbox do not show. Rows of agents whose chains\n"
    "have 16 digits are not checked; the last of them is listed as such.",
    CHAIN_SELECT,
)
STATUS = View(
    "V_DOOR_STATUS",
    "Doors, the silent ones first: no event for longer than the longest pause of the last 30 days,\n"
    "and for more than a day. An idle door sends nothing, so a holiday appears like a broken reader.",
    _STATUS,
)
LATENCY = View(
    "V_END_TO_END_LATENCY",
    "From the swipe to the committed row, for what arrived in the last 24 hours: WARNING above 120 s,\n"
    "STALE above 300 s. A door that was offline delivers late, as intended. Rows whose\n"
    "clock was never set are left out.",
    _LATENCY,
)
ERRORS = View(
    "V_CHANNEL_ERRORS",
    "Rows that Snowflake skipped, with the reason and the number that V_DOOR_GAPS misses. After the\n"
    "fix, at the door: badge-agent replay --rejected. A second source, an hour or more late and for\n"
    "roles that may see it: SNOWFLAKE.ACCOUNT_USAGE.SNOWPIPE_STREAMING_CHANNEL_HISTORY.",
    _ERRORS,
)

VIEWS = (EVENTS, METRICS, GAPS, CHAIN, STATUS, LATENCY, ERRORS)


def views(plan: Plan) -> str:
    """The views, each with its purpose."""
    sources = Sources(
        table=plan.table,
        events=plan.view(EVENTS.name),
        errors=f"ERROR_TABLE({plan.table})",
        arrived_at=ARRIVED_AT,
    )
    created = "\n\n".join(
        f"{_comment(view.why)}\n"
        f"CREATE OR REPLACE VIEW {plan.view(view.name)} COPY GRANTS AS\n"
        f"{view.select(sources)};"
        for view in VIEWS
    )
    channels = "\n".join(f"SHOW CHANNELS IN PIPE {pipe};" for pipe in plan.every_pipe)
    return f"""\
-- Views are replaced each time: they hold no rows, and COPY GRANTS keeps the privileges on them.
-- To let a role read them, grant USAGE on {plan.database} and {plan.views_schema},
-- and SELECT on the view: the view reads the table with its owner's privileges.
USE ROLE SYSADMIN;

{created}

-- Which channels there are, and how far each one is. SHOW CHANNELS IN TABLE does not list those of a
-- named pipe.
{channels}"""


def _comment(text: str) -> str:
    return "\n".join(f"-- {line}" for line in text.splitlines())
