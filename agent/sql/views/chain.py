"""The SELECT of V_DOOR_CHAIN: recomputes the chain of every row, across generations.

A row's chain is the first 32 hex digits of SHA-256 over `previous chain|content`, see agent/rows.py. The
previous chain is that of the row with the seq before under the same outbox id. The first row of an outbox
id has it in chain_before: the chain of the last row under the outbox id before, or, in a new file, the
first outbox id of the file, which is shorter than any chain.

A row is listed with the first problem that applies:

| problem | meaning |
|---|---|
| copies differ | two rows with the same outbox id and seq are not copies of one row |
| row before is missing | no row has the seq before, and it was not purged |
| person_salt is missing | nor is there a person_digest: altered, or loaded by a pipe of an earlier version |
| altered or reordered | the chain does not follow from the row and the chain before it |
| chain_before is unknown | no row has the chain that this outbox id continues: rows before it are missing |
| up to here not checked | the last row with a chain of 16 digits, which earlier versions of the agent sent |
| differs from a heartbeat | the row with this seq has another chain than a heartbeat of the door said |
| missing up to here | a heartbeat said that Snowflake had confirmed this seq; it is not here |

After damage to the file of a door, its first row may say itself that the chain before it is `unknown`.

What this proves. The chain covers event_id, agent_id, reader_id, zone_id, direction, boot_id, boot_ms,
recorded_at (event_timestamp where there is no recorded_at) and, through the digest, badge_id, user_id,
card_bits, card_raw and person_salt. It has no secret. So without heartbeats it finds what was changed,
deleted or reordered by mistake, or by a person who does not compute the chains of all later rows again; rows
deleted at the end of a door's last outbox do not show.

A heartbeat is signed with the door's key. A person who can change both tables, but has no door's key, cannot
change or delete a row before a heartbeat without deleting every heartbeat after it as well; then V_FLEET
shows the door as silent, and its next heartbeat lists the row here. This view does not verify signatures: a
heartbeat can be made up by inserting into the table of door events. Verifying V_ANCHORS with the door's
public key finds that.

Not covered: event_timestamp of a row with a recorded_at (it is computed after the chain), card_format,
facility_code, card_number and card_check (which follow from the card's bits), signal_strength,
signal_quality, clock, time_uncertainty_ms, replay. V_ROW_DIFFERS compares these with raw_json.
ingestion_time is the account's.

Copies of a row, from `replay` or from a second delivery, are equal and count as one row. A chain of 16
digits is not recomputed. It cannot follow one of 32 digits, so a shortened chain does not hide a change.
Only all rows from the first one on can be shortened, and then they are listed as not checked.

A person is erased by ERASE_PERSON, which sets person_digest to the digest below, then the personal columns to
NULL, and badge_id and user_id to ERASED. Any other value in those columns counts as altered, because a row
without salt no longer proves it.

Rows up to the last number in PURGED are left out; the row after it must follow from the chain there.
"""

from __future__ import annotations

from agent.sql.columns import ERASED
from agent.sql.views.doors import MISSING_ENDS, PURGED_SEQ
from agent.sql.views.view import View

_OLD_DIGITS = 16
_UNKNOWN_LINK = "unknown"  # agent.rows.UNKNOWN_LINK

OLD_ROWS = "up to here not checked: sent by an older agent"

# recorded_at as agent.rows writes it; event_timestamp is a TIMESTAMP_NTZ in UTC.
_RECORDED_AT = """COALESCE(
           recorded_at,
           REPLACE(TO_VARCHAR(event_timestamp, 'YYYY-MM-DD HH24:MI:SS.FF6'), ' ', 'T') || 'Z')"""


def _joined(*members: str) -> str:
    """Members joined by `|`; an absent one is the empty text, because `||` with NULL yields NULL."""
    return "\n             || '|' || ".join(f"COALESCE({member}, '')" for member in members)


DIGEST = f"""SUBSTR(SHA2(
             {_joined("person_salt", "badge_id", "user_id", "CAST(card_bits AS VARCHAR)", "card_raw")},
             256), 1, 32)"""

_CONTENT = _joined(
    *("event_id", "agent_id", "reader_id", "zone_id", "direction", "recorded_at"),
    *("boot_id", "CAST(boot_ms AS VARCHAR)", "person"),
)

