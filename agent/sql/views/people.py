"""The views of who is inside, and of badges that cannot be where they are."""

from __future__ import annotations

from agent.sql.columns import ERASED
from agent.sql.views.view import NO_SAMPLE, View

# Seconds that a person needs at least from one zone to another. Change it in the view where zones adjoin.
WALK_S = 10

_OF_PEOPLE = f"badge_id <> '{ERASED}' AND {NO_SAMPLE}"
# Without a reader at the way out, every badge that ever entered would be inside.
_WITH_EXITS = """zone_id IN (
      SELECT zone_id FROM {events} WHERE UPPER(direction) = 'EXIT')"""

_IN_ORDER = "\n               ORDER BY event_timestamp, outbox_id, seq"

_PRESENT = f"""\
SELECT zone_id,
       badge_id,
       user_id,
       event_timestamp AS entered_at,
       reader_id,
       agent_id,
       ROUND(DATEDIFF('minute', event_timestamp, SYSDATE()) / 60.0, 1) AS hours_inside
FROM (
  SELECT zone_id, badge_id, user_id, event_timestamp, reader_id, agent_id, UPPER(direction) AS direction,
         ROW_NUMBER() OVER (
           PARTITION BY zone_id, badge_id ORDER BY event_timestamp DESC, outbox_id, seq DESC
         ) AS from_last
  FROM {{events}}
  WHERE UPPER(direction) IN ('ENTRY', 'EXIT')
    AND {_OF_PEOPLE}
    AND {_WITH_EXITS}
) AS ordered
WHERE from_last = 1 AND direction = 'ENTRY'
ORDER BY zone_id, entered_at"""

_PASSBACK = f"""\
SELECT badge_id,
       user_id,
       problem,
       zone_id,
       reader_id,
       event_timestamp,
       previous_zone_id,
       previous_reader_id,
       previous_event_at,
       ROUND(seconds_between, 1) AS seconds_between
FROM (
  SELECT badge_id, user_id, zone_id, reader_id, event_timestamp, zone_id AS previous_zone_id,
         previous_reader_id, previous_event_at,
         DATEDIFF('millisecond', previous_event_at, event_timestamp) / 1000.0 AS seconds_between,
         CASE WHEN direction = 'ENTRY' AND previous_direction = 'ENTRY' THEN 'entered twice' END AS problem
  FROM (
    SELECT badge_id, user_id, zone_id, reader_id, event_timestamp, UPPER(direction) AS direction,
           LAG(UPPER(direction)) OVER (PARTITION BY badge_id, zone_id{_IN_ORDER}) AS previous_direction,
           LAG(reader_id) OVER (PARTITION BY badge_id, zone_id{_IN_ORDER}) AS previous_reader_id,
           LAG(event_timestamp) OVER (PARTITION BY badge_id, zone_id{_IN_ORDER}) AS previous_event_at
    FROM {{events}}
    WHERE UPPER(direction) IN ('ENTRY', 'EXIT')
      AND {_OF_PEOPLE}
      AND {_WITH_EXITS}
  ) AS followed
  UNION ALL
  SELECT badge_id, user_id, zone_id, reader_id, event_timestamp, previous_zone_id, previous_reader_id,
         previous_event_at, seconds_between,
         CASE WHEN zone_id <> previous_zone_id AND seconds_between + uncertainty_seconds < {WALK_S}
           THEN 'two places' END AS problem
  FROM (
    SELECT badge_id, user_id, zone_id, reader_id, event_timestamp, previous_zone_id, previous_reader_id,
           previous_event_at,
           DATEDIFF('millisecond', previous_event_at, event_timestamp) / 1000.0 AS seconds_between,
           (COALESCE(time_uncertainty_ms, 0) + COALESCE(previous_uncertainty_ms, 0)) / 1000.0
             AS uncertainty_seconds
    FROM (
      SELECT badge_id, user_id, zone_id, reader_id, event_timestamp, time_uncertainty_ms,
             LAG(zone_id) OVER (PARTITION BY badge_id{_IN_ORDER}) AS previous_zone_id,
             LAG(reader_id) OVER (PARTITION BY badge_id{_IN_ORDER}) AS previous_reader_id,
             LAG(event_timestamp) OVER (PARTITION BY badge_id{_IN_ORDER}) AS previous_event_at,
             LAG(time_uncertainty_ms) OVER (PARTITION BY badge_id{_IN_ORDER}) AS previous_uncertainty_ms
      FROM {{events}}
      WHERE {_OF_PEOPLE}
        AND NOT (COALESCE(clock, 'synced') = 'estimated' AND time_uncertainty_ms IS NULL)
    ) AS followed
  ) AS measured
) AS found
WHERE problem IS NOT NULL
ORDER BY event_timestamp DESC, badge_id"""

PRESENT = View(
    "V_PRESENT",
    "Who is inside, by zone: the badges whose last event there was an ENTRY. Only zones with a reader for\n"
    "EXIT. A badge that left without a swipe stays here: see hours_inside.",
    _PRESENT,
)
PASSBACK = View(
    "V_PASSBACK",
    "Swipes of a badge that one person cannot make. entered twice: two ENTRY in a zone with EXIT readers,\n"
    f"without an EXIT between them. two places: two zones within {WALK_S} seconds, allowing for the\n"
    "uncertainty of the doors' clocks.",
    _PASSBACK,
)
