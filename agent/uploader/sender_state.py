"""The states of a sender; channel_sender.py describes them."""

from __future__ import annotations

from enum import Enum, auto


class SenderState(Enum):
    """What is known of the channel's position and of the rows sent."""

    CLOSED = auto()
    OPEN = auto()
    SENDING = auto()
    AWAITING_COMMIT = auto()
    BACKING_OFF = auto()
