"""The views of doors: missing numbers, anchors, silence, rows that were skipped, the whole fleet.

The windows over seq are partitioned by outbox_id alone: rows that were pending when an agent was renamed have
the former agent_id, and are numbered with the rows after them. So a filter on agent_id does not reduce what
these views read; CLUSTER BY and the dynamic table (`badge-agent sql --only dynamic-table`) do.

Numbers of a JSON object are read with TRY_TO_NUMBER: a cast raises an error for a value that is no number,
and then a single heartbeat that another program made up would make these views fail for every door.
"""

from __future__ import annotations

from agent.sql.views.view import HAPPENED_AT, View

# What was deleted on purpose, per outbox.
PURGED_SEQ = "SELECT outbox_id, MAX(up_to_seq) AS seq FROM {purged} GROUP BY outbox_id"

# The last number of each outbox that a heartbeat reports as confirmed by Snowflake, where it is not here.
MISSING_ENDS = """\
SELECT reported.agent_id, reported.outbox_id, reported.seq, COALESCE(present.seq, 0) AS last_seq,
         present.event_at
  FROM (
    SELECT MAX(agent_id) AS agent_id, outbox_id, MAX(seq - pending) AS seq
    FROM {anchors}
    GROUP BY outbox_id
  ) AS reported
  LEFT JOIN (
    SELECT outbox_id, MAX(seq) AS seq, MAX(event_at) AS event_at
    FROM (
      SELECT outbox_id, seq, event_timestamp AS event_at
      FROM {table}
      WHERE seq IS NOT NULL
      UNION ALL
      SELECT outbox_id, up_to_seq, NULL FROM {purged}
    ) AS numbered
    GROUP BY outbox_id
  ) AS present ON present.outbox_id = reported.outbox_id
  WHERE reported.seq > COALESCE(present.seq, 0)"""

_ANCHORS = """\
SELECT agent_id,
       outbox_id,
       TRY_TO_NUMBER(details:seq::VARCHAR) AS seq,
       details:chain::VARCHAR AS chain,
       COALESCE(TRY_TO_NUMBER(details:pending::VARCHAR), 0) AS pending,
       event_timestamp AS sent_at,
       {reported_at} AS arrived_at,
       raw_json:at::VARCHAR AS signed_at,
       details:signature::VARCHAR AS signature,
       details:key::VARCHAR AS key_fingerprint
FROM {door_events}
WHERE kind = 'heartbeat' AND TRY_TO_NUMBER(details:seq::VARCHAR) IS NOT NULL"""

# Over the table and not over the events: an event that two outboxes sent is one event, but a number of each.
_GAPS = f"""\
SELECT agent_id,
       outbox_id,
       first_missing_seq,
       last_missing_seq,
       last_missing_seq - first_missing_seq + 1 AS missing_count,
       last_event_before,
       first_event_after
FROM (
  SELECT agent_id,
         outbox_id,
         COALESCE(previous_seq, purged_seq) + 1 AS first_missing_seq,
         seq - 1 AS last_missing_seq,
         previous_event_at AS last_event_before,
         event_timestamp AS first_event_after
  FROM (
    SELECT swipes.agent_id,
           swipes.outbox_id,
           swipes.seq,
           swipes.event_timestamp,
           COALESCE(deleted.seq, 0) AS purged_seq,
           LAG(swipes.seq) OVER (PARTITION BY swipes.outbox_id ORDER BY swipes.seq) AS previous_seq,
           LAG(swipes.event_timestamp) OVER (PARTITION BY swipes.outbox_id ORDER BY swipes.seq)
             AS previous_event_at
    FROM {{table}} AS swipes
    LEFT JOIN (
    {PURGED_SEQ}
    ) AS deleted ON deleted.outbox_id = swipes.outbox_id
    WHERE swipes.seq > COALESCE(deleted.seq, 0)
  ) AS numbered
  UNION ALL
  SELECT agent_id, outbox_id, last_seq + 1, seq, event_at, NULL
  FROM ({MISSING_ENDS}) AS ends
) AS found
WHERE last_missing_seq >= first_missing_seq
ORDER BY agent_id, outbox_id, first_missing_seq"""

