"""The columns of RAW_DOOR_EVENTS: what an operator should know about a door, and its heartbeats.

A row is a JSON object, as a swipe is. `details` of a heartbeat (`kind` is `heartbeat`; the views read these):

| member | content |
|---|---|
| `seq`, `chain` | of the last swipe kept under `outbox_id` of the row |
| `pending` | swipes that Snowflake had not confirmed at that moment, the newest ones |
| `signature`, `key` | RS256 over `outbox_id|seq|chain|at`, base64; fingerprint of the key |
| `oldest_pending_seconds`, `interval_minutes`, `version`, `clock`, `readers_open`, `readers_lost` | state |

The column of the member `at` is event_timestamp, because AT is a word of Snowflake's SQL.
Heartbeats are not stored at the door, so they have no `seq` of their own.
"""

from __future__ import annotations

from agent.sql.columns import Column, same

EVENT_COLUMNS = (
    same("event_id", "VARCHAR", "STRING"),
    same("agent_id", "VARCHAR NOT NULL", "STRING"),
    same("outbox_id", "VARCHAR", "STRING"),
    same("seq", "NUMBER(38,0)", "NUMBER(38,0)"),
    same("chain_before", "VARCHAR", "STRING"),
    same("chain", "VARCHAR", "STRING"),
    same("kind", "VARCHAR NOT NULL", "STRING"),
    Column("event_timestamp", "TIMESTAMP_NTZ NOT NULL", "TO_TIMESTAMP_NTZ($1:at::STRING)"),
    same("clock", "VARCHAR", "STRING"),
    same("severity", "VARCHAR", "STRING"),
    same("reader_id", "VARCHAR", "STRING"),
    same("actor", "VARCHAR", "STRING"),
    same("message", "VARCHAR", "STRING"),
    Column("details", "VARIANT", "$1:details"),
    same("replay", "BOOLEAN", "BOOLEAN"),
    Column("ingestion_time", "TIMESTAMP_NTZ DEFAULT SYSDATE()", ""),
    Column("raw_json", "VARIANT", "$1"),
)
EVENT_PIPED = tuple(column for column in EVENT_COLUMNS if column.expression)