# The link of each row to the one before is a join and not LAG(), because a row is intact if it follows from
# any of several differing copies. GROUP BY makes one row of equal copies.
_CHAIN = f"""\
WITH members AS (
  SELECT agent_id, swipes.outbox_id, swipes.seq, chain, chain_before, event_id, reader_id, zone_id, direction,
         {_RECORDED_AT} AS recorded_at,
         boot_id, boot_ms,
         CASE
           WHEN person_salt IS NOT NULL THEN {DIGEST}
           WHEN card_bits IS NULL AND card_raw IS NULL
             AND COALESCE(badge_id, '{ERASED}') = '{ERASED}' AND COALESCE(user_id, '{ERASED}') = '{ERASED}'
             THEN person_digest
         END AS person,
         person_salt IS NULL AND person_digest IS NULL AS lacks_salt
  FROM {{table}} AS swipes
  LEFT JOIN (
    {PURGED_SEQ}
  ) AS deleted ON deleted.outbox_id = swipes.outbox_id
  WHERE swipes.seq > COALESCE(deleted.seq, 0)
), links AS (
  SELECT agent_id, outbox_id, seq, chain, chain_before, event_id, lacks_salt,
         {_CONTENT} AS content
  FROM members
), chains AS (
  SELECT DISTINCT outbox_id, seq, chain
  FROM links
  UNION
  SELECT outbox_id, up_to_seq, chain
  FROM {{purged}}
), befores AS (
  SELECT outbox_id, seq + 1 AS seq, chain
  FROM chains
), linked AS (
  SELECT links.agent_id, links.outbox_id, links.seq, links.chain, links.chain_before, links.event_id,
         links.lacks_salt,
         COALESCE(LENGTH(links.chain) = {_OLD_DIGITS}, FALSE) AS is_old,
         COUNT(befores.seq) AS before_count,
         COUNT_IF(LENGTH(befores.chain) = {_OLD_DIGITS}) AS old_before_count,
         COUNT_IF(links.chain = SUBSTR(SHA2(
           CASE WHEN links.seq = 1 THEN links.chain_before ELSE befores.chain END || '|' || links.content,
           256), 1, 32)) AS follows_count
  FROM links
  LEFT JOIN befores ON befores.outbox_id = links.outbox_id AND befores.seq = links.seq
  GROUP BY links.agent_id, links.outbox_id, links.seq, links.chain, links.chain_before, links.event_id,
           links.lacks_salt, links.content
), judged AS (
  SELECT linked.agent_id, linked.outbox_id, linked.seq, linked.event_id,
         CASE
           WHEN COUNT(*) OVER (PARTITION BY linked.outbox_id, linked.seq) > 1 THEN 'copies differ'
           WHEN linked.seq <> 1 AND linked.before_count = 0 THEN 'row before is missing'
           WHEN linked.is_old AND linked.seq <> 1 AND linked.old_before_count = 0 THEN 'altered or reordered'
           WHEN NOT linked.is_old AND linked.lacks_salt THEN 'person_salt is missing'
           WHEN linked.chain_before = '{_UNKNOWN_LINK}' THEN 'chain_before is unknown'
           WHEN NOT linked.is_old AND linked.follows_count = 0 THEN 'altered or reordered'
           WHEN LENGTH(linked.chain_before) >= {_OLD_DIGITS} AND known.chain IS NULL
             THEN 'chain_before is unknown'
           WHEN linked.is_old THEN '{OLD_ROWS}'
         END AS problem
  FROM linked
  LEFT JOIN (SELECT DISTINCT chain FROM chains) AS known ON known.chain = linked.chain_before
), noted AS (
  SELECT agent_id, outbox_id, seq, event_id, problem,
         MAX(CASE WHEN problem = '{OLD_ROWS}' THEN seq END)
           OVER (PARTITION BY outbox_id) AS last_old_seq
  FROM judged
)
SELECT agent_id,
       outbox_id,
       seq,
       event_id,
       problem
FROM noted
WHERE problem <> '{OLD_ROWS}' OR seq = last_old_seq
UNION ALL
SELECT anchors.agent_id, anchors.outbox_id, anchors.seq, NULL, 'differs from a heartbeat'
FROM (SELECT DISTINCT agent_id, outbox_id, seq, chain FROM {{anchors}}) AS anchors
JOIN chains ON chains.outbox_id = anchors.outbox_id AND chains.seq = anchors.seq
GROUP BY anchors.agent_id, anchors.outbox_id, anchors.seq, anchors.chain
HAVING COUNT_IF(chains.chain = anchors.chain) = 0
UNION ALL
SELECT agent_id, outbox_id, seq, NULL, 'missing up to here'
FROM ({MISSING_ENDS}) AS ends
ORDER BY agent_id, outbox_id, seq"""

CHAIN = View(
    "V_DOOR_CHAIN",
    "Rows that do not follow from the row before: altered, out of order, or with a row missing before\n"
    "them, also across the outbox ids of a door. The chain of a row is a hash over the chain before and\n"
    "what the reader read; this view computes it again. An empty view means: nothing that the chain covers\n"
    "was altered, unless all later chains were computed again too; and for a door with heartbeats, its rows\n"
    "are those that it signed (V_ANCHORS), up to its last heartbeat. Rows deleted at the end of a door show\n"
    "after its next heartbeat. The chain does not cover values computed from others (event_timestamp of a\n"
    "corrected clock, card_number, signal_quality ...): see V_ROW_DIFFERS. Rows of agents whose chains have\n"
    "16 digits are not checked; the last of them is listed as such.",
    _CHAIN,
)
