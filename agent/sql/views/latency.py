"""The views of the time from the swipe to the committed row."""

from __future__ import annotations

from agent.sql.views.view import NO_SAMPLE, View

TARGET_S = 60

# An erased row has lost the time of its arrival.
_MEASURED = f"COALESCE(clock, 'synced') <> 'estimated' AND person_digest IS NULL\n    AND {NO_SAMPLE}"
_SECONDS = "DATEDIFF('millisecond', event_timestamp, arrived_at) / 1000.0"

_LATENCY = f"""\
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
  SELECT agent_id, arrived_at, {_SECONDS} AS seconds
  FROM {{events}}
  WHERE {_MEASURED}
    AND arrived_at >= DATEADD('hour', -24, SYSDATE())
) AS timed
GROUP BY agent_id
ORDER BY longest_seconds DESC, agent_id"""

_LATENCY_DAILY = f"""\
SELECT arrival_day,
       COUNT(*) AS event_count,
       COUNT(DISTINCT agent_id) AS door_count,
       ROUND(PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY seconds), 2) AS p50_seconds,
       ROUND(PERCENTILE_CONT(0.95) WITHIN GROUP (ORDER BY seconds), 2) AS p95_seconds,
       ROUND(PERCENTILE_CONT(0.99) WITHIN GROUP (ORDER BY seconds), 2) AS p99_seconds,
       ROUND(COUNT_IF(seconds <= {TARGET_S}) * 100.0 / COUNT(*), 2) AS within_target_pct
FROM (
  SELECT agent_id, CAST(arrived_at AS DATE) AS arrival_day,
         {_SECONDS} AS seconds
  FROM {{events}}
  WHERE {_MEASURED}
    AND arrived_at >= DATEADD('day', -90, SYSDATE())
) AS timed
GROUP BY arrival_day
ORDER BY arrival_day DESC"""

LATENCY = View(
    "V_END_TO_END_LATENCY",
    "From the swipe to the committed row, for what arrived in the last 24 hours: WARNING above 120 s,\n"
    "STALE above 300 s. A door that was offline delivers late, as intended. Rows whose\n"
    "clock was never set are left out, and erased rows.",
    _LATENCY,
)
LATENCY_DAILY = View(
    "V_LATENCY_DAILY",
    f"Seconds from the swipe to the committed row by day of arrival, for 90 days: percentiles, and the\n"
    f"share within {TARGET_S} s.",
    _LATENCY_DAILY,
)
