"""The MESSAGE_IDs of log events, and the fields of a log line in the journal."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from logging import LogRecord
from types import MappingProxyType
from typing import Any

from agent.errors import AgentError, SnowpipeError


class MessageId(StrEnum):
    """MESSAGE_IDs, the same in every version, for `journalctl MESSAGE_ID=...`.

    README.md documents what to do about each.
    """

    READY = "a8a113d6750341a0a72d191e61a03954"  # started: readers are read, swipes are stored
    STOPPED = "0a0d6ceb2d1146aaa785e0b2d92fccbd"  # stopped on request
    GAVE_UP = "d154d532e5904be59e67aae5dcd793e0"  # ended with a nonzero exit code
    THREAD_DIED = "8c71c75dc74d432eb990ba32bdfb83e9"  # a bug; the thread is restarted
    THREAD_HUNG = (
        "9fabbd44586c42b6bd22966047607ecc"  # watchdog notifications are withheld until the agent is restarted
    )

    READER_LOST = "752d39d72a9943c4987639087cf311bf"  # its port cannot be opened, or was unplugged
    READER_BACK = "aca536b50a454979a6783d1a3d7c0f9c"
    READER_SILENT = "97eac099c2e2443d8e08c3265a369193"  # no data for longer than `expect_traffic_within`
    READER_HEARD = "651b4077d96a40df93c2644902b56510"
    READER_NOISY = "100be967730a456e93c313c2704ecf59"  # much of the received data is no card
    READER_QUIET = "8c92f3400130424e9fdb3058ba1f40b4"
    READER_FLOODING = "5b7384d3248f4ee987345868c89d5f4b"  # more than 20 swipes a second for 10 seconds
    READER_FLOOD_ENDED = "22ad65e6181e43f696f3735bb8a766d4"
    READER_FAULT = (
        "97e32fe8af634a15a6173258cf3cdce4"  # reported by the reader, or wrong wiring or configuration
    )
    READER_OFFLINE = (
        "0f59d8c3fc904581a14f503b92c9e357"  # a two-way reader does not answer, or its head is missing
    )
    READER_ONLINE = "cb6573d22c8e4759ab6d25f902757b33"
    READER_KEY_REFUSED = "384d44cdc16040feb92cb3e1cb3c33cb"  # no encrypted session: another key, or none
    READER_SECURED = "d3e625e0c5c14e3c8d4eb7572eb16321"
    READER_TAMPERED = "cee2deeeb3824826a0f9796260a29cc3"  # opened, or taken off its wall
    READER_TAMPER_ENDED = "b09ac82123574172846fb6ce4eb2c8f5"
    READER_POWER_FAILED = "2887b8cea66447ce82bc748109ea299c"
    READER_POWER_RESTORED = "152d8ea60a1a45b7bbf63d7effbc5e37"
    PORT_SHARED = "4b5e6fcede3946a79ba27beb57b8b9b6"  # another program or adapter uses its port or name
    PORT_ALONE = "c4c2f43c5489407d98c847e505d2c738"
    CARDHOLDERS_UNREADABLE = "b55e74ee6e054de88e895689641c81da"  # the last good file stays in use

    SNOWFLAKE_UNREACHABLE = (
        "66a45e5639e24f26809f31e51488e2a5"  # unreachable, or temporarily unable to accept rows
    )
    SNOWFLAKE_RECOVERED = "50c550073c6f4bca8f0ecad9c479e1b9"
    CREDENTIALS_REFUSED = (
        "d6785985ffa041178803640965adbf29"  # 401 or 403: delivery is paused, all rows are kept
    )
    KEY_NOT_RELOADED = "c11d563a44064aeb8b93a9a726922a34"  # no usable key at a reload: the present one stays
    KEY_RELOADED = "d8a5a4483c384a00adfff1e934eb4b00"
    DOOR_EVENTS_HELD = "038e863d5f39480bba26509a973de4b3"  # their pipe takes none; swipes are delivered
    DOOR_EVENTS_SENT = "cdd3f3c6538746ad8b014f6cd3462d33"
    ROWS_REFUSED = "4bbf71064be24768a808bf006042223c"  # row after row: the cause is the table or pipe
    ROWS_REJECTED = "cfd29b1158d54b75abcca3c21bc864ec"  # Snowflake could not load some rows
    POSITION_WENT_BACK = "003c051601e74ada9ec2003ae997cd4f"  # Snowflake lost rows that it had confirmed
    ROW_SET_ASIDE = "2f3b018f7f954161934a8c26aa6e0b4a"  # one row is refused

    DISK_FULL = "0b083f795ad944c898273ced8068fd9d"  # the outbox cannot be written: new swipes wait in memory
    DISK_HAS_ROOM = "a14171f0ac4e4b15baf67835f3103c77"
    RESERVE_FREED = "24e64ec9891e405fb090d198ce9ee181"  # the disk was full; the reserved space was freed
    SWIPES_LOST = "96b2acddcb1e4b42aee8f354309b117c"  # no room in memory, a flood on a short disk, or a stop
    OUTBOX_SALVAGED = (
        "aa6c2f9671d149709d33396c706e88ee"  # the file was damaged; the readable rows were moved to a new one
    )
    OUTBOX_RENEWED = "a814ce5ec4394f658023a45900e17895"  # restored or copied: continued under a new outbox id
    STATE_NOT_DURABLE = (
        "9196af6860104dcb9ddc9f2bd5d0ee15"  # the state directory is in memory or on the network
    )


# Events that do not resolve without an operator.
NEEDS_OPERATOR = frozenset(
    {
        MessageId.CREDENTIALS_REFUSED,
        MessageId.ROWS_REFUSED,
        MessageId.SWIPES_LOST,
        MessageId.STATE_NOT_DURABLE,
    }
)

# Which event ends an alarm; the others have no end that is logged.
ENDS: Mapping[str, MessageId] = MappingProxyType(
    {
        MessageId.READER_LOST: MessageId.READER_BACK,
        MessageId.READER_SILENT: MessageId.READER_HEARD,
        MessageId.READER_NOISY: MessageId.READER_QUIET,
        MessageId.READER_FLOODING: MessageId.READER_FLOOD_ENDED,
        MessageId.PORT_SHARED: MessageId.PORT_ALONE,
        MessageId.SNOWFLAKE_UNREACHABLE: MessageId.SNOWFLAKE_RECOVERED,
        MessageId.CREDENTIALS_REFUSED: MessageId.SNOWFLAKE_RECOVERED,
        MessageId.ROWS_REFUSED: MessageId.SNOWFLAKE_RECOVERED,
        MessageId.DOOR_EVENTS_HELD: MessageId.DOOR_EVENTS_SENT,
        MessageId.DISK_FULL: MessageId.DISK_HAS_ROOM,
        MessageId.SWIPES_LOST: MessageId.DISK_HAS_ROOM,
    }
)

READERS_SEPARATOR = ", "  # no id has either character
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
    """The `extra` of a log call: journal fields by which its line can be found.

    `reader`: an id, or those of all readers of a port, joined by READERS_SEPARATOR.
    Only these and the message reach the journal: arguments and exceptions may contain personal data.
    """
    values = {
        "MESSAGE_ID": event,
        "READER": reader,
        "SEQ": seq,
        "CHANNEL": channel,
        "ERROR_CODE": error_code(error) if error is not None else None,
    }
    return {_ATTRIBUTE: {name: str(value) for name, value in values.items() if value is not None}}


def error_code(error: AgentError) -> str:
    """Snowflake's error code, else the HTTP status, else the name of the error's class."""
    if isinstance(error, SnowpipeError):
        return error.code or (str(error.status) if error.status is not None else type(error).__name__)
    return type(error).__name__


def fields_of(record: LogRecord) -> MappingProxyType[str, str]:
    """The fields passed with fields(), empty without them."""
    return MappingProxyType(getattr(record, _ATTRIBUTE, _NONE))