_STATUS = f"""\
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
             {HAPPENED_AT.format(arrived_at="arrived_at")} AS happened_at
      FROM {{events}}
      WHERE agent_id IS NOT NULL AND outbox_id IS NOT NULL
    ) AS dated
  ) AS paused
  GROUP BY agent_id
) AS doors
ORDER BY status DESC, agent_id"""

# The column timestamp is a TIMESTAMP_LTZ, which is shown in the time zone of the session. A message quotes
# the value that failed, which may be that of a card.
_ERRORS = """\
SELECT CONVERT_TIMEZONE('UTC', timestamp)::TIMESTAMP_NTZ AS failed_at,
       error_metadata:details:pipe_name::VARCHAR AS pipe_name,
       error_metadata:details:channel_name::VARCHAR AS channel_name,
       error_metadata:details:offset_token_lower_bound::VARCHAR AS first_offset_token,
       error_metadata:details:offset_token_upper_bound::VARCHAR AS last_offset_token,
       error_code,
       REGEXP_REPLACE(error_metadata:error_message::VARCHAR, '''[^'']*''', '''...''') AS error_message,
       TRY_PARSE_JSON(error_data:"$1"::VARCHAR):agent_id::VARCHAR AS agent_id,
       TRY_TO_NUMBER(TRY_PARSE_JSON(error_data:"$1"::VARCHAR):seq::VARCHAR) AS seq,
       TRY_PARSE_JSON(error_data:"$1"::VARCHAR):event_id::VARCHAR AS event_id
FROM {errors}
WHERE error_metadata:service::VARCHAR = 'snowpipe_streaming'
ORDER BY failed_at DESC"""

# A heartbeat is late after three intervals. Its age is that of its arrival: the clock of a door may be wrong.
_FLEET = """\
SELECT agent_id,
       site,
       is_expected,
       CASE
         WHEN reported_at IS NULL AND last_event_at IS NULL THEN 'NEVER SEEN'
         WHEN reported_at IS NULL AND event_status = 'SILENT' THEN 'SILENT'
         WHEN reported_at IS NULL THEN 'NO HEARTBEATS'
         WHEN heartbeat_minutes > 3 * interval_minutes THEN 'SILENT'
         WHEN readers_lost > 0 THEN 'READER LOST'
         WHEN clock <> 'synced' THEN 'CLOCK'
         WHEN oldest_pending_seconds > 300 THEN 'PENDING'
         ELSE 'OK'
       END AS status,
       reported_at AS last_heartbeat_at,
       heartbeat_minutes,
       last_event_at,
       version,
       clock,
       readers_open,
       readers_lost,
       pending,
       oldest_pending_seconds
FROM (
  SELECT doors.agent_id,
         expected.site,
         expected.agent_id IS NOT NULL AS is_expected,
         heartbeats.arrived_at AS reported_at,
         DATEDIFF('minute', heartbeats.arrived_at, SYSDATE()) AS heartbeat_minutes,
         COALESCE(TRY_TO_NUMBER(heartbeats.details:interval_minutes::VARCHAR), 60) AS interval_minutes,
         seen.last_event_at,
         seen.status AS event_status,
         heartbeats.details:version::VARCHAR AS version,
         heartbeats.details:clock::VARCHAR AS clock,
         TRY_TO_NUMBER(heartbeats.details:readers_open::VARCHAR) AS readers_open,
         TRY_TO_NUMBER(heartbeats.details:readers_lost::VARCHAR) AS readers_lost,
         TRY_TO_NUMBER(heartbeats.details:pending::VARCHAR) AS pending,
         TRY_TO_NUMBER(heartbeats.details:oldest_pending_seconds::VARCHAR) AS oldest_pending_seconds
  FROM (
    SELECT agent_id FROM {expected_doors}
    UNION
    SELECT agent_id FROM {door_events}
    UNION
    SELECT agent_id FROM {door_status}
  ) AS doors
  LEFT JOIN (
    SELECT agent_id, MAX(site) AS site FROM {expected_doors} GROUP BY agent_id
  ) AS expected ON expected.agent_id = doors.agent_id
  LEFT JOIN (
    SELECT agent_id, details, arrived_at
    FROM (
      SELECT agent_id, details, arrived_at,
             ROW_NUMBER() OVER (PARTITION BY agent_id ORDER BY arrived_at DESC, event_timestamp DESC)
               AS from_last
      FROM (
        SELECT agent_id, details, event_timestamp,
               {reported_at} AS arrived_at
        FROM {door_events}
        WHERE kind = 'heartbeat'
      ) AS received
    ) AS ordered
    WHERE from_last = 1
  ) AS heartbeats ON heartbeats.agent_id = doors.agent_id
  LEFT JOIN {door_status} AS seen ON seen.agent_id = doors.agent_id
) AS fleet
ORDER BY CASE status WHEN 'OK' THEN 2 WHEN 'NO HEARTBEATS' THEN 1 ELSE 0 END, agent_id"""

