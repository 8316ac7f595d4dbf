"""The SELECT of V_DOOR_CHAIN: recomputes the chain of every row, across generations.

A row's chain is the first 32 hex digits of SHA-256 over `previous chain|content`, see agent/rows.py. The
previous chain is that of the row with the seq before under the same outbox id. The first row of an outbox
id has it in chain_before: the chain of the last row under the outbox id before, or, in a new file, the
first outbox id of the file, which is shorter than any chain.

A row is listed with the first problem that applies:

| problem | meaning |
|---|---|
| copies differ | two rows with the same outbox id and seq are not copies of one row |
| row before is missing | no row has the seq before |
| person_salt is missing | nor is there a person_digest: altered, or loaded by a pipe of an earlier version |
| altered or reordered | the chain does not follow from the row and the chain before it |
| chain_before is unknown | no row has the chain that this outbox id continues: rows before it are missing |
| up to here not checked | the last row with a chain of 16 digits, which earlier versions of the agent sent |

Copies of a row, from `replay` or from a second delivery, are equal and count as one row. A chain of 16
digits is not recomputed. It cannot follow one of 32 digits, so a shortened chain does not hide a change.
Only all rows from the first one on can be shortened, and then they are listed as not checked.

A person is erased by setting person_digest to the digest below, then person_salt, card_bits and card_raw
to NULL, and badge_id and user_id to NULL or ERASED. Any other value in those columns counts as altered,
because a row without salt no longer proves it.

Rows missing at the end of the last outbox id of a door do not show here: nothing follows them.
"""

from __future__ import annotations

from agent.sql.columns import ERASED

_OLD_DIGITS = 16

OLD_ROWS = "up to here not checked: sent by an older agent"

# recorded_at as agent.rows writes it; event_timestamp is a TIMESTAMP_NTZ in UTC.
_RECORDED_AT = """COALESCE(
           recorded_at,
           REPLACE(TO_VARCHAR(event_timestamp, 'YYYY-MM-DD HH24:MI:SS.FF6'), ' ', 'T') || 'Z')"""


def _joined(*members: str) -> str:
    """Members joined by `|`; an absent one is the empty text, because `||` with NULL yields NULL."""
    return "\n             || '|' || ".join(f"COALESCE({member}, '')" for member in members)


_DIGEST = f"""SUBSTR(SHA2(
             {_joined("person_salt", "badge_id", "user_id", "CAST(card_bits AS VARCHAR)", "card_raw")},
             256), 1, 32)"""

_CONTENT = _joined(
    *("event_id", "agent_id", "reader_id", "zone_id", "direction", "recorded_at"),
    *("boot_id", "CAST(boot_ms AS VARCHAR)", "person"),
)

# The link of each row to the one before is a join and not LAG(), because a row is intact if it follows from
# any of several differing copies. GROUP BY makes one row of equal copies.
CHAIN_SELECT = f"""\
WITH members AS (
  SELECT agent_id, outbox_id, seq, chain, chain_before, event_id, reader_id, zone_id, direction,
         {_RECORDED_AT} AS recorded_at,
         boot_id, boot_ms,
         CASE
           WHEN person_salt IS NOT NULL THEN {_DIGEST}
           WHEN card_bits IS NULL AND card_raw IS NULL
             AND COALESCE(badge_id, '{ERASED}') = '{ERASED}' AND COALESCE(user_id, '{ERASED}') = '{ERASED}'
             THEN person_digest
         END AS person,
         person_salt IS NULL AND person_digest IS NULL AS lacks_salt
  FROM {{table}}
  WHERE outbox_id IS NOT NULL AND seq IS NOT NULL
), links AS (
  SELECT agent_id, outbox_id, seq, chain, chain_before, event_id, lacks_salt,
         {_CONTENT} AS content
  FROM members
), befores AS (
  SELECT DISTINCT outbox_id, seq + 1 AS seq, chain
  FROM links
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
           WHEN NOT linked.is_old AND linked.follows_count = 0 THEN 'altered or reordered'
           WHEN LENGTH(linked.chain_before) >= {_OLD_DIGITS} AND known.chain IS NULL
             THEN 'chain_before is unknown'
           WHEN linked.is_old THEN '{OLD_ROWS}'
         END AS problem
  FROM linked
  LEFT JOIN (SELECT DISTINCT chain FROM links) AS known ON known.chain = linked.chain_before
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
ORDER BY agent_id, outbox_id, seq"""
