"""The data of OSDP commands: LED, buzzer, line settings and key."""

from __future__ import annotations

from enum import IntEnum

_READER, _LED = 0, 0
_TEMPORARY_LEAVE, _TEMPORARY_SET = 0, 2
_PERMANENT_LEAVE, _PERMANENT_SET = 0, 1
_STEADY_ON, _STEADY_OFF = 1, 0  # both 0 are refused
_DEFAULT_TONE = 2
_UNIT_MS = 100
_KEY_TYPE_SCBK = 1


class Colour(IntEnum):
    """The colours of an LED, as far as the agent uses them."""

    OFF = 0
    RED = 1
    GREEN = 2
    AMBER = 3


def steady_led(colour: Colour) -> bytes:
    """The LED has this colour until it is set again."""
    return bytes(
        [_READER, _LED, _TEMPORARY_LEAVE, *bytes(6), _PERMANENT_SET, _STEADY_ON, _STEADY_OFF, colour, colour]
    )


def timed_led(colour: Colour, duration_ms: int) -> bytes:
    """The LED has this colour for a time, then again the one before."""
    timer = duration_ms // _UNIT_MS
    temporary = [_TEMPORARY_SET, _STEADY_ON, _STEADY_OFF, colour, colour, *timer.to_bytes(2, "little")]
    return bytes([_READER, _LED, *temporary, _PERMANENT_LEAVE, *bytes(4)])


def beep(duration_ms: int) -> bytes:
    """One tone of the buzzer."""
    return bytes([_READER, _DEFAULT_TONE, duration_ms // _UNIT_MS, 0, 1])


def line_settings(address: int, baudrate: int) -> bytes:
    """The data of COMSET."""
    return bytes([address]) + baudrate.to_bytes(4, "little")


def key_record(key: bytes) -> bytes:
    """The data of KEYSET."""
    return bytes([_KEY_TYPE_SCBK, len(key)]) + key
