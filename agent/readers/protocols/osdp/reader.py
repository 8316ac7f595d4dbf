"""The wire protocol of one OSDP reader on a line, which it may share with others."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from agent.readers.events import ReaderEvent
from agent.readers.protocol import LineSettings, Option
from agent.readers.protocols.osdp.codes import HIGHEST_ADDRESS
from agent.readers.protocols.osdp.line import OsdpLine
from agent.readers.protocols.osdp.link import Link, Random

DEFAULT_BAUDRATE = 9600


class Osdp:
    """OSDP v2 readers on RS-485, with the secure channel.

    Readers on one line share an OsdpLine. Without a key a reader is asked in clear text, and only if
    `secure` is "none"; else it is not asked at all.
    """

    line: ClassVar[LineSettings] = LineSettings(DEFAULT_BAUDRATE, low_latency=True)
    options: ClassVar[Mapping[str, Option]] = MappingProxyType(
        {
            "address": Option("the reader's address on the line", 0, low=0, high=HIGHEST_ADDRESS),
            "secure": Option(
                "required: only in an encrypted session, with the key that setup makes; none: in clear text, "
                "for readers without keys",
                "required",
                allowed=("required", "none"),
            ),
            "poll_ms": Option("milliseconds from one poll to the next", 50, low=20, high=1000),
            "light": Option(
                "agent: green and a beep once a swipe is on disk, amber while swipes wait for Snowflake, red "
                "while none can be stored; reader: the reader has its own rules",
                "agent",
                allowed=("agent", "reader"),
            ),
            "amber_after": Option(
                "seconds that a swipe waits for Snowflake until the light is amber", 300, low=10, high=86_400
            ),
        }
    )
    polled: ClassVar[bool] = True
    repeats_while_held: ClassVar[bool] = False

    def __init__(
        self,
        address: int = 0,
        secure: str = "required",
        poll_ms: int = 50,
        light: str = "agent",
        amber_after: int = 300,
        *,
        random: Random = os.urandom,
    ) -> None:
        self.amber_after_s = amber_after if light == "agent" else None
        self.link = Link(address, key=None, poll_s=poll_ms / 1000, random=random)
        self.link.is_used = secure == "none"
        self.link.reset()
        self.join(OsdpLine(DEFAULT_BAUDRATE))

    def join(self, line: OsdpLine) -> None:
        """Share this line with the readers that joined it before."""
        self._line = line
        line.add(self.link)

    def use_key(self, key: bytes) -> None:
        """Ask the reader in sessions with this key only."""
        self.link.use_key(key)

    def do_not_ask(self) -> None:
        """Send nothing to the reader: it may have a key, which cannot be read."""
        self.link.is_used = False
        self.link.reset()

    @property
    def lacks_key(self) -> bool:
        """Whether the reader cannot be asked, because there is no key."""
        return not self.link.is_used

    @property
    def awaits_reply(self) -> bool:
        """Whether the bytes on the line are for this reader."""
        return self._line.active is self.link

    def receive_data(self, data: bytes, now: float) -> list[ReaderEvent]:
        """Parse received bytes; return the events of this reader's reply. Those of others are ignored."""
        return self._line.receive(self.link, data, now) if self.awaits_reply else []

    def data_to_send(self, now: float) -> bytes:
        """The command that is due at `now`, empty if none is; it counts as sent."""
        return self._line.data_to_send(self.link, now)

    def next_timeout(self) -> float | None:
        """When the next command is due or a reply overdue; None while another reader of the line is asked."""
        return self._line.next_timeout(self.link)

    def handle_timeout(self, now: float) -> list[ReaderEvent]:
        """The events of a reply that is overdue at `now`; none at the end of the stream (`now` infinite)."""
        return [] if now == math.inf else self._line.handle_timeout(self.link, now)

    def rest_s(self, now: float) -> float:
        """As OsdpLine.rest_s()."""
        return self._line.rest_s(now)

    def is_within_frame(self) -> bool:
        """True while a reply has begun and not ended."""
        return self._line.is_within_frame and self.awaits_reply

    def reset(self) -> None:
        """Forget the reader's state and its session: the port was reopened."""
        self._line.reset()
        self.link.reset()
