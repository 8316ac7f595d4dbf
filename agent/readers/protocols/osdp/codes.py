"""The codes of OSDP commands and replies that the agent uses."""

from __future__ import annotations

from enum import IntEnum


class Command(IntEnum):
    """What the control panel sends."""

    POLL = 0x60
    ID = 0x61
    CAP = 0x62
    LSTAT = 0x64
    RSTAT = 0x67
    LED = 0x69
    BUZ = 0x6A
    COMSET = 0x6E
    KEYSET = 0x75
    CHLNG = 0x76
    SCRYPT = 0x77


class Reply(IntEnum):
    """What a reader answers."""

    ACK = 0x40
    NAK = 0x41
    PDID = 0x45
    PDCAP = 0x46
    LSTATR = 0x48
    RSTATR = 0x4B
    RAW = 0x50
    FMT = 0x51
    KEYPAD = 0x53
    COM = 0x54
    CCRYPT = 0x76
    RMAC_I = 0x78
    BUSY = 0x79


class Nak(IntEnum):
    """The reasons of a refusal that concern the link: the first byte of a NAK."""

    SEQUENCE = 4
    SECURITY_BLOCK = 5
    SECURITY_REQUIRED = 6


BROADCAST = 0x7F
"""The address that every reader answers: for a line with one reader. Its reply has the address byte FF."""

HIGHEST_ADDRESS = 0x7E
