"""The views of rows: every event once, arrivals by the hour, copies, and rows that differ from raw_json."""

from __future__ import annotations

from agent.sql.columns import ERASED, PIPED, Column
from agent.sql.views.view import NO_SAMPLE, View

# A row sent again by `replay`, or after an outbox was restored from a backup, has the event_id and the
# agent_id it had. Rows of other senders have none, and go by what the demo takes for one event.
_EVENTS = """\
SELECT {columns},
       arrived_at
FROM (
  SELECT {inner_columns},
         {arrived_at} AS arrived_at,
         ROW_NUMBER() OVER (
           PARTITION BY agent_id, COALESCE(
             event_id, badge_id || '|' || reader_id || '|' || CAST(event_timestamp AS VARCHAR))
           ORDER BY COALESCE(replay, FALSE), {arrived_at}, outbox_id, seq
         ) AS copy_number
  FROM {table}
) AS copies
WHERE copy_number = 1"""

_METRICS = f"""\
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
  SELECT badge_id, zone_id, signal_strength, UPPER(direction) AS direction,
         COALESCE(signal_quality, CASE WHEN signal_strength < -80 THEN 'WEAK' END) AS signal_quality,
         {{arrived_at}} AS arrived_at
  FROM {{table}}
  WHERE {NO_SAMPLE}
) AS arrivals
WHERE arrived_at >= DATEADD('hour', -24, SYSDATE())
GROUP BY DATE_TRUNC('HOUR', arrived_at)
ORDER BY ingestion_hour DESC"""

_DUPLICATES = """\
SELECT event_id,
       agent_id,
       COUNT(*) AS copy_count,
       COUNT_IF(COALESCE(replay, FALSE)) AS replay_count,
       COUNT(DISTINCT outbox_id) AS outbox_count,
       MIN(outbox_id) AS first_outbox_id,
       MAX(outbox_id) AS last_outbox_id,
       MIN(arrived_at) AS first_arrived_at,
       MAX(arrived_at) AS last_arrived_at
FROM (
  SELECT event_id, agent_id, outbox_id, replay, {arrived_at} AS arrived_at
  FROM {table}
  WHERE event_id IS NOT NULL
) AS copies
GROUP BY event_id, agent_id
HAVING COUNT(*) > 1
ORDER BY last_arrived_at DESC, event_id"""


def _from_json(column: Column) -> str:
    """What a column should hold, without an error for a raw_json that was altered."""
    text = f"raw_json:{column.name}::VARCHAR"
    match column.name, column.type.split(" ")[0]:
        case (("badge_id" | "user_id"), _):
            # An erased row has no such member.
            return f"COALESCE({text}, '{ERASED}')"
        case "signal_strength", kind:
            return f"COALESCE(TRY_CAST({text} AS {kind}), -999)"
        case "signal_quality", _:
            strength = "TRY_CAST(raw_json:signal_strength::VARCHAR AS FLOAT)"
            return (
                f"CASE WHEN {strength} < -80 THEN 'WEAK'\n"
                f"                  WHEN {strength} < -60 THEN 'MEDIUM' ELSE 'STRONG' END"
            )
        case "direction", _:
            return f"UPPER({text})"
        case _, kind if kind.startswith("VARCHAR"):
            return text
        case _, kind:
            return f"TRY_CAST({text} AS {kind})"


def _stored(column: Column) -> str:
    # The pipe of casts only leaves the two of the signal empty.
    match column.name:
        case "signal_strength":
            return "COALESCE(signal_strength, -999)"
        case "signal_quality":
            return f"COALESCE(signal_quality,\n             {_from_json(column)})"
        case "direction":
            return "UPPER(direction)"
        case name:
            return name


_DIFFERENCES = "\n           || ".join(
    f"CASE WHEN {_stored(column)}\n             IS DISTINCT FROM {_from_json(column)}\n"
    f"             THEN '{column.name} ' ELSE '' END"
    for column in PIPED
    if column.name != "raw_json"
)

_ROW_DIFFERS = f"""\
SELECT agent_id,
       outbox_id,
       seq,
       event_id,
       RTRIM(differing) AS differing_columns
FROM (
  SELECT agent_id, outbox_id, seq, event_id,
         {_DIFFERENCES} AS differing
  FROM {{table}}
) AS compared
WHERE differing <> ''
ORDER BY agent_id, outbox_id, seq"""

EVENTS = View(
    "V_BADGE_EVENTS",
    "Every event once, however often its row arrived. Several other views read it.",
    _EVENTS,
)
METRICS = View(
    "V_INGESTION_METRICS",
    "Rows of the last 24 hours, by the hour in which they arrived; without those of send-sample.",
    _METRICS,
)
DUPLICATES = View(
    "V_DUPLICATES",
    "Events with more than one row: the number of copies, how many of them are from `replay`, and their\n"
    "outbox ids. V_BADGE_EVENTS shows the first copy to arrive that is no replay.",
    _DUPLICATES,
)
ROW_DIFFERS = View(
    "V_ROW_DIFFERS",
    "Rows with a column that differs from raw_json, the object that the door sent: altered later, or loaded\n"
    "by a pipe that does not fill the column. An altered raw_json shows too; a change of both does not.",
    _ROW_DIFFERS,
)
