"""The columns of RAW_BADGE_EVENTS: name, type, and the pipe's expression that fills each of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """One column; `expression` is over `$1`, the JSON object of a row. Empty: no pipe fills the column."""

    name: str
    type: str
    expression: str


def _same(name: str, column_type: str, cast: str) -> Column:
    return Column(name, column_type, f"$1:{name}::{cast}")


NAME_LENGTH = 50  # badge_id, user_id, zone_id, reader_id
SHORT_LENGTH = 10  # signal_quality, direction
_NAME = f"VARCHAR({NAME_LENGTH}) NOT NULL"
_SHORT = f"VARCHAR({SHORT_LENGTH})"

# The demo's columns, unchanged. Both numbers of signal_quality are dBm; the rule tests the strength as
# it was sent, so a row without one is STRONG, as in the demo.
_DEMO = (
    _same("badge_id", _NAME, "STRING"),
    _same("user_id", _NAME, "STRING"),
    _same("zone_id", _NAME, "STRING"),
    _same("reader_id", _NAME, "STRING"),
    Column("event_timestamp", "TIMESTAMP_NTZ NOT NULL", "TO_TIMESTAMP_NTZ($1:event_timestamp::STRING)"),
    Column("signal_strength", "NUMBER(5,2)", "COALESCE($1:signal_strength::NUMBER(5,2), -999)"),
    Column(
        "signal_quality",
        _SHORT,
        "CASE WHEN $1:signal_strength::FLOAT < -80 THEN 'WEAK'\n"
        "           WHEN $1:signal_strength::FLOAT < -60 THEN 'MEDIUM'\n"
        "           ELSE 'STRONG' END",
    ),
    Column("direction", _SHORT, "UPPER($1:direction::STRING)"),
    Column("ingestion_time", "TIMESTAMP_NTZ DEFAULT SYSDATE()", "SYSDATE()"),
    Column("raw_json", "VARIANT", "$1"),
)

# No lengths: a width costs nothing in Snowflake, and one that proves too small would reject the row.
# recorded_at is text because the chain is computed over exactly what was sent; NULL if the row left it
# out because it equals event_timestamp.
SENT = (
    _same("event_id", "VARCHAR", "STRING"),
    _same("agent_id", "VARCHAR", "STRING"),
    _same("outbox_id", "VARCHAR", "STRING"),
    _same("seq", "NUMBER(38,0)", "NUMBER(38,0)"),
    _same("chain_before", "VARCHAR", "STRING"),
    _same("chain", "VARCHAR", "STRING"),
    _same("person_salt", "VARCHAR", "STRING"),
    _same("card_bits", "NUMBER(38,0)", "NUMBER(38,0)"),
    _same("card_raw", "VARCHAR", "STRING"),
    _same("card_format", "VARCHAR", "STRING"),
    _same("facility_code", "NUMBER(38,0)", "NUMBER(38,0)"),
    _same("card_number", "NUMBER(38,0)", "NUMBER(38,0)"),
    _same("card_check", "VARCHAR", "STRING"),
    _same("clock", "VARCHAR", "STRING"),
    _same("time_uncertainty_ms", "NUMBER(38,0)", "NUMBER(38,0)"),
    _same("recorded_at", "VARCHAR", "STRING"),
    _same("boot_id", "VARCHAR", "STRING"),
    _same("boot_ms", "NUMBER(38,0)", "NUMBER(38,0)"),
    _same("replay", "BOOLEAN", "BOOLEAN"),
)

# Set when the personal columns of a row are erased: the digest that its chain was computed with.
_ERASING = (Column("person_digest", "VARCHAR", ""),)

# The value of an erased badge_id or user_id in a table whose columns are NOT NULL, as the demo's are.
ERASED = "ERASED"

PIPED = (*_DEMO, *SENT)
ADDED = (*SENT, *_ERASING)
COLUMNS = (*_DEMO, *ADDED)

_NAMES_PER_LINE = 6


def names(indent: str, columns: tuple[Column, ...] = COLUMNS) -> str:
    """The names of columns, some to a line; every line but the first begins with `indent`."""
    found = [column.name for column in columns]
    lines = [found[start : start + _NAMES_PER_LINE] for start in range(0, len(found), _NAMES_PER_LINE)]
    return f",\n{indent}".join(", ".join(line) for line in lines)
