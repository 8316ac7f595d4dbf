"""What is worth an alarm, each with a fixed MESSAGE_ID, and the fields that a line takes into the journal."""

from __future__ import annotations

from enum import StrEnum
from logging import LogRecord
from types import MappingProxyType
from typing import Any

from agent.errors import AgentError, SnowpipeError


class MessageId(StrEnum):
    """The MESSAGE_IDs, which never change: `journalctl MESSAGE_ID=...` finds an event in every version.

    README.md tells what to do about each.
    """

    READY = "a8a113d6750341a0a72d191e61a03954"  # started: readers are read, swipes are kept
    STOPPED = "0a0d6ceb2d1146aaa785e0b2d92fccbd"  # told to stop, and did
    GAVE_UP = "d154d532e5904be59e67aae5dcd793e0"  # ends with an exit code that is not 0
    THREAD_DIED = "8c71c75dc74d432eb990ba32bdfb83e9"  # a bug; that thread is started again
    THREAD_HUNG = "9fabbd44586c42b6bd22966047607ecc"  # the watchdog is no longer fed: the agent is restarted

    READER_LOST = "752d39d72a9943c4987639087cf311bf"  # its port cannot be opened, or went away
    READER_BACK = "aca536b50a454979a6783d1a3d7c0f9c"
    READER_SILENT = "97eac099c2e2443d8e08c3265a369193"  # nothing came for longer than was configured
    READER_HEARD = "651b4077d96a40df93c2644902b56510"
    READER_NOISY = "100be967730a456e93c313c2704ecf59"  # much of what comes is no card
    READER_QUIET = "8c92f3400130424e9fdb3058ba1f40b4"
    READER_FAULT = "97e32fe8af634a15a6173258cf3cdce4"  # it says so itself, or is wired or configured wrongly
    CARDHOLDERS_UNREADABLE = "b55e74ee6e054de88e895689641c81da"  # the holders known before stay in use

    SNOWFLAKE_UNREACHABLE = "66a45e5639e24f26809f31e51488e2a5"  # not reached, or it cannot take rows now
    SNOWFLAKE_RECOVERED = "50c550073c6f4bca8f0ecad9c479e1b9"
    CREDENTIALS_REFUSED = "d6785985ffa041178803640965adbf29"  # 401 or 403: everything is held
    ROWS_REFUSED = "4bbf71064be24768a808bf006042223c"  # row after row: it is the pipe's fault
    ROWS_REJECTED = "cfd29b1158d54b75abcca3c21bc864ec"  # Snowflake could not load some rows
    ROW_SET_ASIDE = "2f3b018f7f954161934a8c26aa6e0b4a"  # one row is refused on its own

    DISK_FULL = "0b083f795ad944c898273ced8068fd9d"  # swipes wait in memory
    DISK_HAS_ROOM = "a14171f0ac4e4b15baf67835f3103c77"
    RESERVE_FREED = "24e64ec9891e405fb090d198ce9ee181"  # the disk was full; the space put by was used
    SWIPES_LOST = "96b2acddcb1e4b42aee8f354309b117c"  # a full disk, and no room in memory either
    OUTBOX_SALVAGED = "aa6c2f9671d149709d33396c706e88ee"  # the file was damaged; what can be read was moved
    OUTBOX_RENEWED = "a814ce5ec4394f658023a45900e17895"  # restored or copied: it goes on under a new id


# Nothing of this gets well by itself.
NEEDS_OPERATOR = frozenset({MessageId.CREDENTIALS_REFUSED, MessageId.ROWS_REFUSED, MessageId.SWIPES_LOST})

_ATTRIBUTE = "journal_fields"
_NONE = MappingProxyType[str, str]({})


def fields(
    event: MessageId | None = None,
    *,
    reader: str | None = None,
    seq: int | None = None,
    channel: str | None = None,
    error: AgentError | None = None,
) -> dict[str, Any]:
    """What a log call passes as `extra`, so that its line can be found by more than its words.

    Nothing else gets into the journal beside the line: no argument of it and no exception, which may
    hold more than the line says.
    """
    told = {
        "MESSAGE_ID": event,
        "READER": reader,
        "SEQ": seq,
        "CHANNEL": channel,
        "ERROR_CODE": error_code(error) if error is not None else None,
    }
    return {_ATTRIBUTE: {name: str(value) for name, value in told.items() if value is not None}}


def error_code(error: AgentError) -> str:
    """Snowflake's own code where there is one, else the HTTP status, else the kind of error."""
    if isinstance(error, SnowpipeError):
        return error.code or (str(error.status) if error.status is not None else type(error).__name__)
    return type(error).__name__


def fields_of(record: LogRecord) -> MappingProxyType[str, str]:
    """The fields that a log call passed."""
    return MappingProxyType(getattr(record, _ATTRIBUTE, _NONE))
