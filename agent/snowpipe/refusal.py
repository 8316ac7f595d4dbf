"""Answers other than 2xx as errors, sorted by Snowflake's code first and by HTTP status second; pure.

No status means "this row is bad": Snowflake skips and counts rows that do not load. And an answer that is
not Snowflake's JSON comes from a device in between (proxy, load balancer, captive portal): it gives no
information about channel or rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from agent.errors import (
    AuthError,
    ChannelLostError,
    RowsRefusedError,
    SnowpipeError,
    TooLargeError,
    TransientError,
)
from agent.snowpipe import server_text
from agent.snowpipe.wire import APPEND, Reply, Request, read_json

# 409 on an open with fail_on_uncommitted_rows: wait, it may still be committed.
UNCOMMITTED_DATA = "ERR_CHANNEL_HAS_UNCOMMITTED_DATA"

_LOST_PREFIXES = ("ERR_CHANNEL_", "ERR_PIPE_", "ERR_TABLE_", "STALE_")
# These are about the open itself, which is repeated.
_OPEN_AGAIN = frozenset({UNCOMMITTED_DATA, "ERR_CHANNEL_LIMIT_EXCEEDED"})
# No privilege on the pipe, and no such pipe: as Snowpipe's REST API answers, among codes of the sign-in.
_OBJECT_REFUSED = frozenset({"390403", "390404"})
# `status_code` in a body, as other clients observed it.
_STALE_STATUS, _EXPIRED_STATUS = "4", "3"
_LONGEST_RETRY_AFTER_S = 86_400.0
GONE = 410
_UNAUTHORIZED = 401


@dataclass(frozen=True, slots=True)
class _Body:
    """What an error body contains; `is_snowflake` is False for HTML, an empty body, other JSON."""

    is_snowflake: bool = False
    code: str = ""
    login_failure_id: str | None = None


def refusal(request: Request, reply: Reply, via: str = "") -> SnowpipeError:
    """The error for an answer other than 2xx; `via` names the proxy."""
    body = _body_of(reply)
    text = f"{request.what}{via}: {reply.status} {body.code}".rstrip()
    if not body.is_snowflake and reply.body:
        text += " and an answer that is not Snowflake's"
    return _kind(request, reply.status, body, has_body=bool(reply.body))(
        text,
        hint=_hint(request, reply, body),
        status=reply.status,
        code=body.code,
        from_snowflake=body.is_snowflake,
        is_of_account=_is_of_account(request, reply.status, body),
        retry_after=_retry_after(reply),
    )


def _kind(request: Request, status: int, body: _Body, *, has_body: bool) -> type[SnowpipeError]:
    is_append, is_ingest = request.what == APPEND, request.plane == "ingest"
    # 410: the pipe failed over, host, token and channel are new.
    if status == GONE or (is_ingest and _is_channel_lost(body.code)):
        return ChannelLostError
    if _is_about_credentials(status, body.code):
        return AuthError
    match status:
        case 403 if not body.is_snowflake:
            return TransientError if has_body else AuthError
        case 401 | 403:
            return AuthError
        case 413 if is_append:
            return TooLargeError
        case _ if not body.is_snowflake:
            return TransientError
    return _kind_by_status(status, is_append=is_append, is_ingest=is_ingest)


def _kind_by_status(status: int, *, is_append: bool, is_ingest: bool) -> type[SnowpipeError]:
    """Snowflake's own answer, with a code of no known meaning."""
    match status:
        case 404 if is_ingest:
            return ChannelLostError
        case 409 if is_append:
            return ChannelLostError
        case 400 | 422 if is_append:
            return RowsRefusedError
        case _:
            return TransientError


def _is_channel_lost(code: str) -> bool:
    if code in _OPEN_AGAIN:
        return False
    return (
        code.startswith(_LOST_PREFIXES)
        or code.endswith("_SEQUENCER")
        or "CONTINUATION_TOKEN" in code
        or code == _STALE_STATUS
    )


def _is_of_account(request: Request, status: int, body: _Body) -> bool:
    is_sign_in = status == _UNAUTHORIZED or _is_about_credentials(status, body.code)
    is_of_object = body.code in _OBJECT_REFUSED or _is_channel_lost(body.code)
    return request.plane == "control" or (is_sign_in and not is_of_object)


def _is_about_credentials(status: int, code: str) -> bool:
    # 3901xx to 3904xx: sign-in and tokens; 3943xx: key-pair tokens; 395xxx: OAuth.
    is_code = re.fullmatch(r"390[1-4]\d\d|3943\d\d|395\d{3}", code) is not None
    return status in {400, 401, 403} and (is_code or code == _EXPIRED_STATUS)


# --- hints ----------------------------------------------------------------------------------

_ASK_ACCOUNT = "SELECT CURRENT_ORGANIZATION_NAME() || '-' || CURRENT_ACCOUNT_NAME();"
_LOGIN_HISTORY = (
    "the reason, in Snowflake as ACCOUNTADMIN: SELECT event_timestamp, error_code, error_message "
    "FROM TABLE(SNOWFLAKE.INFORMATION_SCHEMA.LOGIN_HISTORY_BY_USER('<user>', RESULT_LIMIT => 5));"
)
_GRANTS = "SHOW GRANTS TO ROLE <role>; SHOW GRANTS TO USER <user>; to see which: badge-agent check"

