"""The exception tree, sorted by what the caller does next; every error carries a hint."""

from __future__ import annotations

from collections.abc import Sequence


class AgentError(Exception):
    """The message names operation and object; `hint` is the next step, `exit_code` a command's."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


# --- the operator has to change something ---------------------------------------------------


class ConfigError(AgentError):
    """The configuration is invalid; `problems` lists every problem with its path."""

    exit_code = 78

    def __init__(self, message: str, *, hint: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)


class KeyFileError(ConfigError):
    """The private key is missing, unreadable, accessible to others, or of a type that cannot be used."""


class KeyNotStoredError(KeyFileError):
    """A key without which no swipe can be stored is not there, or was not decrypted: start again later."""

    exit_code = 75


class NotPermittedError(AgentError):
    """The operating system denied this user an operation that the agent needs."""

    exit_code = 77


# --- the disk -------------------------------------------------------------------------------


class OutboxError(AgentError):
    """The outbox cannot be read or written."""

    exit_code = 74


class OutputFullError(AgentError):
    """No space is left for the output of a command."""

    exit_code = 74


class OutboxInUseError(OutboxError):
    """Another agent holds this state directory."""


class OutboxUnavailableError(OutboxError):
    """The outbox cannot be written now: nothing was stored; keep what was to be stored, and retry."""


class OutboxFullError(OutboxUnavailableError):
    """No space is left on the disk."""


class OutboxBusyError(OutboxUnavailableError):
    """Another program holds the file open for writing, or has the outbox open for sending."""


class OutboxReadOnlyError(OutboxUnavailableError):
    """The file system takes no changes, or the file cannot be opened."""


class OutboxFailingError(OutboxUnavailableError):
    """The disk reported an error on a write or a flush, or reads nothing."""


class OutboxCorruptError(OutboxError):
    """The file is damaged: it is quarantined, and what can be read moves to a new one."""


class OutboxReplacedError(OutboxError):
    """The file was damaged and replaced: every position that the caller holds is invalid."""


class OutboxVersionError(OutboxError):
    """The outbox file was written by a newer program; it is left untouched."""


# --- the serial line: wait, then open it again ----------------------------------------------


class PortError(AgentError):
    """The serial port cannot be opened, or was lost; open it again later."""


class LineSettingsError(PortError):
    """The port's driver does not support the line settings."""


class PortBusyError(PortError):
    """Another process holds the serial port."""


# --- Snowflake: what to do with the request that failed -------------------------------------


class SnowpipeError(AgentError):
    """A request failed; the attributes are the facts from which the caller decides what to do next.

    `status` is the HTTP status and `code` Snowflake's error code; None and "" without an answer.
    `from_snowflake` is True if the answer was Snowflake's JSON, False if it came from a device in between
    (an HTML page, an empty body) or if there was none. `is_of_account` is True for a refusal that every
    channel of the account meets: by the account's host, or of the credentials. `retry_after` is Retry-After
    in seconds, at most a day. `sent_bytes` is how much of the body the peer had acknowledged when the
    connection broke or the deadline passed, out of `body_bytes`; both None if an answer came or nothing was
    sent.
    """

    exit_code = 69

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        status: int | None = None,
        code: str = "",
        from_snowflake: bool = False,
        is_of_account: bool = False,
        retry_after: float | None = None,
        sent_bytes: int | None = None,
        body_bytes: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code
        self.from_snowflake = from_snowflake
        self.is_of_account = is_of_account
        self.retry_after = retry_after
        self.sent_bytes = sent_bytes
        self.body_bytes = body_bytes


class TransientError(SnowpipeError):
    """A temporary failure (408, 429, 5xx, an answer of a middlebox): retry the same request after a delay."""


class UnreachableError(TransientError):
    """The request was not sent (name, route, port, proxy, TLS): its outcome is known."""


class OutcomeUnknownError(SnowpipeError):
    """The request was sent and no usable answer came: its outcome is unknown, reopen the channel."""


class ChannelLostError(SnowpipeError):
    """The channel is no longer valid (stale, missing, invalid, moved to another host): reopen and resume."""


class AuthError(SnowpipeError):
    """401 or 403: keep every row, renew credentials, retry slowly; the rows are not the cause."""

    exit_code = 77


class RowsRefusedError(SnowpipeError):
    """400 or 422 from Snowflake on an append, with a code of no other meaning."""


class TooLargeError(RowsRefusedError):
    """413 on an append, by Snowflake or by a device in between: send fewer rows at a time."""


_LONGEST_SHOWN = 60  # characters of an invalid value in a message


def printable(text: str) -> str:
    """The text with a question mark for each control character, which a terminal would obey."""
    return text if text.isprintable() else "".join(one if one.isprintable() else "?" for one in text)


def quoted(value: object) -> str:
    """An invalid value as text for a message, truncated."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        return type_name(value)
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


def type_name(value: object) -> str:
    """The type of a TOML value in plain words."""
    kinds = (
        (str, "text"),
        (bool, "true or false"),
        (int | float, "a number"),
        (dict, "a table"),
        (list, "a list"),
    )
    return next((word for kind, word in kinds if isinstance(value, kind)), "a date or time")
