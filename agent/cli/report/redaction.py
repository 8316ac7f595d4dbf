"""Removes what must not leave a door from the text of a report.

Logs, status and configuration hold no secret by design. This is for what others write there: a key that was
pasted into a wrong place, or lines of other programs.
"""

from __future__ import annotations

import re

REMOVED = "[removed]"

_SECRETS = re.compile(
    r"""
    -----BEGIN\ [A-Z0-9 ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z0-9 ]*PRIVATE\ KEY-----|\Z)
    | \beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*      # JSON Web Token, RFC 7515: begins with base64url of {"
    | (?<=Bearer\ )[^\s"']+                            # RFC 6750
    | (?<=://)[^/\s:@"']+:[^/\s@"']+(?=@)              # login in a URL
    | [A-Za-z0-9+/]{60,}={0,2}                         # a line of a PEM body, or of another base64 text
    """,
    re.VERBOSE | re.DOTALL,
)


def redacted(text: str) -> tuple[str, int]:
    """The text without secrets, and how many were removed."""
    return _SECRETS.subn(REMOVED, text)