_BY_CODE: Mapping[str, str] = MappingProxyType(
    {
        "390101": "the user is disabled or locked: DESC USER <user>; ALTER USER <user> SET DISABLED = FALSE;",
        "390144": "the key-pair token is refused: is the key registered for this user (DESC USER <user>), is "
        "this machine's clock right (timedatectl)? run: badge-agent check",
        "390186": "the role is not granted to the user or is excluded from tokens: GRANT ROLE <role> TO USER "
        "<user>; check [snowflake] role",
        "390422": "a network policy does not allow this door's public address: SHOW PARAMETERS LIKE "
        "'NETWORK_POLICY' IN USER <user>; the address: curl -4 https://ifconfig.me",
        "390701": "the rate limit of the channel or the account is reached; the agent slows down by itself",
        "390913": f"Snowflake does not let this account or user sign in, whatever its key; {_LOGIN_HISTORY}",
        "394300": "no user has this name: [snowflake] user must be LOGIN_NAME of DESC USER <user>, not NAME",
        "394302": "the token was received more than 60 s after its issue time: set this machine's clock: "
        "sudo timedatectl set-ntp true; timedatectl",
        "394307": f"the key-pair token names another account: {_ASK_ACCOUNT} must be [snowflake] account",
        "395092": "the scoped token is refused for this host or role: check [snowflake] role; "
        f"{_LOGIN_HISTORY}",
        "ERR_PIPE_IN_INVALID_STATE": "the pipe is invalid: DESC PIPE <pipe>; "
        "SELECT SYSTEM$PIPE_STATUS('<pipe>');",
        "ERR_CHANNEL_LIMIT_EXCEEDED": "the pipe has no room for another channel (2,000): "
        "SHOW CHANNELS IN PIPE <pipe>; unused ones are deleted after 30 days",
        "STALE_CONTINUATION_TOKEN_SEQUENCER": "another writer opened the channel; it is reopened",
    }
)
CODES_WITH_HINT = frozenset(_BY_CODE)
_BY_STATUS: Mapping[int, str] = MappingProxyType(
    {
        401: "is the key registered for this user, is this machine's clock right? run: badge-agent check",
        403: f"the role lacks a privilege: {_GRANTS}",
    }
)
_BARE_403 = (
    "a 403 without a reason: a network policy, a firewall or a proxy refuses this door's address; "
    "compare with another network, then: badge-agent check"
)
_NO_ACCOUNT = "is [snowflake] account right? ORGANIZATION-ACCOUNT, as Snowflake's account menu shows it"
_NO_ROUTE = "no route to the pipe yet, as in the first 30 s after an open, or a wrong account; it is retried"
_NOT_FOUND = "does the pipe exist and may the role see it? SHOW PIPES IN SCHEMA <database>.<schema>"
_REDIRECT = (
    "a redirect is not followed, so that no token goes to another host: is [snowflake] url the account's own "
    "address, is this a captive portal? curl -v <url>"
)
_PORTAL = (
    "a proxy, a captive portal or a load balancer answered: look at its page with curl -v <url>; "
    "with a proxy set [snowflake] proxy, then: badge-agent check"
)
_MOVED = "the pipe moved to another host; it is asked for and the channel is reopened"


def _hint(request: Request, reply: Reply, body: _Body) -> str:
    status = reply.status
    hint = _BY_CODE.get(body.code, "")
    if not hint:
        hint = _hint_by_status(request, status, body, has_body=bool(reply.body))
    if body.login_failure_id:
        hint += f"; details: SELECT SYSTEM$GET_LOGIN_FAILURE_DETAILS('{body.login_failure_id}');"
    return hint


def _hint_by_status(request: Request, status: int, body: _Body, *, has_body: bool) -> str:
    match status:
        case 410:
            return _MOVED
        case _ if 300 <= status < 400:  # noqa: PLR2004 - the class of redirects, RFC 9110 15.4
            return _REDIRECT
        case 403 if not body.is_snowflake and not has_body:
            return _BARE_403
        case 404 if request.plane == "control":
            return _NO_ACCOUNT
        case 404 if not has_body:
            return _NO_ROUTE
        case _ if not body.is_snowflake and has_body:
            return _PORTAL
        case 404:
            return _NOT_FOUND
        case _:
            return _BY_STATUS.get(status, "")


def _body_of(reply: Reply) -> _Body:
    """The code in any form observed: two spellings, a number, a plain string."""
    content = read_json(reply.body)
    if isinstance(content, str):
        code = server_text.code(content)
        return _Body(bool(code), code)
    if not isinstance(content, dict) or not content.keys() & {"code", "error_code", "status_code", "message"}:
        return _Body()
    names = ("code", "error_code", "status_code")
    code = next((found for name in names if (found := server_text.code(content.get(name)))), "")
    return _Body(True, code, server_text.login_failure_id(content.get("message")))


def _retry_after(reply: Reply) -> float | None:
    """Seconds, from the delta form of Retry-After (RFC 9110, 10.2.3); the date form is not trusted."""
    value = reply.headers.get("retry-after", "").strip()
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value, re.ASCII):
        return None
    return min(float(value), _LONGEST_RETRY_AFTER_S)
