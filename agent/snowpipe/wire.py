"""Requests and replies of the Snowpipe Streaming REST API (high-performance, named channels), pure."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard
from urllib.parse import quote, urlencode

import zstandard

from agent.errors import ChannelLostError, OutcomeUnknownError
from agent.snowpipe import server_text

APPEND = "append rows"
# Both are part of signing in.
_HOSTNAME, _SCOPED_TOKEN = "ask for the ingest host", "fetch a scoped token"
# Healthy states of a channel: the error-handling page says SUCCESS, the REST page's example ACTIVE.
_HEALTHY = frozenset({"SUCCESS", "ACTIVE"})
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}(?::|$)){_LABEL}(?:\.{_LABEL})*(?::[0-9]{{1,5}})?", re.ASCII)
_HIGHEST_PORT = 65_535
# Without quotes a name is a letter or an underscore, then letters, digits, underscores and dollar signs
# ("Identifier requirements"); its case does not count.
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*", re.ASCII)
# Level 3 is the library's default: rows shrink about sixfold, at a fraction of the cost of sending them.
_LEVEL = 3
_GZIP_LEVEL = 6
_LARGEST_COUNT = 2**63 - 1
_LONGEST_CONTINUATION_TOKEN = 4_096
# It is sent as a header, whose line servers limit to 8 kB or more.
_LONGEST_SCOPED_TOKEN = 8_000

Encoding = Literal["zstd", "gzip"]


@dataclass(frozen=True, slots=True)
class PipeName:
    """A pipe: database, schema, name; each as Snowflake stores it."""

    database: str
    schema: str
    pipe: str

    @property
    def path(self) -> str:
        """The pipe's part of every URL path, percent-encoded; in quotes where SQL would need them."""
        names = (self.database, self.schema, self.pipe)
        database, schema, pipe = (quote(_quoted_name(name), safe="") for name in names)
        return f"/databases/{database}/schemas/{schema}/pipes/{pipe}"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, without host and credentials; `what` names it in messages."""

    what: str
    plane: Literal["control", "ingest"]
    method: Literal["GET", "POST", "PUT", "DELETE"]
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
    """A channel status from the server, free of its words. Counters run since the channel was created.

    A counter or bound that is missing or malformed is None: unknown, not zero.
    """

    code: str
    committed_token: str | None  # None: nothing is committed
    created_on_ms: int | None
    rows_error_count: int | None
    last_error_upper_bound: str | None
    last_error_message: str | None  # its known words only, see server_text.load_error()
    name: str = ""  # of the channel, in the spelling of the server; "" if it is missing

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
    return Request(_HOSTNAME, "control", "GET", "/v2/streaming/hostname")


def scoped_token(ingest_host: str, role: str | None) -> Request:
    """Exchange the key-pair JWT for a token that the ingest host accepts."""
    scope = f"{ingest_host} session:role:{_stored_name(role)}" if role else ingest_host
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "scope": scope}
    return Request(
        _SCOPED_TOKEN,
        "control",
        "POST",
        "/oauth/token",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        body=urlencode(form).encode(),
    )


def open_channel(
    pipe: PipeName, channel: str, offset_token: str | None, *, fail_on_uncommitted_rows: bool = False
) -> Request:
    """Open or reopen; `offset_token` sets the channel's position.

    Uncommitted rows are discarded, or with `fail_on_uncommitted_rows` refused with UNCOMMITTED_DATA.
    """
    content: dict[str, object] = {} if offset_token is None else {"offset_token": offset_token}
    if fail_on_uncommitted_rows:
        content["fail_on_uncommitted_rows"] = True
    return Request(
        "open the channel",
        "ingest",
        "PUT",
        f"/v2/streaming{pipe.path}/channels/{quote(channel, safe='')}",
        headers={"Content-Type": "application/json"},
        body=json.dumps(content).encode(),
    )


def drop_channel(pipe: PipeName, channel: str) -> Request:
    """Delete a channel with its offset token."""
    path = f"/v2/streaming{pipe.path}/channels/{quote(channel, safe='')}"
    return Request("drop the channel", "ingest", "DELETE", path)


def append(
    pipe: PipeName,
    channel: str,
    body: CompressedRows,
    tokens: tuple[str, str],
    continuation_token: str,
    *,
    session: str = "",
) -> Request:
    """Append rows; `tokens` are the offset tokens of the first and the last of them.

    `session` is what session_of() found in the answer to the append before.
    """
    return Request(
        APPEND,
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
            "Content-Encoding": body.encoding,
            "X-Snowflake-Uncompressed-Content-Length": str(body.plain_bytes),
            **({"X-Snowflake-Session": session} if session else {}),
        },
        body=body.data,
    )


def channel_status(pipe: PipeName, *channels: str) -> Request:
    """Request the committed token and error count of channels; unknown ones are not in the answer."""
    return Request(
        "ask for the channel's status",
        "ingest",
        "POST",
        f"/v2/streaming{pipe.path}:bulk-channel-status",
        headers={"Content-Type": "application/json"},
        body=json.dumps({"channel_names": channels}).encode(),
    )


@dataclass(frozen=True, slots=True)
class CompressedRows:
    """Compressed NDJSON; `plain_bytes` is its uncompressed size."""

    data: bytes = field(repr=False)
    plain_bytes: int
    encoding: Encoding = "zstd"


def compress(rows: list[bytes], encoding: Encoding = "zstd") -> CompressedRows:
    """Join rows to NDJSON, one per line, and compress it."""
    return _compressed(b"\n".join(rows) + b"\n", encoding)


def recompressed(body: CompressedRows, encoding: Encoding) -> CompressedRows:
    """The same rows in another compression."""
    if body.encoding == encoding:
        return body
    if body.encoding == "gzip":
        plain = gzip.decompress(body.data)
    else:
        plain = zstandard.ZstdDecompressor().decompress(body.data, max_output_size=body.plain_bytes)
    return _compressed(plain, encoding)


def _compressed(plain: bytes, encoding: Encoding) -> CompressedRows:
    if encoding == "gzip":
        # Without a time, so that the same rows are the same bytes.
        return CompressedRows(gzip.compress(plain, _GZIP_LEVEL, mtime=0), len(plain), encoding)
    return CompressedRows(zstandard.ZstdCompressor(level=_LEVEL).compress(plain), len(plain), encoding)


def _quoted_name(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def _stored_name(name: str) -> str:
    """A name as Snowflake stores it: in upper case unless it needs quotes."""
    return name.upper() if _PLAIN_NAME.fullmatch(name) else name


# --- replies --------------------------------------------------------------------------------


def parse_hostname(reply: Reply) -> str:
    """The ingest host, `host` or `host:port`; underscores become hyphens, as in the certificates.

    Its case is kept: the scope of a token is compared with it. The service returns plain text, its
    documentation shows a JSON object: both are accepted.
    """
    text = _text_or_member(reply, "hostname", _HOSTNAME)
    name, _, port = text.partition(":")
    is_whole = "." in name or name == "localhost"  # a word such as `null` is another answer
    if not _HOST.fullmatch(text) or not is_whole or (port and not 0 < int(port) <= _HIGHEST_PORT):
        raise _not_snowflake(_HOSTNAME)
    return text.replace("_", "-")


def parse_scoped_token(reply: Reply) -> str:
    """The token: plain text in practice, a JSON object in the documentation."""
    text = _text_or_member(reply, "token", _SCOPED_TOKEN)
    is_short = 0 < len(text) <= _LONGEST_SCOPED_TOKEN
    if not is_short or not text.isascii() or not text.isprintable() or " " in text:
        raise _not_snowflake(_SCOPED_TOKEN)
    return text


def parse_opened(reply: Reply) -> Opened:
    """The answer to an open."""
    what = "open the channel"
    content = _json_object(reply, what)
    continuation_token = content.get("next_continuation_token")
    if not _is_continuation_token(continuation_token):
        raise _not_snowflake(what)
    return Opened(continuation_token, _status(content.get("channel_status"), what))


def parse_appended(reply: Reply) -> str:
    """The continuation token for the next append. Raises ChannelLostError if the body reports a failure."""
    content = _json_object(reply, APPEND)
    if content.get("status_code") not in (0, None):
        code = server_text.code(content["status_code"])
        raise ChannelLostError(
            f"{APPEND}: status {code or 'unreadable'} in a 200", status=200, code=code, from_snowflake=True
        )
    continuation_token = content.get("next_continuation_token")
    if not _is_continuation_token(continuation_token):
        raise _not_snowflake(APPEND)
    return continuation_token


def session_of(reply: Reply) -> str:
    """The session of the server that took the rows; "" if it names none."""
    return server_text.offset_token(reply.headers.get("x-snowflake-session")) or ""


def parse_channel_status(reply: Reply, channel: str) -> ChannelStatus:
    """The status of one channel. Raises ChannelLostError if the server does not know it."""
    what = "ask for the channel's status"
    statuses = _json_object(reply, what).get("channel_statuses")
    if not isinstance(statuses, dict):
        raise _not_snowflake(what)
    # Names in a status keep their case, names in a URI have none.
    named = next((name for name in statuses if name.lower() == channel.lower()), None)
    if named is None:
        raise ChannelLostError(
            f"the server no longer knows the channel {channel}",
            hint="it is reopened; channels unused for 30 days are deleted",
            code="ERR_CHANNEL_DOES_NOT_EXIST_OR_IS_NOT_AUTHORIZED",
            from_snowflake=True,
        )
    return _status(statuses[channel if channel in statuses else named], what)


def _status(content: object, what: str) -> ChannelStatus:
    """State and committed token have to be there; bookkeeping that is missing or malformed is ignored."""
    if not isinstance(content, dict):
        raise _not_snowflake(what)
    state, committed = content.get("channel_status_code"), content.get("last_committed_offset_token")
    token = server_text.offset_token(committed)
    if not isinstance(state, str) or (token is None and committed not in (None, "")):
        raise _not_snowflake(what)
    errors = _count(content.get("rows_error_count"))
    return ChannelStatus(
        code=server_text.code(state),
        committed_token=token,
        created_on_ms=_count(content.get("created_on_ms")),
        rows_error_count=_count(content.get("rows_errors")) if errors is None else errors,
        last_error_upper_bound=server_text.own_offset_token(content.get("last_error_offset_upper_bound")),
        last_error_message=server_text.load_error(content.get("last_error_message")),
        name=server_text.offset_token(content.get("channel_name")) or "",
    )


def _count(value: object) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_COUNT
    return value if is_count and isinstance(value, int) else None


def _is_continuation_token(value: object) -> TypeGuard[str]:
    """It is sent back in a query: any text that UTF-8 can encode, of a bounded length."""
    if not isinstance(value, str) or len(value) > _LONGEST_CONTINUATION_TOKEN:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


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
    content = read_json(reply.body)
    if not isinstance(content, dict):
        raise _not_snowflake(what)
    return content


def read_json(body: bytes) -> object:
    """A JSON value; None if the body is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _not_snowflake(what: str, status: int = 200) -> OutcomeUnknownError:
    # Captive portals and proxies answer 200 with their own page.
    return OutcomeUnknownError(
        f"{what}: the answer is not Snowflake's",
        hint="is a proxy or a captive portal in between? check [snowflake] url and proxy; badge-agent check",
        status=status,
        is_of_account=what in {_HOSTNAME, _SCOPED_TOKEN},
    )
