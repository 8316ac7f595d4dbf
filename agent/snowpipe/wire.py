"""Requests and replies of the Snowpipe Streaming REST API (high-performance, named channels), pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote, urlencode

import zstandard

from agent.errors import (
    AuthError,
    ChannelLostError,
    OutcomeUnknownError,
    RowsRefusedError,
    SnowpipeError,
    TooLargeError,
    TransientError,
)

# Healthy states of a channel: the error-handling page says SUCCESS, the REST page's example ACTIVE.
_HEALTHY = frozenset({"SUCCESS", "ACTIVE"})
_STALE = "STALE_CONTINUATION_TOKEN_SEQUENCER"
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?(?::[0-9]{1,5})?")
# Level 3 is the library's default: rows shrink about sixfold, at a fraction of the cost of sending them.
_LEVEL = 3
# The most characters of a server's text in a message: enough to recognise the error.
_QUOTED_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class PipeName:
    """A pipe: database, schema, name; each as Snowflake stores it."""

    database: str
    schema: str
    pipe: str

    @property
    def path(self) -> str:
        """The pipe's part of every URL path, percent-encoded."""
        database, schema, pipe = (quote(name, safe="") for name in (self.database, self.schema, self.pipe))
        return f"/databases/{database}/schemas/{schema}/pipes/{pipe}"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, without host and credentials; `what` names it in messages."""

    what: str
    plane: Literal["control", "ingest"]
    method: Literal["GET", "POST", "PUT"]
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete HTTP response. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """A channel status from the server. Counters run since the channel was created."""

    code: str
    committed_token: str | None
    created_on_ms: int
    rows_error_count: int
    last_error_upper_bound: str | None
    last_error_message: str | None

    @property
    def healthy(self) -> bool:
        """False: reopen the channel, even if appends are still answered with 200."""
        return self.code in _HEALTHY


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to an open: the token for the first append, and the channel's status."""

    continuation_token: str = field(repr=False)
    status: ChannelStatus


# --- requests -------------------------------------------------------------------------------


def hostname() -> Request:
    """Ask the account for its ingest host."""
    return Request("ask for the ingest host", "control", "GET", "/v2/streaming/hostname")


def scoped_token(ingest_host: str, role: str | None) -> Request:
    """Exchange the key-pair JWT for a token that the ingest host accepts."""
    scope = f"{ingest_host} session:role:{role}" if role else ingest_host
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "scope": scope}
    return Request(
        "fetch a scoped token",
        "control",
        "POST",
        "/oauth/token",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        body=urlencode(form).encode(),
    )


def open_channel(pipe: PipeName, channel: str, offset_token: str | None) -> Request:
    """Open or reopen, discarding uncommitted rows; `offset_token` sets the channel's position."""
    content = {"offset_token": offset_token} if offset_token is not None else {}
    return Request(
        "open the channel",
        "ingest",
        "PUT",
        f"/v2/streaming{pipe.path}/channels/{quote(channel, safe='')}",
        headers={"Content-Type": "application/json"},
        body=json.dumps(content).encode(),
    )


def append(
    pipe: PipeName, channel: str, body: CompressedRows, tokens: tuple[str, str], continuation_token: str
) -> Request:
    """Append rows; `tokens` are the offset tokens of the first and the last of them."""
    return Request(
        "append rows",
        "ingest",
        "POST",
        f"/v2/streaming/data{pipe.path}/channels/{quote(channel, safe='')}/rows",
        query=(
            ("startOffsetToken", tokens[0]),
            ("endOffsetToken", tokens[1]),
            ("continuationToken", continuation_token),
        ),
        headers={
            "Content-Type": "application/x-ndjson",
            "Content-Encoding": "zstd",
            "X-Snowflake-Uncompressed-Content-Length": str(body.plain_bytes),
        },
        body=body.data,
    )


def channel_status(pipe: PipeName, channel: str) -> Request:
    """Request the committed token and error count of a channel."""
    return Request(
        "ask for the channel's status",
        "ingest",
        "POST",
        f"/v2/streaming{pipe.path}:bulk-channel-status",
        headers={"Content-Type": "application/json"},
        body=json.dumps({"channel_names": [channel]}).encode(),
    )


@dataclass(frozen=True, slots=True)
class CompressedRows:
    """Compressed NDJSON; `plain_bytes` is its uncompressed size."""

    data: bytes = field(repr=False)
    plain_bytes: int


def compress(rows: list[bytes]) -> CompressedRows:
    """Join rows to NDJSON, one per line, and compress it."""
    plain = b"\n".join(rows) + b"\n"
    return CompressedRows(zstandard.ZstdCompressor(level=_LEVEL).compress(plain), len(plain))


# --- replies --------------------------------------------------------------------------------


def parse_hostname(reply: Reply) -> str:
    """The ingest host, `host` or `host:port`; underscores become hyphens, as in the certificates.

    The service returns plain text, its documentation shows a JSON object: both are accepted.
    """
    text = _text_or_member(reply, "hostname", "ask for the ingest host")
    if not _HOST.fullmatch(text):
        raise _not_snowflake("ask for the ingest host")
    return text.replace("_", "-").lower()


def parse_scoped_token(reply: Reply) -> str:
    """The token: plain text in practice, a JSON object in the documentation."""
    text = _text_or_member(reply, "token", "fetch a scoped token")
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise _not_snowflake("fetch a scoped token")
    return text


def parse_opened(reply: Reply) -> Opened:
    """The answer to an open."""
    what = "open the channel"
    content = _json_object(reply, what)
    continuation_token = content.get("next_continuation_token")
    if not isinstance(continuation_token, str):
        raise _not_snowflake(what)
    return Opened(continuation_token, _status(content.get("channel_status"), what))


