"""Text from a server, reduced to what may be shown: the only way for a server's words into messages.

Snowflake quotes values of rows in its messages, card numbers among them, and a device in between may answer
anything. So no free text passes: codes keep their form, of sentences only known words remain.
"""

from __future__ import annotations

import re
import uuid

_OMITTED = "..."
_LONGEST_CODE = 80
_LONGEST_TEXT = 2_000  # characters read of a sentence

# Names such as ERR_CHANNEL_MUST_BE_REOPENED or invalid_scope; numbers of up to three digits, and of six as
# 390144 or 002003. Any other number, or a name with digits inside, could be a card number.
_CODE = re.compile(r"[A-Za-z]+(?:_[A-Za-z]+)*(?:_[0-9]{1,3})?|[0-9]{1,3}|(?:39|00)[0-9]{4}", re.ASCII)
_TOKEN = re.compile(r"[ -~]{1,256}", re.ASCII)
# `seq-hash`, of a replay `replay.n-hash`, as this agent sends them: others are compared, never shown.
_OWN_TOKEN = re.compile(r"[0-9]{1,19}(?:\.[0-9]{1,19})?(?:-[0-9a-f]{1,64}){1,3}", re.ASCII)
_UUID = re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.ASCII)
_QUOTED = re.compile(r"'[^']*'?|\"[^\"]*\"?|`[^`]*`?")

# The words of Snowflake's load errors ("Numeric value '...' is not recognized", "NULL result in a
# non-nullable column").
_KNOWN_WORDS = frozenset(
    """
    a an and array as be boolean bytes can cannot cast character characters column conversion convert
    data date does error exceeds expected failed field fit for format from in input integer invalid is
    json length limit long match maximum missing mixed non-nullable not null number numeric object of or
    out overflow parse parsed parsing range recognized record required result row scale size string than
    time timestamp to too truncated type unexpected utf-8 value values variant was with
    """.split()  # noqa: SIM905 - sixty words read better as a text
)


def code(value: object) -> str:
    """An error or state code as it came, "" if it has not the form of one."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    text = str(value) if isinstance(value, str) or abs(value) < 10**_LONGEST_CODE else ""
    return text if len(text) <= _LONGEST_CODE and _CODE.fullmatch(text) else ""


def offset_token(value: object) -> str | None:
    """An offset token: up to 256 printable ASCII characters; None for anything else."""
    return value if isinstance(value, str) and _TOKEN.fullmatch(value) else None


def own_offset_token(value: object) -> str | None:
    """An offset token of the form that this agent sends; None for anything else."""
    return value if isinstance(value, str) and _OWN_TOKEN.fullmatch(value) else None


def load_error(value: object) -> str | None:
    """A load error without its values: words that are not known become "..."; None if nothing is left.

    The name after the word "column" is kept if it is in upper case, as Snowflake writes ours.
    """
    if not isinstance(value, str):
        return None
    kept: list[str] = []
    previous = ""
    for word in _QUOTED.sub(f" {_OMITTED} ", value[:_LONGEST_TEXT]).split():
        bare = word.strip(".,:;()[]")
        is_column = previous == "column" and re.fullmatch(r"[A-Z_]{2,50}", bare, re.ASCII) is not None
        shown = bare if is_column or bare.lower() in _KNOWN_WORDS else _OMITTED
        if shown != _OMITTED or kept[-1:] != [_OMITTED]:
            kept.append(shown)
        previous = bare
    text = " ".join(kept)[:200]
    return None if set(kept) <= {_OMITTED} else text


def login_failure_id(value: object) -> str | None:
    """The UUID in a refused sign-in, the argument of SYSTEM$GET_LOGIN_FAILURE_DETAILS; None without one."""
    found = _UUID.search(value[:_LONGEST_TEXT].lower()) if isinstance(value, str) else None
    return str(uuid.UUID(found[0])) if found else None
