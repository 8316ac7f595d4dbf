"""The procedures that delete old rows and erase persons, and keep gaps and chains provable."""

from __future__ import annotations

from agent.sql.columns import ERASED, PERSONAL
from agent.sql.names import literal
from agent.sql.plan import Plan
from agent.sql.views import ARRIVED_AT
from agent.sql.views.chain import DIGEST
from agent.sql.views.view import HAPPENED_AT


def procedures(plan: Plan) -> str:
    """PURGE_BADGE_EVENTS and ERASE_PERSON."""
    return "\n\n".join([_introduction(plan), _purge(plan), _erase(plan)])


def _introduction(plan: Plan) -> str:
    return f"""\
-- COPY GRANTS keeps the privileges on a procedure that is replaced. A procedure runs with the rights of its
-- owner: a role that may call it needs USAGE on it, on {plan.schema} and on
-- {plan.database}, and no right on the tables. A call needs a warehouse.
-- Needs CREATE PROCEDURE on the schema.
USE ROLE {plan.owner};"""


def _purge(plan: Plan) -> str:
    happened_at = HAPPENED_AT.format(arrived_at=ARRIVED_AT)
    return f"""\
-- Deletes the swipes before a time: of each outbox, the rows up to the first one that is kept. Writes into
-- PURGED the last deleted number of each outbox and its chain, so that V_DOOR_GAPS and V_DOOR_CHAIN
-- continue after it. Numbers that were missing before are counted there as missing. For a swipe whose
-- clock was never set, the time of arrival decides. Rows of other senders have no outbox, and are deleted
-- by their time alone.
-- DATA_RETENTION_TIME_IN_DAYS of the table (a day unless set) and Fail-safe (7 days) keep what is deleted.
-- A storage lifecycle policy would delete rows without writing PURGED: do not use one on this table.
-- CALL {plan.purge}(DATEADD('day', -400, SYSDATE())::TIMESTAMP_NTZ);
CREATE OR REPLACE PROCEDURE {plan.purge}(before_time TIMESTAMP_NTZ)
  COPY GRANTS
  RETURNS VARCHAR
  LANGUAGE SQL
  EXECUTE AS OWNER
AS
$$
BEGIN
  BEGIN TRANSACTION;
  INSERT INTO {plan.purged}
    (agent_id, outbox_id, up_to_seq, chain, row_count, missing_count, purged_by)
    SELECT MAX(deleted.agent_id),
           deleted.outbox_id,
           MAX(deleted.seq),
           MAX(CASE WHEN deleted.seq = deleted.last_seq THEN deleted.chain END),
           COUNT(*),
           MAX(deleted.seq) - MAX(deleted.purged_seq) - COUNT(DISTINCT deleted.seq),
           CURRENT_USER()
    FROM (
      SELECT counted.agent_id, counted.outbox_id, counted.seq, counted.chain, counted.purged_seq,
             MAX(counted.seq) OVER (PARTITION BY counted.outbox_id) AS last_seq
      FROM (
        SELECT swipes.agent_id, swipes.outbox_id, swipes.seq, swipes.chain,
               COALESCE(purged.seq, 0) AS purged_seq,
               MIN(CASE WHEN swipes.happened_at >= :before_time THEN swipes.seq END)
                 OVER (PARTITION BY swipes.outbox_id) AS first_kept_seq
        FROM (
          SELECT agent_id, outbox_id, seq, chain,
                 {happened_at} AS happened_at
          FROM {plan.table}
          WHERE seq IS NOT NULL AND outbox_id IS NOT NULL
        ) AS swipes
        LEFT JOIN (
          SELECT outbox_id, MAX(up_to_seq) AS seq FROM {plan.purged} GROUP BY outbox_id
        ) AS purged ON purged.outbox_id = swipes.outbox_id
        WHERE swipes.seq > COALESCE(purged.seq, 0)
      ) AS counted
      WHERE counted.seq < counted.first_kept_seq OR counted.first_kept_seq IS NULL
    ) AS deleted
    GROUP BY deleted.outbox_id;
  DELETE FROM {plan.table}
    USING (
      SELECT outbox_id AS purged_outbox_id, MAX(up_to_seq) AS purged_seq
      FROM {plan.purged}
      GROUP BY outbox_id
    ) AS purged
    WHERE outbox_id = purged_outbox_id AND seq <= purged_seq;
  DELETE FROM {plan.table}
    WHERE outbox_id IS NULL AND event_timestamp < :before_time;
  COMMIT;
  RETURN 'Done. The latest lines of PURGED say what was deleted.';
EXCEPTION
  WHEN OTHER THEN
    ROLLBACK;
    RAISE;
END;
$$;"""


def _erase(plan: Plan) -> str:
    listed = list(map(literal, PERSONAL))
    members = ",\n          ".join(", ".join(part) for part in (listed[:5], listed[5:]))
    emptied = ",\n        ".join(f"{name} = NULL" for name in PERSONAL if name not in {"badge_id", "user_id"})
    return f"""\
-- Erases a person: all rows with this user_id, and all rows with this badge_id. Pass both, because swipes
-- before the badge was in the cardholder file have the user_id UNKNOWN; pass NULL for the one that you do
-- not know, and call it once for each badge. The personal columns and members of raw_json are removed, and
-- the random salt, without which the digest that is kept says nothing of the person. person_digest keeps
-- what the chain needs: V_DOOR_CHAIN still checks the rows, and V_DOOR_GAPS shows no gap.
-- What it does not reach: Time Travel and Fail-safe of the table; the error table, which holds the whole
-- rows that Snowflake skipped (TRUNCATE TABLE ERROR_TABLE(...) with the table's name empties it); copies
-- in other tables such as the demo's; rows that a door still has and can replay ([outbox] retention_days,
-- a week unless set): call it again after that time. It changes the time of arrival of the erased rows.
-- CALL {plan.erase}('USR-001', '123-45678');
CREATE OR REPLACE PROCEDURE {plan.erase}(of_user VARCHAR, of_badge VARCHAR)
  COPY GRANTS
  RETURNS VARCHAR
  LANGUAGE SQL
  EXECUTE AS OWNER
AS
$$
BEGIN
  UPDATE {plan.table}
    SET person_digest = CASE WHEN person_salt IS NOT NULL THEN {DIGEST}
          ELSE person_digest END,
        badge_id = {literal(ERASED)},
        user_id = {literal(ERASED)},
        {emptied},
        raw_json = OBJECT_DELETE(AS_OBJECT(raw_json),
          {members})::VARIANT
    WHERE (user_id = :of_user AND user_id <> 'UNKNOWN') OR badge_id = :of_badge;
  RETURN 'Done. Rows of the user UNKNOWN are erased by their badge_id only.';
END;
$$;"""
