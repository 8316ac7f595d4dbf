"""The emulator's answers as values, and the exception for a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import orjson

SUCCESS = "SUCCESS"
MALFORMED = "ERR_MALFORMED_REQUEST"


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer: status, body, media type, further headers."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """Bytes as they are, with a pause between the pieces; then the connection is closed."""

    status: int
    pieces: tuple[bytes, ...]
    pause_s: float = 0.0


BodyKind = Literal["json", "html", "empty"]

_HTML = b"<html><head><title>Blocked</title></head><body><h1>Access denied</h1></body></html>"


class RefusalError(Exception):
    """The request is refused: HTTP status, Snowflake's code and a message without user data.

    With `body` "html" or "empty" the answer is that of a device in between, or of a load balancer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after: float | None = None,
        body: BodyKind = "json",
    ) -> None:
        super().__init__(message)
        self.body = body
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after

    def answer(self) -> Answer:
        """The error body, under both keys that clients are known to read the code from."""
        body = {"code": self.code, "error_code": self.code, "message": self.message}
        headers = {} if self.retry_after is None else {"Retry-After": f"{self.retry_after:g}"}
        if self.body != "json":
            return Answer(self.status, _HTML if self.body == "html" else b"", "text/html", headers)
        return Answer(self.status, orjson.dumps(body), headers=headers)


def malformed(message: str) -> RefusalError:
    """A malformed request: 400."""
    return RefusalError(400, MALFORMED, message)


def unknown_pipe() -> RefusalError:
    """A database, schema, pipe or table that does not exist: the service does not report which."""
    return RefusalError(
        404, "ERR_PIPE_DOES_NOT_EXIST_OR_NOT_AUTHORIZED", "The pipe does not exist or is not authorized."
    )


def unknown_channel() -> RefusalError:
    """A channel that was never opened, was dropped, or was deleted after 30 idle days."""
    return RefusalError(
        404, "ERR_CHANNEL_DOES_NOT_EXIST_OR_IS_NOT_AUTHORIZED", "The channel does not exist; open it first."
    )


def json_answer(body: object, headers: Mapping[str, str] | None = None) -> Answer:
    """200 with a JSON body."""
    return Answer(200, orjson.dumps(body), headers=headers or {})


def text_answer(text: str) -> Answer:
    """200 with a bare text body, as the service answers hostname and token."""
    return Answer(200, text.encode(), content_type="text/plain")