def parse_appended(reply: Reply) -> str:
    """The continuation token for the next append. Raises ChannelLostError if the body reports a failure."""
    content = _json_object(reply, "append rows")
    if content.get("status_code", 0) != 0:
        reason = _quoted(content.get("message"))
        raise ChannelLostError(f"append rows: status {content['status_code']} in a 200: {reason}", status=200)
    continuation_token = content.get("next_continuation_token")
    if not isinstance(continuation_token, str):
        raise _not_snowflake("append rows")
    return continuation_token


def parse_channel_status(reply: Reply, channel: str) -> ChannelStatus:
    """The status of one channel. Raises ChannelLostError if the server does not know it."""
    what = "ask for the channel's status"
    statuses = _json_object(reply, what).get("channel_statuses")
    if not isinstance(statuses, dict):
        raise _not_snowflake(what)
    if channel not in statuses:
        raise ChannelLostError(
            f"the server no longer knows the channel {channel}",
            hint="it is reopened; channels unused for 30 days are deleted",
            code="ERR_CHANNEL_DOES_NOT_EXIST_OR_IS_NOT_AUTHORIZED",
        )
    return _status(statuses[channel], what)


def _status(content: object, what: str) -> ChannelStatus:
    if not isinstance(content, dict):
        raise _not_snowflake(what)
    code = content.get("channel_status_code")
    committed = content.get("last_committed_offset_token")
    errors = content.get("rows_error_count", content.get("rows_errors", 0))
    created = content.get("created_on_ms", 0)
    if not isinstance(code, str) or not isinstance(committed, str | None):
        raise _not_snowflake(what)
    if not isinstance(errors, int) or not isinstance(created, int):
        raise _not_snowflake(what)
    return ChannelStatus(
        code=code,
        committed_token=committed,
        created_on_ms=created,
        rows_error_count=errors,
        last_error_upper_bound=_optional_text(content.get("last_error_offset_upper_bound")),
        last_error_message=_optional_text(content.get("last_error_message")),
    )


def refusal(request: Request, reply: Reply) -> SnowpipeError:
    """The error for an answer other than 2xx, sorted by what the caller does next."""
    status = reply.status
    code, message = _error_body(reply)
    text = f"{request.what}: {status} {code}".rstrip() + (f": {message}" if message else "")
    is_append = request.what == "append rows"
    match status:
        case 401 | 403:
            return AuthError(text, status=status, code=code, hint=_AUTH_HINTS[status])
        case 404 if request.plane == "control":
            return TransientError(text, status=status, code=code, hint=_NO_ACCOUNT_HINT)
        case 404:
            return ChannelLostError(text, status=status, code=code, hint=_NOT_FOUND_HINT)
        case 400 if code == _STALE:
            return ChannelLostError(text, status=status, code=code, hint="another writer opened the channel")
        case 409 if is_append or code.startswith("ERR_CHANNEL_MUST_BE_REOPENED"):
            return ChannelLostError(text, status=status, code=code)
        case 413 if is_append:
            return TooLargeError(text, status=status, code=code)
        case 400 if is_append:
            return RowsRefusedError(text, status=status, code=code)
        case _:
            return TransientError(text, status=status, code=code, retry_after=_retry_after(reply))


_AUTH_HINTS = {
    401: "is the key registered for this user, is this machine's clock right? run: badge-agent check",
    403: "the role lacks a privilege: SHOW GRANTS TO ROLE <role>; to see which: badge-agent check",
}
_NO_ACCOUNT_HINT = "is [snowflake] account right? ORGANIZATION-ACCOUNT, as Snowflake's account menu shows it"
_NOT_FOUND_HINT = "does the pipe exist and may the role see it? SHOW PIPES IN SCHEMA <database>.<schema>"


def _error_body(reply: Reply) -> tuple[str, str]:
    """Code and message, in any form observed: two spellings, a number, a plain string, no JSON."""
    try:
        content = json.loads(reply.body)
    except (ValueError, RecursionError):
        return "", ""
    if isinstance(content, str):
        return _quoted(content), ""
    if not isinstance(content, dict):
        return "", ""
    code = content.get("code") or content.get("error_code") or content.get("status_code") or ""
    return _quoted(code), _quoted(content.get("message"))


def _quoted(value: object) -> str:
    """Text from a server, shortened and on one line."""
    if value is None:
        return ""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return text[:_QUOTED_CHARACTERS]


def _retry_after(reply: Reply) -> float | None:
    """Seconds, from the delta form of Retry-After (RFC 9110, 10.2.3); the date form is not trusted."""
    value = reply.headers.get("retry-after", "").strip()
    return float(value) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value) else None


def _text_or_member(reply: Reply, member: str, what: str) -> str:
    try:
        text = reply.body.decode("ascii").strip()
    except UnicodeDecodeError:
        raise _not_snowflake(what) from None
    if text.startswith("{"):
        value = _json_object(reply, what).get(member)
        if not isinstance(value, str):
            raise _not_snowflake(what)
        return value
    return text.strip('"')


def _json_object(reply: Reply, what: str) -> dict[str, Any]:
    try:
        content = json.loads(reply.body)
    except (ValueError, RecursionError):
        raise _not_snowflake(what) from None
    if not isinstance(content, dict):
        raise _not_snowflake(what)
    return content


def _optional_text(value: object) -> str | None:
    return None if value is None else _quoted(value)


def _not_snowflake(what: str) -> OutcomeUnknownError:
    # Captive portals and proxies answer 200 with their own page.
    return OutcomeUnknownError(
        f"{what}: the answer is not Snowflake's",
        hint="is a proxy or a captive portal in between? check [snowflake] url and the network at the door",
    )
