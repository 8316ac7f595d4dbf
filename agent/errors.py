"""The exception tree, sorted by what the caller does next; every error carries a hint."""

from __future__ import annotations

from collections.abc import Sequence


class AgentError(Exception):
    """What happened, to what; `hint` says what to do next, `exit_code` how a command ends on it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


# --- a person has to change something before it can work ------------------------------------


class ConfigError(AgentError):
    """The configuration cannot be used; `problems` names every one of them, with its path."""

    exit_code = 78

    def __init__(self, message: str, *, hint: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)


class KeyFileError(ConfigError):
    """The private key is missing, unreadable, open to others, encrypted otherwise, or no RSA key."""


class NotPermittedError(AgentError):
    """The operating system refused this user what the agent needs."""

    exit_code = 77


# --- the disk: the agent cannot keep its promise and says so --------------------------------


class OutboxError(AgentError):
    """The outbox cannot take or give swipes."""

    exit_code = 74


class OutputFullError(AgentError):
    """No space is left where a command writes what it was asked for."""

    exit_code = 74


class OutboxInUseError(OutboxError):
    """Another agent holds this state directory."""


class OutboxFullError(OutboxError):
    """No space is left on the disk: nothing was stored, try again once some was freed."""


class OutboxCorruptError(OutboxError):
    """The file is damaged: it is quarantined, and what can be read moves to a new one."""


class OutboxReplacedError(OutboxError):
    """The file was damaged and replaced under the caller: every position it holds means nothing now."""


class OutboxVersionError(OutboxError):
    """The outbox file was written by a newer program; it is left untouched."""


# --- the serial line: wait, then open it again ----------------------------------------------


class PortError(AgentError):
    """The serial port cannot be opened, or was lost; open it again later."""


class PortBusyError(PortError):
    """Another process holds the serial port."""


# --- Snowflake: what to do with the request that failed -------------------------------------


class SnowpipeError(AgentError):
    """A request did not succeed; `status` is the HTTP status, `code` Snowflake's own error code."""

    exit_code = 69

    def __init__(self, message: str, *, hint: str = "", status: int | None = None, code: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code


class TransientError(SnowpipeError):
    """Answered, but not now (408, 429, 5xx): send the very same request again after a delay."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        status: int | None = None,
        code: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, status=status, code=code)
        self.retry_after = retry_after


class UnreachableError(TransientError):
    """The request never left (name, route, port, TLS): nothing was sent, nothing is in doubt."""


class OutcomeUnknownError(SnowpipeError):
    """It was sent and no answer came: whether the server acted is unknown, reopen the channel."""


class ChannelLostError(SnowpipeError):
    """The channel's position is no longer ours (stale, missing, invalid): reopen and resume."""


class AuthError(SnowpipeError):
    """401 or 403: hold every row, renew credentials, try again slowly; never the row's fault."""

    exit_code = 77


class RowsRefusedError(SnowpipeError):
    """400 on an append: some row in it is refused; split the batch to find which."""


class TooLargeError(RowsRefusedError):
    """413 on an append: send fewer rows at a time."""


_LONGEST_SHOWN = 60  # of a wrong value, in a problem


def quoted(value: object) -> str:
    """A wrong value as a person wrote it, cut short."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        return type_name(value)
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


def type_name(value: object) -> str:
    """The kind of a TOML value, as the installer would name it."""
    kinds = (
        (str, "text"),
        (bool, "true or false"),
        (int | float, "a number"),
        (dict, "a table"),
        (list, "a list"),
    )
    return next((word for kind, word in kinds if isinstance(value, kind)), "a date or time")