# Equal copies are one action. Grouping by event_id alone would let a forged copy hide the true one.
_OPERATOR_ACTIONS = """\
SELECT agent_id,
       event_timestamp AS happened_at,
       actor,
       kind,
       message,
       clock,
       outbox_id,
       seq,
       MIN(arrived_at) AS arrived_at
FROM (
  SELECT agent_id, event_id, event_timestamp, actor, kind, message, clock, outbox_id, seq,
         {reported_at} AS arrived_at
  FROM {door_events}
  WHERE actor IS NOT NULL
) AS received
GROUP BY agent_id, event_id, event_timestamp, actor, kind, message, clock, outbox_id, seq
ORDER BY happened_at DESC, agent_id"""

ANCHORS = View(
    "V_ANCHORS",
    "What the heartbeats of the doors say about their rows: outbox, last number and its chain, signed with\n"
    "the door's private key (RS256 over outbox_id|seq|chain|signed_at). SQL does not verify the signature:\n"
    "a role that can insert into RAW_DOOR_EVENTS can make up a heartbeat, but no signature that verifies\n"
    "(badge-agent verify).",
    _ANCHORS,
)
GAPS = View(
    "V_DOOR_GAPS",
    "Missing numbers. A door numbers its rows 1, 2, 3 ... for each outbox id, so a missing number is a row\n"
    "that was lost, refused or deleted. Numbers that PURGE_BADGE_EVENTS deleted are no gap. Rows missing at\n"
    "the end of an outbox show when a heartbeat reports that Snowflake had confirmed them. To find the\n"
    "cause: V_CHANNEL_ERRORS, then at the door badge-agent status. To send kept rows again: badge-agent\n"
    "replay.",
    _GAPS,
)
STATUS = View(
    "V_DOOR_STATUS",
    "Doors, the silent ones first. SILENT: no event for more than a day, and for longer than the longest\n"
    "pause of the last 30 days. A door without visitors, as on a holiday, is SILENT too: see V_FLEET.",
    _STATUS,
)
ERRORS = View(
    "V_CHANNEL_ERRORS",
    "Rows that Snowflake skipped, with the reason (without the value that it quotes) and the number that\n"
    "is missing in V_DOOR_GAPS; failed_at is in UTC. When the cause is removed, at the door: badge-agent\n"
    "replay --rejected. SNOWFLAKE.ACCOUNT_USAGE.SNOWPIPE_STREAMING_CHANNEL_HISTORY counts them too, an hour\n"
    "or more later.",
    _ERRORS,
)
FLEET = View(
    "V_FLEET",
    "Every door that is expected (EXPECTED_DOORS) or that ever sent anything, those with a problem first.\n"
    "SILENT: no heartbeat for three of its intervals; for an agent that sends no heartbeats, SILENT in\n"
    "V_DOOR_STATUS. NO HEARTBEATS: such an agent with recent swipes, which is no problem.",
    _FLEET,
)
OPERATOR_ACTIONS = View(
    "V_OPERATOR_ACTIONS",
    "Who ran a command at a door that changes or reveals something: setup, a new key, replay, and outbox\n"
    "show, export and release. The actor is the login name, with sudo the user who ran it. A person who is\n"
    "root at the door can name another actor, or read and change the file without badge-agent.",
    _OPERATOR_ACTIONS,
)
