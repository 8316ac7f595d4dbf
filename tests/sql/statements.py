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
_TEXTS = rf"\( (?:{_TEXT}(?: , {_TEXT})* )?\)"
_USER = rf"TYPE = SERVICE DEFAULT_ROLE = {_NAME} DEFAULT_SECONDARY_ROLES = \( \)"

# docs.snowflake.com/en/sql-reference/sql/<the statement's own page>, as far as the scripts use it.
GRAMMAR = MappingProxyType(
    {
        "use role": rf"USE ROLE {_NAME}",
        "create pipe": rf"CREATE (?:OR REPLACE PIPE|PIPE IF NOT EXISTS) {_NAME} AS "
        rf"COPY INTO {_NAME} \( {_COLUMNS} \) "
        r"FROM \( SELECT .+ FROM TABLE \( DATA_SOURCE \( TYPE => 'STREAMING' \) \) \)",
        "create role": rf"CREATE ROLE IF NOT EXISTS {_NAME} COMMENT = {_TEXT}",
        "create user": rf"CREATE USER IF NOT EXISTS {_NAME} {_USER} COMMENT = {_TEXT}",
        "alter user": rf"ALTER USER {_NAME} (?:UNSET {_COLUMNS}|SET "
        rf"(?:{_USER}|RSA_PUBLIC_KEY(?:_2)? = {_TEXT}|NETWORK_POLICY = {_NAME}))",
        "create network rule": rf"CREATE OR ALTER NETWORK RULE {_NAME} TYPE = IPV6 VALUE_LIST = {_TEXTS} "
        r"MODE = INGRESS",
        "create network policy": rf"CREATE NETWORK POLICY IF NOT EXISTS {_NAME} ALLOWED_IP_LIST = {_TEXTS}",
        "alter network policy": rf"ALTER NETWORK POLICY {_NAME} SET "
        rf"(?:ALLOWED_IP_LIST|ALLOWED_NETWORK_RULE_LIST) = {_TEXTS}",
        "create integration": rf"CREATE NOTIFICATION INTEGRATION IF NOT EXISTS {_NAME} "
        "TYPE = EMAIL ENABLED = TRUE",
        "create alert": rf"CREATE OR REPLACE ALERT {_NAME} WAREHOUSE = {_NAME} SCHEDULE = '\d+ MINUTE' "
        rf"IF \( EXISTS \( SELECT .+ \) \) THEN CALL SYSTEM\$SEND_EMAIL \( {_TEXT}(?: , {_TEXT}){{3}} \)",
        "alter alert": rf"ALTER ALERT {_NAME} RESUME",
        "create masking policy": rf"CREATE MASKING POLICY IF NOT EXISTS {_NAME} AS \( val (?P<kind>\w+) \) "
        r"RETURNS (?P=kind) -> CASE WHEN .+ THEN val ELSE .+ END",
        "alter column": rf"ALTER TABLE {_NAME} MODIFY COLUMN \w+ SET "
        rf"(?:TAG {_NAME} = {_TEXT}|MASKING POLICY {_NAME} FORCE)",
        "grant role": rf"GRANT ROLE {_NAME} TO (?:USER|ROLE) {_NAME}",
        "grant privilege": rf"GRANT (?:USAGE|INSERT|OPERATE|MONITOR|SELECT) ON "
        rf"(?:DATABASE|SCHEMA|TABLE|PIPE|VIEW|INTEGRATION) {_NAME} "
        rf"TO ROLE {_NAME}",
        "alter table": rf"ALTER TABLE {_NAME} SET (?:ERROR_LOGGING|ROW_TIMESTAMP) = TRUE",
        "desc user": rf"DESC USER {_NAME}",
        "show grants": rf"SHOW GRANTS TO ROLE {_NAME}",
        "show pipes": rf"SHOW PIPES IN SCHEMA {_NAME}",
        "show channels": rf"SHOW CHANNELS IN PIPE {_NAME}",
        "grant on account": rf"GRANT EXECUTE ALERT ON ACCOUNT TO ROLE {_NAME}",
        "drop": r"DROP (?:VIEW|PIPE|TABLE|USER|ROLE|NETWORK POLICY|ALERT|DYNAMIC TABLE|MASKING POLICY|TAG"
        r"|INTEGRATION|NETWORK RULE|AUTHENTICATION POLICY) "
        rf"IF EXISTS {_NAME}",
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
    found = []
    for statement in statements(script):
        text = block[0] if (block := re.search(r"(?<=\$\$).*(?=\$\$)", statement, re.DOTALL)) else statement
        found += [token.token_type for token in sqlglot.tokenize(text, read="snowflake")]
    return [TokenType.IDENTIFIER if kind is TokenType.VAR else kind for kind in found]


def kind(statement: str) -> str | None:
    """The entry of GRAMMAR that a statement keeps to."""
    tokens = sqlglot.tokenize(statement, read="snowflake")
    spaced = " ".join(statement[token.start : token.end + 1] for token in tokens)
    return next((name for name, rule in GRAMMAR.items() if re.fullmatch(rule, spaced, re.DOTALL)), None)
