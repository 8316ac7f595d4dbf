"""Two engines that run the account's SQL: DuckDB with Snowflake's dialect, and the emulator's SQLite."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from agent.emulator import row_loader
from agent.emulator.database import DATABASE_FILE, Database
from agent.emulator.views import read_views
from agent.sql.columns import PERSONAL, PIPED, Column, names
from agent.sql.door_events import EVENT_PIPED
from agent.sql.pipes import STREAM, pipe_select
from agent.sql.plan import TABLE, Plan
from agent.sql.procedures import procedures
from agent.sql.setup import setup
from agent.sql.views import ARRIVED_AT, VIEWS, sources
from tests.sql import blocks
from tests.sql.statements import statements

PLAN = Plan(
    account="MYORG-MYACCOUNT",
    database_name="SNOWFLAKE_EXAMPLE",
    schema_name="RAW_INGESTION",
    pipe_name="SFE_BADGE_EVENTS_PIPE",
    user_name="SFE_INGEST_USER",
)

# The scripts' own, but for the commit time of a row and the error table, which only Snowflake has.
_SOURCES = replace(sources(PLAN), errors="ERRORS", arrived_at="ingestion_time", reported_at="ingestion_time")

# The dialect's translation to DuckDB drops the format of TO_VARCHAR.
_FORMATTED = (
    "TO_VARCHAR(event_timestamp, 'YYYY-MM-DD HH24:MI:SS.FF6')",
    "STRFTIME(event_timestamp, '%Y-%m-%d %H:%M:%S.%f')",
)

# Snowflake's functions that the engine lacks, as the procedures call them.
_AS_OBJECT = "CREATE OR REPLACE MACRO as_object(v) AS CASE WHEN STARTS_WITH(v::VARCHAR, '{') THEN v END"
_MEMBERS = [f"m{number}" for number in range(len(PERSONAL))]
_OBJECT_DELETE = f"""
CREATE OR REPLACE MACRO object_delete(o, {", ".join(_MEMBERS)}) AS CASE
  WHEN STARTS_WITH(o::VARCHAR, '{{') THEN JSON_MERGE_PATCH(
    o::JSON, JSON_OBJECT({", ".join(f"{member}::VARCHAR, NULL" for member in _MEMBERS)}))
  WHEN o IS NOT NULL THEN ERROR('no object') END"""

Row = dict[str, Any]


class Engine(Protocol):
    """Takes rows as they come over the wire, answers with what the views show."""

    def load(self, lines: Sequence[bytes]) -> None:
        """Rows through the pipe into the table."""

    def change(self, statement: str) -> None:
        """Tamper with the table, `{table}` in the statement."""

    def table(self) -> list[Row]:
        """The table."""

    def view(self, name: str) -> list[Row]:
        """What a view shows."""


class DuckDbAccount:
    """The table, the pipe's SELECT and the views of the scripts, word for word."""

    def __init__(self, cursor: Any) -> None:  # noqa: ANN401 - of a library without types
        self._cursor = cursor
        self.set_up(PLAN)
        self.generate(_AS_OBJECT)
        self.generate(_OBJECT_DELETE)
        cursor.execute("CREATE TABLE STREAMED (V VARIANT)")
        cursor.execute("CREATE TABLE PIPES (pipe_schema TEXT, pipe_name TEXT, definition TEXT)")
        cursor.execute(
            "CREATE TABLE ERRORS "
            "(timestamp TIMESTAMP_LTZ, error_code NUMBER, error_metadata VARIANT, error_data VARIANT)"
        )
        for view in VIEWS:
            select = view.select(_SOURCES).replace(*_FORMATTED)
            cursor.execute(f"CREATE OR REPLACE VIEW {PLAN.view(view.name)} AS {select}")

    def set_up(self, plan: Plan) -> None:
        """Run the script `setup`, without what the engine does not know: roles, pipes, table properties."""
        for statement in statements(setup(plan)):
            if re.match(r"CREATE (SCHEMA|TABLE)|ALTER TABLE \S+ ADD", statement):
                self._cursor.execute(statement)

    def columns(self, table: str) -> set[str]:
        """The columns of a table."""
        self._cursor.execute(f"SELECT * FROM {table}")
        return {column[0].lower() for column in self._cursor.description}

    def load(self, lines: Sequence[bytes]) -> None:
        self.load_into(PLAN.table, PIPED, lines)

    def load_into(
        self, table: str, columns: tuple[Column, ...], lines: Sequence[bytes], *, casts_only: bool = False
    ) -> None:
        """Rows through a pipe that fills these columns of a table."""
        if not lines:
            return
        self._cursor.execute("DELETE FROM STREAMED")
        texts = ", ".join(f"(PARSE_JSON({_quoted(line.decode())}))" for line in lines)
        self._cursor.execute(f"INSERT INTO STREAMED VALUES {texts}")
        select = pipe_select(columns, casts_only=casts_only).replace(STREAM, "STREAMED").replace("$1", "V")
        self._cursor.execute(f"INSERT INTO {table} ({names('', columns)}) {select}")

    def call(self, procedure: str, arguments: Mapping[str, object]) -> object:
        """Run the body of a procedure of the scripts."""
        found = next(one for one in statements(procedures(PLAN)) if f"PROCEDURE {procedure}(" in one)
        # The engine has no time of a commit.
        found = found.replace(ARRIVED_AT, "ingestion_time").replace(*_FORMATTED)
        return self.run_block(found, arguments)

    def run_block(self, statement: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a block of Snowflake Scripting, or the body of a procedure."""
        return blocks.run(statement, self._first_row, arguments)

    def _first_row(self, statement: str) -> object:
        self._cursor.execute(statement)
        return self._cursor.fetchone()

    def report(self, *lines: bytes) -> None:
        """Door events and heartbeats through their pipe."""
        self.load_into(PLAN.events_table, EVENT_PIPED, lines)

    def fail(self, metadata: str, data: str) -> None:
        """Put a row into the error table."""
        self._cursor.execute(
            "INSERT INTO ERRORS SELECT SYSDATE(), 100072, PARSE_JSON(%s), PARSE_JSON(%s)", (metadata, data)
        )

    def change(self, statement: str) -> None:
        self._cursor.execute(statement.format(table=PLAN.table))

    def clear(self) -> None:
        """Empty every table."""
        for table in (PLAN.table, PLAN.purged, PLAN.events_table, PLAN.expected_doors, "ERRORS", "PIPES"):
            self._cursor.execute(f"DELETE FROM {table}")

    def table(self) -> list[Row]:
        return self.rows(PLAN.table)

    def view(self, name: str) -> list[Row]:
        return self.rows(PLAN.view(name))

    def generate(self, statement: str) -> None:
        """Run a statement in DuckDB's own SQL."""
        self._cursor._duck_conn.execute(statement)

    def count(self, name: str) -> int:
        """The number of rows of a view."""
        self._cursor.execute(f"SELECT COUNT(*) FROM {PLAN.view(name)}")
        return int(self._cursor.fetchone()[0])

    def frame(self, query: str) -> Any:  # noqa: ANN401 - of pandas, which is not on every machine
        """The result of a query as Snowflake's own library returns it."""
        self._cursor.execute(query)
        return self._cursor.fetch_pandas_all()

    def rows(self, source: str) -> list[Row]:
        """The rows of a table or view."""
        self._cursor.execute(f"SELECT * FROM {source}")
        columns = [column[0].lower() for column in self._cursor.description]
        return [_row(columns, row) for row in self._cursor.fetchall()]


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


@contextmanager
def duckdb_account(directory: Path | None = None) -> Iterator[DuckDbAccount]:
    """A context with an emulated account, in memory or in a directory; Snowflake's connector is replaced."""
    import fakesnow  # noqa: PLC0415 - not on every machine
    import snowflake.connector  # noqa: PLC0415 - as above

    with (
        fakesnow.patch(db_path=directory),
        closing(
            snowflake.connector.connect(database=PLAN.database_name, schema=PLAN.schema_name)
        ) as connection,
    ):
        yield DuckDbAccount(connection.cursor())


class EmulatorFile:
    """The emulator's table, and what the demo shows of it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / DATABASE_FILE
        self._warehouse = Database(directory)

    def close(self) -> None:
        self._warehouse.close()

    def load(self, lines: Sequence[bytes]) -> None:
        now = datetime.now(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
        loaded = row_loader.load(b"\n".join(lines), (now, PLAN.pipe_name, "channel", "1"))
        assert loaded.errors == 0, loaded.last_error
        self._warehouse.commit(loaded.rows, [])

    def change(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement.format(table=TABLE))

    def table(self) -> list[Row]:
        return self.rows(TABLE)

    def rows(self, source: str) -> list[Row]:
        """The rows of the table, or of a view that is in the file."""
        with closing(sqlite3.connect(self.path)) as connection:
            cursor = connection.execute(f"SELECT * FROM {source}")
            return [_row([column[0] for column in cursor.description], row) for row in cursor]

    def view(self, name: str) -> list[Row]:
        result = next(one for one in read_views(self.path) if one.view.name == name)
        return [_row(result.columns, row) for row in result.rows]


def _row(columns: Sequence[str], values: Sequence[object]) -> Row:
    return {name.lower(): _plain(value) for name, value in zip(columns, values, strict=True)}


def _plain(value: object) -> object:
    """Numbers and times as the other engine has them."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return value.isoformat(" ", "microseconds")
    return value
