"""Method and path to the endpoint they name: a table, pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote

from agent.emulator.responses import RefusalError


class Endpoint(StrEnum):
    """What a request asks for; also the values of `on` in a fault rule."""

    HOSTNAME = "hostname"
    TOKEN = "token"  # noqa: S105 - the name of an endpoint
    PIPE_INFO = "pipe-info"
    OPEN = "open"
    APPEND = "append"
    STATUS = "status"
    DROP = "drop"
    ELASTIC = "elastic"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Call:
    """An endpoint with the names from its path; `shape` is the path with the names left out."""

    endpoint: Endpoint
    shape: str
    names: dict[str, str] = field(default_factory=dict)


_SCHEMA = "databases/{database}/schemas/{schema}"
_PIPE = f"/v2/streaming/{_SCHEMA}/pipes/{{pipe}}"
_DATA = f"/v2/streaming/data/{_SCHEMA}"

# The first match wins: the channel ELASTIC is a separate endpoint.
_TABLE: tuple[tuple[str, str, Endpoint], ...] = (
    ("GET", "/v2/streaming/hostname", Endpoint.HOSTNAME),
    ("POST", "/oauth/token", Endpoint.TOKEN),
    ("POST", f"{_PIPE}:pipe-info", Endpoint.PIPE_INFO),
    ("POST", f"{_PIPE}:bulk-channel-status", Endpoint.STATUS),
    ("PUT", f"{_PIPE}/channels/{{channel}}", Endpoint.OPEN),
    ("DELETE", f"{_PIPE}/channels/{{channel}}", Endpoint.DROP),
    ("POST", f"{_DATA}/pipes/{{pipe}}/channels/ELASTIC/rows", Endpoint.ELASTIC),
    ("POST", f"{_DATA}/tables/{{table}}/rows", Endpoint.ELASTIC),
    ("POST", f"{_DATA}/pipes/{{pipe}}/channels/{{channel}}/rows", Endpoint.APPEND),
    ("POST", f"{_DATA}/pipes/{{pipe}}/channels/{{channel}}/rows/filebuffer", Endpoint.FILE),
)


def _compiled(template: str) -> re.Pattern[str]:
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/:]+)", template)
    # Clients that percent-encode everything but the slash send the colon as %3A.
    return re.compile(pattern.replace("}:", "}(?::|%3A)").replace("):", ")(?::|%3A)"), re.IGNORECASE)


_ROUTES = [(method, _compiled(template), template, endpoint) for method, template, endpoint in _TABLE]


def route(method: str, path: str) -> Call:
    """The call for a raw, percent-encoded path. Raises RefusalError (404, 405)."""
    known = False
    for wanted, pattern, shape, endpoint in _ROUTES:
        match = pattern.fullmatch(path)
        if match is None:
            continue
        if method == wanted:
            names = {key: unquote(value) for key, value in match.groupdict().items()}
            return Call(endpoint, shape, names)
        known = True
    if known:
        raise RefusalError(405, "ERR_METHOD_NOT_ALLOWED", "This method is not allowed here.")
    raise RefusalError(404, "ERR_NOT_FOUND", "There is no such endpoint.")
