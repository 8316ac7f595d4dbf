"""Scripts that not every account needs: a deduplicated table, alerts, cost and channel history."""

from __future__ import annotations

from agent.sql.columns import names
from agent.sql.names import literal
from agent.sql.plan import WAREHOUSE_NEEDED, Plan

_MAIL_SLOT = "<you@example.com>"
INTEGRATION = "BADGE_ALERTS_EMAIL"

# Twice the time between two runs: a row that is recorded during a run is found by the next one.
_WINDOW_MINUTES = 120

# Alert, how often (in minutes), and the rows that must not be there.
_ALERTS = (
    ("BADGE_ALERT_GAPS", 60, "V_DOOR_GAPS", "", "Badge rows are missing: SELECT * FROM V_DOOR_GAPS"),
    ("BADGE_ALERT_CHAIN", 1440, "V_DOOR_CHAIN", "", "Badge rows were altered: SELECT * FROM V_DOOR_CHAIN"),
    (
        "BADGE_ALERT_DOORS",
        60,
        "V_FLEET",
        "\n    WHERE status NOT IN ('OK', 'NO HEARTBEATS')",
        "A door has a problem: SELECT * FROM V_FLEET",
    ),
    (
        "BADGE_ALERT_ERRORS",
        60,
        "V_CHANNEL_ERRORS",
        f"\n    WHERE failed_at >= DATEADD('minute', -{_WINDOW_MINUTES}, SYSDATE())",
        "Snowflake skipped badge rows: SELECT * FROM V_CHANNEL_ERRORS",
    ),
    (
        "BADGE_ALERT_LATENCY",
        60,
        "V_END_TO_END_LATENCY",
        f"\n    WHERE status = 'STALE' AND last_seen_at >= DATEADD('minute', -{_WINDOW_MINUTES}, SYSDATE())",
        "Badge rows arrive late: SELECT * FROM V_END_TO_END_LATENCY",
    ),
)
ALERTS = tuple(name for name, *_ in _ALERTS)


def dynamic_table(plan: Plan) -> str:
    """A table with every event once, kept up to date by Snowflake and clustered by day and door."""
    return f"""\
-- V_BADGE_EVENTS looks for copies in the whole table each time it is read. With many millions of rows
-- read this dynamic table in its place: Snowflake keeps it up to date, with a lag of five minutes, and
-- CLUSTER BY lets a query on a few days or doors read only those. It costs compute at each refresh.
-- Of two copies it keeps the one with the earlier ingestion_time: it has no column arrived_at.
-- Needs CREATE DYNAMIC TABLE on the schema and USAGE on the warehouse.
USE ROLE {plan.owner};
CREATE OR REPLACE DYNAMIC TABLE {plan.dynamic_table}
  TARGET_LAG = '5 minutes'
  WAREHOUSE = {plan.warehouse}
  CLUSTER BY (CAST(event_timestamp AS DATE), agent_id)
  COPY GRANTS
AS
SELECT {names("       ")}
FROM {plan.table}
QUALIFY ROW_NUMBER() OVER (
  PARTITION BY agent_id, COALESCE(
    event_id, badge_id || '|' || reader_id || '|' || CAST(event_timestamp AS VARCHAR))
  ORDER BY COALESCE(replay, FALSE), ingestion_time, outbox_id, seq
) = 1;

-- The table of arrivals itself can be clustered, too; automatic clustering costs credits:
-- ALTER TABLE {plan.table} CLUSTER BY (CAST(event_timestamp AS DATE), agent_id);"""


def alerts(plan: Plan) -> str:
    """An email integration and one alert for each view that should be empty."""
    made = "\n\n".join(
        f"CREATE OR REPLACE ALERT {plan.view(name)}\n"
        f"  WAREHOUSE = {plan.warehouse}\n"
        f"  SCHEDULE = '{minutes} MINUTE'\n"
        f"  IF (EXISTS (SELECT 1 FROM {plan.view(view)}{condition}))\n"
        f"  THEN CALL SYSTEM$SEND_EMAIL(\n"
        f"    {literal(INTEGRATION)}, {literal(_MAIL_SLOT)}, 'badge-agent',\n"
        f"    {literal(text)});\n"
        f"ALTER ALERT {plan.view(name)} RESUME;"
        for name, minutes, view, condition, text in _ALERTS
    )
    return f"""\
-- Replace {_MAIL_SLOT} by your addresses, separated by commas. Each must be the verified address of a
-- user of the account. An alert sends an email at each run while its condition holds. Run the script
-- views first.
-- Needs CREATE INTEGRATION, and EXECUTE ALERT on the account for the owner of the alerts.
USE ROLE ACCOUNTADMIN;
CREATE NOTIFICATION INTEGRATION IF NOT EXISTS {INTEGRATION}
  TYPE = EMAIL
  ENABLED = TRUE;
GRANT USAGE ON INTEGRATION {INTEGRATION} TO ROLE {plan.owner};
GRANT EXECUTE ALERT ON ACCOUNT TO ROLE {plan.owner};

-- Needs CREATE ALERT on the schema and USAGE on the warehouse, and what was granted above.
USE ROLE {plan.owner};
{made}"""


def costs(plan: Plan) -> str:
    """What the ingestion costs, and what happened to the channels."""
    pipes = ", ".join(literal(name) for name in plan.stored_pipe_names)
    return f"""\
-- Needs IMPORTED PRIVILEGES on the database SNOWFLAKE, which ACCOUNTADMIN has; the views of its schema
-- ACCOUNT_USAGE are up to some hours late. These are queries only.
-- {WAREHOUSE_NEEDED.format(plan.warehouse)}
USE ROLE ACCOUNTADMIN;

-- Credits of streaming ingestion by day. Snowflake bills by the uncompressed size of the rows (0.0037
-- credits per GB in its consumption table of 2026); a swipe is about half a kilobyte.
SELECT CAST(start_time AS DATE) AS usage_day,
       SUM(credits_used) AS credits
FROM SNOWFLAKE.ACCOUNT_USAGE.METERING_HISTORY
WHERE service_type = 'SNOWPIPE_STREAMING' AND start_time >= DATEADD('day', -30, CURRENT_TIMESTAMP())
GROUP BY CAST(start_time AS DATE)
ORDER BY usage_day DESC;

-- Storage: bytes of each table, of its Time Travel and of its Fail-safe.
SELECT table_name, active_bytes, time_travel_bytes, failsafe_bytes
FROM SNOWFLAKE.ACCOUNT_USAGE.TABLE_STORAGE_METRICS
WHERE table_catalog = {literal(plan.stored_database)}
  AND table_schema = {literal(plan.stored_schema)}
  AND deleted = FALSE
ORDER BY active_bytes DESC;

-- The channels: rows, errors and latency. All columns, because a release of Snowflake may add some.
SELECT *
FROM SNOWFLAKE.ACCOUNT_USAGE.SNOWPIPE_STREAMING_CHANNEL_HISTORY
WHERE pipe_name IN ({pipes})
  AND created_on >= DATEADD('day', -7, CURRENT_TIMESTAMP())
ORDER BY created_on DESC, channel_name;"""
