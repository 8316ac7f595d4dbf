"""The columns of RAW_BADGE_EVENTS: name, type, and the pipe's expression that fills each of them.

An expression uses only functions of the list "Supported functions" in Snowflake's "Transforming data during a
load" (TRANSFORM_FUNCTIONS, as far as needed here). UPPER, COALESCE and SYSDATE are not on it: a pipe with one
of them may be refused, "Function 'UPPER' not supported within a COPY".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    `expression` is over `$1`, the JSON object of a row; empty if no pipe fills the column. `cast` is the
    expression of the fall-back pipe, which has no function: None if it is the same, empty if that pipe
    leaves the column out.
    """

    name: str
    type: str
    expression: str
    cast: str | None = None

    @property
    def is_member(self) -> bool:
        """Whether a pipe fills it from the member of its own name."""
        return f"$1:{self.name}" in self.expression


def same(name: str, column_type: str, cast: str) -> Column:
    """A column that takes the member of its own name, with a cast."""
    return Column(name, column_type, f"$1:{name}::{cast}")


TRANSFORM_FUNCTIONS = frozenset({"NVL", "TO_TIMESTAMP_NTZ"})  # and the operators CASE, CAST and ILIKE

NAME_LENGTH = 50  # badge_id, user_id, zone_id, reader_id
SHORT_LENGTH = 10  # signal_quality, direction
_NAME = f"VARCHAR({NAME_LENGTH}) NOT NULL"
_SHORT = f"VARCHAR({SHORT_LENGTH})"

# The demo's columns, unchanged. Both numbers of signal_quality are dBm; the rule tests the strength as
# it was sent, so a row without one is STRONG, as in the demo. A direction other than ENTRY and EXIT is
# stored as it was sent. ingestion_time has its column's default, because SYSDATE() is not allowed in a pipe.
_DEMO = (
    same("badge_id", _NAME, "STRING"),
    same("user_id", _NAME, "STRING"),
    same("zone_id", _NAME, "STRING"),
    same("reader_id", _NAME, "STRING"),
    Column(
        "event_timestamp",
        "TIMESTAMP_NTZ NOT NULL",
        "TO_TIMESTAMP_NTZ($1:event_timestamp::STRING)",
        "$1:event_timestamp::TIMESTAMP_NTZ",
    ),
    Column(
        "signal_strength",
        "NUMBER(5,2)",
        "NVL($1:signal_strength::NUMBER(5,2), -999)",
        "$1:signal_strength::NUMBER(5,2)",
    ),
    Column(
        "signal_quality",
        _SHORT,
        "CASE WHEN $1:signal_strength::FLOAT < -80 THEN 'WEAK'\n"
        "           WHEN $1:signal_strength::FLOAT < -60 THEN 'MEDIUM'\n"
        "           ELSE 'STRONG' END",
        "",
    ),
    Column(
        "direction",
        _SHORT,
        "CASE WHEN $1:direction::STRING ILIKE 'ENTRY' THEN 'ENTRY'\n"
        "           WHEN $1:direction::STRING ILIKE 'EXIT' THEN 'EXIT'\n"
        "           ELSE $1:direction::STRING END",
        "$1:direction::STRING",
    ),
    Column("ingestion_time", "TIMESTAMP_NTZ DEFAULT SYSDATE()", ""),
    Column("raw_json", "VARIANT", "$1"),
)

# No lengths: a width costs nothing in Snowflake, and one that proves too small would reject the row.
# recorded_at is text because the chain is computed over exactly what was sent; NULL if the row left it
# out because it equals event_timestamp.
SENT = (
    same("event_id", "VARCHAR", "STRING"),
    same("agent_id", "VARCHAR", "STRING"),
    same("outbox_id", "VARCHAR", "STRING"),
    same("seq", "NUMBER(38,0)", "NUMBER(38,0)"),
    same("chain_before", "VARCHAR", "STRING"),
    same("chain", "VARCHAR", "STRING"),
    same("person_salt", "VARCHAR", "STRING"),
    same("card_bits", "NUMBER(38,0)", "NUMBER(38,0)"),
    same("card_raw", "VARCHAR", "STRING"),
    same("card_format", "VARCHAR", "STRING"),
    same("facility_code", "NUMBER(38,0)", "NUMBER(38,0)"),
    same("card_number", "NUMBER(38,0)", "NUMBER(38,0)"),
    same("card_check", "VARCHAR", "STRING"),
    same("clock", "VARCHAR", "STRING"),
    same("time_uncertainty_ms", "NUMBER(38,0)", "NUMBER(38,0)"),
    same("recorded_at", "VARCHAR", "STRING"),
    same("boot_id", "VARCHAR", "STRING"),
    same("boot_ms", "NUMBER(38,0)", "NUMBER(38,0)"),
    same("replay", "BOOLEAN", "BOOLEAN"),
)

# Set when the personal columns of a row are erased: the digest that its chain was computed with.
_ERASING = (Column("person_digest", "VARCHAR", ""),)

# The value of an erased badge_id or user_id in a table whose columns are NOT NULL, as the demo's are.
ERASED = "ERASED"

# What is removed from a row and its raw_json when a person is erased.
PERSONAL = (
    *("badge_id", "user_id", "person_salt", "card_bits", "card_raw"),
    *("card_format", "facility_code", "card_number"),
)

PIPED = tuple(column for column in (*_DEMO, *SENT) if column.expression)
ADDED = (*SENT, *_ERASING)
COLUMNS = (*_DEMO, *ADDED)

_NAMES_PER_LINE = 6


def names(indent: str, columns: tuple[Column, ...] = COLUMNS) -> str:
    """The names of columns, some to a line; every line but the first begins with `indent`."""
    found = [column.name for column in columns]
    lines = [found[start : start + _NAMES_PER_LINE] for start in range(0, len(found), _NAMES_PER_LINE)]
    return f",\n{indent}".join(", ".join(line) for line in lines)
