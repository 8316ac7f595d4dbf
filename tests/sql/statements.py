"""Scripts taken apart, and the documented grammar of the statements that no parser at hand knows."""

from __future__ import annotations

import re
from types import MappingProxyType

import sqlglot
from sqlglot import Token, TokenType

# Of a statement with one blank between any two tokens.
_PART = r'(?:[A-Za-z_][A-Za-z0-9_$]*|"(?:[^"]|"")+")'
_NAME = rf"{_PART}(?: \. {_PART}){{0,2}}"
_TEXT = r"'(?:[^'\\]|''|\\.)*'"
_COLUMNS = r"\w+(?: , \w+)*"
_USER = rf"TYPE = SERVICE DEFAULT_ROLE = {_NAME} DEFAULT_SECONDARY_ROLES = \( \)"

# docs.snowflake.com/en/sql-reference/sql/<the statement's own page>, as far as the scripts use it.
GRAMMAR = MappingProxyType(
    {
        "use role": rf"USE ROLE {_NAME}",
        "create pipe": rf"CREATE PIPE IF NOT EXISTS {_NAME} AS COPY INTO {_NAME} \( {_COLUMNS} \) "  # noqa: S608 - a pattern
        r"FROM \( SELECT .+ FROM TABLE \( DATA_SOURCE \( TYPE => 'STREAMING' \) \) \)",
        "create role": rf"CREATE ROLE IF NOT EXISTS {_NAME} COMMENT = {_TEXT}",
        "create user": rf"CREATE USER IF NOT EXISTS {_NAME} {_USER} COMMENT = {_TEXT}",
        "alter user": rf"ALTER USER {_NAME} SET "
        rf"(?:{_USER}|RSA_PUBLIC_KEY(?:_2)? = {_TEXT}|NETWORK_POLICY = {_NAME})",
        "create network policy": rf"CREATE OR ALTER NETWORK POLICY {_NAME} "
        rf"ALLOWED_IP_LIST = \( {_TEXT}(?: , {_TEXT})* \)",
        "grant role": rf"GRANT ROLE {_NAME} TO USER {_NAME}",
        "grant privilege": rf"GRANT (?:USAGE|INSERT|OPERATE) ON (?:DATABASE|SCHEMA|TABLE|PIPE) {_NAME} "
        rf"TO ROLE {_NAME}",
        "alter table": rf"ALTER TABLE {_NAME} SET (?:ERROR_LOGGING|ROW_TIMESTAMP) = TRUE",
        "desc user": rf"DESC USER {_NAME}",
        "show grants": rf"SHOW GRANTS TO ROLE {_NAME}",
        "show pipes": rf"SHOW PIPES IN SCHEMA {_NAME}",
        "show channels": rf"SHOW CHANNELS IN TABLE {_NAME}",
        "drop": rf"DROP (?:VIEW|PIPE|TABLE|USER|ROLE|NETWORK POLICY) IF EXISTS {_NAME}",
    }
)


def statements(script: str) -> list[str]:
    """The statements of a script, without comments and semicolons, as they were written."""
    found: list[str] = []
    begun: Token | None = None
    for token in sqlglot.tokenize(script, read="snowflake"):
        if token.token_type is TokenType.SEMICOLON:
            assert begun is not None, "an empty statement"
            found.append(script[begun.start : token.start])
            begun = None
        elif begun is None:
            begun = token
    assert begun is None, "the last statement has no semicolon"
    return found


def shape(script: str) -> list[TokenType]:
    """The kinds of a script's tokens: what it does, without to what. A name is one, quoted or not."""
    found = [token.token_type for token in sqlglot.tokenize(script, read="snowflake")]
    return [TokenType.IDENTIFIER if kind is TokenType.VAR else kind for kind in found]


def kind(statement: str) -> str | None:
    """The entry of GRAMMAR that a statement keeps to."""
    tokens = sqlglot.tokenize(statement, read="snowflake")
    spaced = " ".join(statement[token.start : token.end + 1] for token in tokens)
    return next((name for name, rule in GRAMMAR.items() if re.fullmatch(rule, spaced, re.DOTALL)), None)
