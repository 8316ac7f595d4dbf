"""A short session with one OSDP reader on an open port, for commands: who is it, and give it a key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.readers.detect.scan import SerialLine
from agent.readers.events import Condition, ConditionChange
from agent.readers.protocols.osdp.codes import BROADCAST, Command, Reply
from agent.readers.protocols.osdp.line import OsdpLine
from agent.readers.protocols.osdp.outputs import key_record, line_settings
from agent.readers.protocols.osdp.reader import Osdp
from agent.readers.protocols.osdp.reports import Identity, settings_of
from agent.readers.protocols.osdp.secure_channel import DEFAULT_KEY

# A lost reply, a handshake, identity and capabilities at 9600 baud, twice.
_CONNECT_S = 3.0
_NO_ANSWER_S = 1.0  # two tries
_SHORTEST_WAIT_S = 0.001


@dataclass(frozen=True, slots=True)
class Contact:
    """What came of a session. `refuses_key`: it answers, but not with this key, or not without one."""

    answers: bool
    refuses_key: bool = False
    identity: Identity | None = None
    offers_secure_channel: bool | None = None  # None: it did not say

    @property
    def is_good(self) -> bool:
        """Whether there is a session, or an answer in clear text where no key was given."""
        return self.answers and not self.refuses_key


class OsdpSession:
    """One reader at an address of a line. `key` None: in clear text."""

    def __init__(
        self,
        line: SerialLine,
        baudrate: int,
        address: int,
        key: bytes | None,
        *,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._line = line
        self._monotonic_s = monotonic_s
        self._protocol = Osdp(address, "none")
        self._protocol.join(OsdpLine(baudrate))
        self._protocol.reset()
        if key is not None:
            self._protocol.use_key(key)
        self._refuses_key = False

    @classmethod
    def in_install_mode(
        cls, line: SerialLine, baudrate: int, address: int, *, monotonic_s: Callable[[], float]
    ) -> OsdpSession:
        """With the default key, which is public: only to set another one."""
        return cls(line, baudrate, address, DEFAULT_KEY, monotonic_s=monotonic_s)

    def connect(self) -> Contact:
        """Wait for identity and capabilities, or a refused key. Raises PortError when the port is lost."""
        link = self._protocol.link
        answers = self._run(
            lambda: self._refuses_key or (link.is_online and link.offers_secure_channel is not None)
        )
        has_answered = answers or link.is_online
        return Contact(has_answered, self._refuses_key, link.identity, link.offers_secure_channel)

    def set_key(self, key: bytes) -> bool:
        """Set the reader's key, and begin a session with it; False if the reader refuses either."""
        code, _ = self._request(Command.KEYSET, key_record(key))
        if code != Reply.ACK:
            return False
        self._refuses_key = False
        self._protocol.use_key(key)
        return self.connect().is_good

    def set_address(self, address: int, baudrate: int) -> bool:
        """Set the reader's address and line speed, which it uses from then on; False if it chooses others."""
        code, data = self._request(Command.COMSET, line_settings(address, baudrate))
        return code == Reply.COM and settings_of(data) == (address, baudrate)

    def _request(self, command: Command, data: bytes) -> tuple[int, bytes]:
        """Code and data of the reply; code 0 without one."""
        link = self._protocol.link
        link.request(command, data)
        self._run(lambda: bool(link.replies))
        return next(((code, reply) for _, code, reply in link.take_replies()), (0, b""))

    def _run(self, is_done: Callable[[], bool]) -> bool:
        """Exchange commands and replies until it is done; False after the time for that."""
        protocol, now = self._protocol, self._monotonic_s()
        gives_up_s, ends_s = now + _NO_ANSWER_S, now + _CONNECT_S
        while not is_done():
            if now >= (ends_s if protocol.link.has_answered else gives_up_s):
                return False
            if command := protocol.data_to_send(now):
                self._line.write(command)
            timeout_s = protocol.next_timeout()
            wait_s = ends_s - now if timeout_s is None else min(timeout_s, ends_s) - now
            data = self._line.read(max(wait_s, _SHORTEST_WAIT_S))
            now = self._monotonic_s()
            events = protocol.receive_data(data, now) if data else protocol.handle_timeout(now)
            self._refuses_key |= ConditionChange(Condition.KEY_REFUSED, active=True) in events
        return True


def only_reader_of(line: SerialLine, baudrate: int, *, monotonic_s: Callable[[], float]) -> OsdpSession:
    """A session in clear text with whatever reader is alone on a line."""
    return OsdpSession(line, baudrate, BROADCAST, None, monotonic_s=monotonic_s)
