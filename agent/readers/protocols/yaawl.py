"""Lines printed by sketches with the library YetAnotherArduinoWiegandLibrary."""

from __future__ import annotations

import re

from agent.readers.cards.formats import CARD_BITS
from agent.readers.events import CredentialKind, NoiseReason, RawCredential, Status
from agent.readers.framing.line_framer import LineProtocol, Reading
from agent.readers.protocol import LineSettings
from agent.swipe import CardCheck

# Each may follow the sketch's own text, or after static a part of an older line.
_READ = re.compile(rb".*Card read(?:ed)?: ([0-9]{1,3}) ?bits / ([0-9A-Fa-f]+)\s*", re.IGNORECASE)
_FAILED = re.compile(
    rb".*Card read error: (.*?) - Raw data: ([0-9]{1,3}) ?bits / ([0-9A-Fa-f]+)\s*", re.IGNORECASE
)
_STATE = re.compile(rb".*State changed: (DIS)?CONNECTED\s*", re.IGNORECASE)

# The library checks and removes the parity of 26 and 34 bits, and passes other lengths unchanged.
_STRIPPED_BITS = (24, 32)
_CONNECTED = Status("the bridge sees its reader", ok=True)
_DISCONNECTED = Status("the bridge sees no reader: both data lines are low", ok=False)


class Yaawl(LineProtocol):
    """Arduino and ESP sketches with YetAnotherArduinoWiegandLibrary.

    The library checks the parity at the reader; a digit that is altered on the serial line cannot be
    detected.
    """

    line = LineSettings(hold_reset_lines=True)
    may_hold_pin = True

    def read(self, text: bytes, *, cut: bool) -> Reading:  # noqa: ARG002 - each line has a beginning
        """The card, key or state in a line; keys are not marked as such."""
        if found := _READ.fullmatch(text):
            return _card(int(found[1]), found[2])
        if found := _FAILED.fullmatch(text):
            return _failed(found[1].lower(), int(found[2]), found[3])
        if found := _STATE.fullmatch(text):
            return (_DISCONNECTED if found[1] else _CONNECTED,)
        return NoiseReason.SYNTAX


def _card(bits: int, digits: bytes) -> Reading:
    if not _fits(bits, digits):
        return NoiseReason.LENGTH
    if bits in _STRIPPED_BITS:
        return (RawCredential(bits, int(digits, 16), CardCheck.UPSTREAM, CredentialKind.DATA),)
    return (RawCredential(bits, int(digits, 16)),)


def _failed(error: bytes, bits: int, digits: bytes) -> Reading:
    """A card that the library rejected. The bits are valid if the library only has no decoder for
    them; then no parity was checked, and the format is unknown.
    """
    if b"communication" in error:
        return NoiseReason.TRUNCATED  # bits were lost on the way
    if not _fits(bits, digits):
        return NoiseReason.LENGTH
    if b"unsupported" not in error:
        return (RawCredential(bits, int(digits, 16)),)
    return (
        (RawCredential(bits, int(digits, 16), CardCheck.NONE, CredentialKind.ID),)
        if bits in CARD_BITS
        else NoiseReason.LENGTH
    )


def _fits(bits: int, digits: bytes) -> bool:
    """True if the digits are whole bytes, as many as the bits need."""
    return bits > 0 and len(digits) == (bits + 7) // 8 * 2 and not int(digits, 16) >> bits
