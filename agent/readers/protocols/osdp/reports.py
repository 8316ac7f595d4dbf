"""The data of OSDP replies, as events and values. Malformed data is noise, never an exception."""

from __future__ import annotations

from typing import NamedTuple

from agent.readers.events import (
    Condition,
    ConditionChange,
    CredentialKind,
    Key,
    Noise,
    NoiseReason,
    RawCredential,
    ReaderEvent,
)
from agent.readers.protocols.osdp.codes import Reply
from agent.swipe import CardCheck

_PDID_BYTES = 12
_RAW_HEAD_BYTES = 4  # reader, format, number of bits (2)
_FMT_HEAD_BYTES = 3  # reader, direction, number of characters
_KEYPAD_HEAD_BYTES = 2  # reader, number of keys
# One maker's readers count two characters more than they send (libosdp, issue 206).
_FMT_EXCESS = (0, 2)
# Format 0, "unspecified", may be a Wiegand word or the number of a tag: the enabled formats decide. 2 and 3
# are numbers of tags.
_KINDS = {0: CredentialKind.ID, 1: CredentialKind.WIEGAND}
_CAP_BYTES = 3
_CAP_SECURITY = 9
_NORMAL, _NOT_CONNECTED, _TAMPERED = 0, 1, 2  # of RSTATR
_MALFORMED = Noise(NoiseReason.LENGTH)  # without its bytes, which may be of a card or a PIN


class Identity(NamedTuple):
    """The content of a PDID."""

    vendor: str  # the OUI of its maker, six hex digits
    model: int
    version: int
    serial: str  # eight hex digits
    firmware: str

    def __str__(self) -> str:
        """As in reports: the maker's code is all that is known of its name."""
        return f"vendor {self.vendor}, model {self.model}.{self.version}, firmware {self.firmware}"


class Settings(NamedTuple):
    """The line settings that a reader will use."""

    address: int
    baudrate: int


def events_of(code: int, data: bytes) -> list[ReaderEvent]:
    """The events of a reply to POLL, LSTAT or RSTAT; none for a reply that reports nothing of interest."""
    match code:
        case Reply.ACK:  # first, because most replies are ACK
            return []
        case Reply.RAW:
            return [_raw(data)]
        case Reply.FMT:
            return [_formatted(data)]
        case Reply.KEYPAD:
            return _keys(data)
        case Reply.LSTATR:
            return _local_status(data)
        case Reply.RSTATR:
            return _reader_status(data)
        case _:
            return []


def identity_of(data: bytes) -> Identity | None:
    """The content of a PDID; None if it is malformed."""
    if len(data) < _PDID_BYTES:
        return None
    return Identity(
        vendor=data[:3].hex().upper(),
        model=data[3],
        version=data[4],
        serial=data[8:4:-1].hex().upper(),
        firmware=".".join(map(str, data[9:_PDID_BYTES])),
    )


def knows_secure_channel(data: bytes) -> bool:
    """Whether a PDCAP lists AES-128. It can be changed on its way: no reason to do without a key."""
    records = (data[start : start + _CAP_BYTES] for start in range(0, len(data), _CAP_BYTES))
    return any(
        record[0] == _CAP_SECURITY and len(record) == _CAP_BYTES and record[1] & 1 for record in records
    )


def settings_of(data: bytes) -> Settings | None:
    """The content of a COM; None if it is malformed."""
    return Settings(data[0], int.from_bytes(data[1:5], "little")) if len(data) == 5 else None  # noqa: PLR2004


def _raw(data: bytes) -> ReaderEvent:
    if len(data) <= _RAW_HEAD_BYTES:
        return _MALFORMED
    bits = int.from_bytes(data[2:4], "little")
    card = data[_RAW_HEAD_BYTES:]
    if not bits or len(card) != (bits + 7) // 8:
        return _MALFORMED
    # The first bit is the top one of the first byte; what is left of the last byte is padding.
    value = int.from_bytes(card, "big") >> 8 * len(card) - bits
    return RawCredential(bits, value, CardCheck.CHECKSUM, _KINDS.get(data[1], CredentialKind.IDENTIFIER))


def _formatted(data: bytes) -> ReaderEvent:
    """A card as characters: their bytes are its bits, so that none is lost."""
    text = data[_FMT_HEAD_BYTES:]
    if not text or data[2] - len(text) not in _FMT_EXCESS:
        return _MALFORMED
    return RawCredential(
        8 * len(text), int.from_bytes(text, "big"), CardCheck.CHECKSUM, CredentialKind.IDENTIFIER
    )


def _keys(data: bytes) -> list[ReaderEvent]:
    count = len(data) - _KEYPAD_HEAD_BYTES
    if count < 0 or data[1] != count:
        return [_MALFORMED]
    return [Key()] * count


def _local_status(data: bytes) -> list[ReaderEvent]:
    if len(data) < 2:  # noqa: PLR2004 - tamper, power
        return [_MALFORMED]
    return [
        ConditionChange(Condition.TAMPER, active=data[0] != 0),
        ConditionChange(Condition.POWER, active=data[1] != 0),
    ]


def _reader_status(data: bytes) -> list[ReaderEvent]:
    """Of the readers that one device has, the worst counts."""
    if not data:
        return [_MALFORMED]
    return [
        ConditionChange(Condition.HEAD_TAMPER, active=_TAMPERED in data),
        ConditionChange(Condition.HEAD_MISSING, active=_NOT_CONNECTED in data),
    ]
