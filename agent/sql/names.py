"""Names and texts as SQL: quoted where needed, rejected where Snowflake would not accept them."""

from __future__ import annotations

import re

# "Identifier requirements" of the SQL reference: at most 255 characters; without quotes a letter or an
# underscore first, then letters, digits, underscores and dollar signs, and then its case does not count.
_LONGEST = 255
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*", re.ASCII)

# "Reserved & limited keywords" of the SQL reference: what cannot name an object without quotes.
_RESERVED = frozenset(
    """
    ACCOUNT ALL ALTER AND ANY AS BETWEEN BY CASE CAST CHECK COLUMN CONNECT CONNECTION CONSTRAINT CREATE
    CROSS CURRENT CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP CURRENT_USER DATABASE DELETE DISTINCT DROP
    ELSE EXISTS FALSE FOLLOWING FOR FROM FULL GRANT GROUP GSCLUSTER HAVING ILIKE IN INCREMENT INNER INSERT
    INTERSECT INTO IS ISSUE JOIN LATERAL LEFT LIKE LOCALTIME LOCALTIMESTAMP MINUS NATURAL NOT NULL OF ON OR
    ORDER ORGANIZATION QUALIFY REGEXP REVOKE RIGHT RLIKE ROW ROWS SAMPLE SCHEMA SELECT SET SOME START TABLE
    TABLESAMPLE THEN TO TRIGGER TRUE TRY_CAST UNION UNIQUE UPDATE USING VALUES VIEW WHEN WHENEVER WHERE WITH
    """.split()  # noqa: SIM905 - ninety words read better as a text
)


def name_problem(name: str) -> str | None:
    """Why Snowflake would not accept a name, or None."""
    if not name:
        return "is empty"
    if len(name) > _LONGEST:
        return f"has {len(name)} characters; Snowflake takes at most {_LONGEST}"
    if not name.isprintable():
        return "holds a line break or another character that cannot be printed"
    return None


def identifier(name: str) -> str:
    """A name in SQL. Raises ValueError for one that name_problem() objects to."""
    if wrong := name_problem(name):
        raise ValueError(f"the name {wrong}")
    if _is_plain(name):
        return name
    return '"' + stored(name).replace('"', '""') + '"'


def user_identifier(name: str) -> str:
    """A user's name in SQL; where it needs quotes in upper case, as the token names it. Raises ValueError."""
    return identifier(name if _is_plain(name) else name.upper())


def stored(name: str) -> str:
    """A name as Snowflake's own tables of objects have it: in upper case unless it needs quotes."""
    return name.upper() if _PLAIN.fullmatch(name) else name


def qualified(*names: str) -> str:
    """Names joined by dots: database.schema.object."""
    return ".".join(map(identifier, names))


def literal(text: str) -> str:
    """A text in SQL; in Snowflake a backslash in quotes begins an escape."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def commented(text: str) -> str:
    """Every line as a comment."""
    return "\n".join(f"-- {line}".rstrip() for line in text.splitlines())


def _is_plain(name: str) -> bool:
    return _PLAIN.fullmatch(name) is not None and name.upper() not in _RESERVED
