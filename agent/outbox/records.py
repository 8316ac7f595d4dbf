"""Records of the outbox file that carry a checksum: rows, the state record, generations; and door events.

SQLite has no checksums: a bit that changes on the disk in a value is not seen by its own checks.
"""

from __future__ import annotations

import re
import uuid
import zlib
from typing import NamedTuple

from agent.rows import UNKNOWN_LINK

_OUTBOX_ID = re.compile(r"[0-9a-f]{12}")
_CHAIN = re.compile(r"(?:[0-9a-f]{16}){0,2}")
_CHAIN_BEFORE = re.compile(rf"[0-9a-f]{{12}}|(?:[0-9a-f]{{16}}){{1,2}}|{UNKNOWN_LINK}")
_N_BITS = 31


def new_outbox_id() -> str:
    """A random id of 12 hex digits."""
    return uuid.uuid4().hex[:12]


def row_checksum(
    n: int, chain: str, trusted_us: int | None, row: bytes, boot: int | None, boot_us: int | None
) -> int:
    """The checksum of a row: its number in the upper 31 bits, a CRC-32 over all columns in the lower 32.

    The number is there so that a row found by its bytes alone has one that the CRC proves.
    """
    crc = zlib.crc32(f"{n}|{chain}|{trusted_us}|{boot}|{boot_us}".encode(), zlib.crc32(row))
    return (n & (1 << _N_BITS) - 1) << 32 | crc


def number_in(checksum: int) -> int:
    """The number of the row with this checksum."""
    return checksum >> 32


def checksum_of(*values: object) -> int:
    """The checksum over the values of a record."""
    return zlib.crc32("|".join(map(str, values)).encode())


class StateRecord(NamedTuple):
    """The stored state. `legacy_n`: rows up to it may be of schemas 1-3, which have no checksum.

    `channel` is the last channel that rows were sent to, `recovering` names the quarantined files of which
    rows are still to be moved (recovery.progress); "" for none. `agent_id`, `pipe` and `channel_first_n` are
    those of `channel`: the first row of its generation has seq 1. `renewal` is why the next channel gets a
    new outbox id; "" if it need not. `switches` counts the changes of `channel` since the last commit, the
    last of them at `switched_us` of the wall clock. `suspect_n` is the row that is passed over because it was
    refused on its own (RowSource.suspect), 0 for none; `suspect_replay_id`, `suspect_replay_n` that of the
    replays.
    """

    committed_n: int
    committed_chain: str
    machine_id: str
    unreadable: int
    legacy_n: int
    agent_id: str
    channel: str
    recovering: str
    pipe: str = ""
    channel_first_n: int = 0
    replay_channel: str = ""
    replay_pipe: str = ""
    renewal: str = ""
    switches: int = 0
    switched_us: int = 0
    suspect_n: int = 0
    suspect_replay_id: int = 0
    suspect_replay_n: int = 0

    @property
    def checksum(self) -> int:
        """The checksum over all of it."""
        return checksum_of(*self)

    @classmethod
    def checked(cls, columns: tuple[object, ...]) -> StateRecord | None:
        """The record with these columns and its checksum after them; None if it is damaged."""
        *values, checksum = columns
        if len(values) != len(cls._fields) or checksum != checksum_of(*values):
            return None
        record = cls(*values)  # type: ignore[arg-type] # checked next
        if not all(type(value) is kind for value, kind in zip(record, _STATE_KINDS, strict=True)):
            return None
        counts = (
            record.committed_n,
            record.legacy_n,
            record.unreadable,
            record.channel_first_n,
            record.switches,
            record.suspect_n,
            record.suspect_replay_id,
            record.suspect_replay_n,
        )
        is_sound = all(count >= 0 for count in counts)
        return record if is_sound and _CHAIN.fullmatch(record.committed_chain) else None


_STATE_KINDS = (int, str, str, int, int, str, str, str, str, int, str, str, str, int, int, int, int, int)
STATE_COLUMNS = ", ".join((*StateRecord._fields, "checksum"))
# The members that say where rows were sent to last.
ADDRESS = ("agent_id", "channel", "pipe", "channel_first_n", "replay_channel", "replay_pipe")


class Generation(NamedTuple):
    """Rows from `first_n` up to the next generation: a row's seq in it is n - first_n + 1.

    `chain_before` is the chain of the row before the first; for the first row of a file its first outbox id;
    UNKNOWN_LINK where damage has taken it.
    """

    first_n: int
    outbox_id: str
    chain_before: str

    @property
    def checksum(self) -> int:
        """The checksum over all of it."""
        return checksum_of(*self)

    @classmethod
    def checked(cls, columns: tuple[object, ...]) -> Generation | None:
        """The generation with these columns and its checksum after them; None if it is damaged."""
        first_n, outbox_id, chain_before, checksum = columns
        if type(first_n) is not int or not isinstance(outbox_id, str) or not isinstance(chain_before, str):
            return None
        found = cls(first_n, outbox_id, chain_before)
        is_sound = first_n > 0 and _OUTBOX_ID.fullmatch(outbox_id) and _CHAIN_BEFORE.fullmatch(chain_before)
        return found if is_sound and checksum == found.checksum else None
