"""The link to one OSDP reader: what to send next, and what its replies mean."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.readers.events import Condition, ConditionChange, ReaderEvent
from agent.readers.protocols.osdp.codes import Command, Nak, Reply
from agent.readers.protocols.osdp.frame import Frame, finished, unsigned_command
from agent.readers.protocols.osdp.lights import Lights
from agent.readers.protocols.osdp.reports import Identity, events_of, identity_of, knows_secure_channel
from agent.readers.protocols.osdp.secure_channel import RANDOM_BYTES, Handshake, SecureChannel

Random = Callable[[int], bytes]

OFFLINE_AFTER_S = 8.0  # without a valid reply: both sides give the session up
# From one attempt to the next while something is wrong; so a reader is back within two seconds.
RETRY_S = 1.0
_BUSY_S = 0.1
_BUSY_MAX = 80  # then the link begins again: no reader is busy for 8 s
_NEXT_EVENT_S = 0.01  # after a report: there may be another one
_REFUSALS_MAX = 2  # one may be a late reply to an earlier handshake
_NUMBER_AFTER = {0: 1, 1: 2, 2: 3, 3: 1}
_REPLY_BIT = 0x80

# After each start of the link: identity, capabilities, tamper and power. A refusal is ignored.
_START_UP = (
    (Command.ID, b"\0"),
    (Command.CAP, b"\0"),
    (Command.LSTAT, b""),
    (Command.RSTAT, b""),
)
_POLL = (Command.POLL, b"")
_REQUIRES_SECURITY = frozenset({Nak.SECURITY_BLOCK, Nak.SECURITY_REQUIRED})


@dataclass(slots=True)
class _Exchange:
    """A command that is not answered yet."""

    command: tuple[Command, bytes] = field(repr=False)
    number: int
    frame: bytes = field(repr=False)
    sent_s: float = 0.0
    times: int = 0
    busy: int = 0


class Link:
    """One reader at one address. It is asked by a line, see line.py: command(), then receive() or no_reply().

    With `key` nothing is sent or accepted outside of a session but its handshake. `random` returns that many
    random bytes.
    """

    def __init__(self, address: int, *, key: bytes | None, poll_s: float, random: Random) -> None:
        self.address = address
        self.is_used = True
        self.due_s = 0.0  # of the next command; infinite for a reader that is not used
        self.retry_s = RETRY_S  # longer on a line of many readers
        self.lights = Lights()
        self.identity: Identity | None = None
        self.offers_secure_channel: bool | None = None  # None: it did not say
        self._key = key
        self._poll_s = poll_s
        self._random = random
        self._conditions: dict[Condition, bool] = {}
        self._requests: deque[tuple[Command, bytes]] = deque()
        self.replies: list[tuple[Command, int, bytes]] = []
        self._unsupported: set[Command] = set()  # not sent again, lest each of them ends the session
        self._heard_s: float | None = None  # None: counted from the first command
        # How the reader's frames are checked; it is tried out until the reader has answered once.
        self._with_crc, self._is_check_known = True, False
        self._failures = self._refusals = 0  # in a row
        self._number = 0  # of the next command
        self._exchange: _Exchange | None = None
        self._last_reply: Frame | None = None
        self._handshake: Handshake | None = None
        self._is_challenged = False  # CHLNG was answered
        self._channel: SecureChannel | None = None
        self._start_up = deque(_START_UP)

    def reset(self) -> None:
        """The port was opened: nothing is known of the reader."""
        self.due_s = 0.0 if self.is_used else math.inf
        self.identity, self.offers_secure_channel = None, None
        self._unsupported.clear()
        self._heard_s = None
        self._with_crc, self._is_check_known = True, False
        self._failures = self._refusals = 0
        self._handshake = None
        self._conditions.clear()
        self._begin_again()

    @property
    def has_answered(self) -> bool:
        """Whether there was any reply since the port was opened."""
        return self._is_check_known

    @property
    def is_online(self) -> bool:
        """Whether the reader answers, in a session if there is a key."""
        return self._conditions.get(Condition.OFFLINE) is False and not self._conditions.get(
            Condition.KEY_REFUSED, False
        )

    @property
    def is_secure(self) -> bool:
        """Whether there is a session."""
        return self._channel is not None

    def use_key(self, key: bytes) -> None:
        """Begin again, with this key."""
        self._key = key
        self.is_used = True
        self._refusals = self._failures = 0
        self.due_s = 0.0
        self._handshake = None
        self._begin_again()

    def request(self, command: Command, data: bytes) -> None:
        """Send a command, before the next poll. take_replies() returns what came of it."""
        self._requests.append((command, data))

    def take_replies(self) -> list[tuple[Command, int, bytes]]:
        """The command, reply code and reply data of each request that was answered since the last call."""
        replies, self.replies = self.replies, []
        return replies

    # --- the line's calls -------------------------------------------------------------------------

    def command(self, now: float) -> bytes:
        """The frame that is due: the command that was not answered once more, or the next one."""
        if self._heard_s is None:
            self._heard_s = now
        if self._exchange is None:
            self._exchange = self._next_exchange()
        self._exchange.times += 1
        self._exchange.sent_s = now
        return self._exchange.frame

    def receive(self, reply: Frame, now: float) -> list[ReaderEvent] | None:
        """The events of a frame that was received after command(); None if it does not answer that."""
        exchange = self._exchange
        if exchange is None or reply.address != self.address | _REPLY_BIT:
            return None
        if reply.code == Reply.BUSY and not reply.security:
            return self._busy(exchange, now) if reply.number in (0, exchange.number) else None
        if reply.number != exchange.number:
            # A late copy of an earlier reply answers nothing. Else 0 means that the reader has restarted, and
            # NAK 4 has the number that it expects.
            is_out_of_step = reply.number == 0 or _is_nak(reply, Nak.SEQUENCE)
            if not is_out_of_step or reply == self._last_reply:
                return None
            events = self._heard(now)
            self._restart(now)
            return events
        self._last_reply = reply
        events = self._heard(now)
        if self._handshake is not None:
            return [*events, *self._continue_handshake(self._handshake, exchange, reply, now)]
        data = self._opened(exchange, reply)
        refusal = data[0] if data and reply.code == Reply.NAK else 0
        requires_key = refusal in _REQUIRES_SECURITY and exchange.command == _POLL
        if data is not None and refusal != Nak.SEQUENCE and not requires_key:
            return [*events, *self._answered(exchange, reply.code, data, now)]
        if requires_key and self._key is None:
            events += self._refused()
        self._restart(now)
        return events

    def no_reply(self, now: float) -> list[ReaderEvent]:
        """The command was not answered in time: it is repeated, first immediately, then at intervals."""
        exchange = self._exchange
        is_first = (
            exchange is not None and exchange.times == 1 and not self._conditions.get(Condition.OFFLINE)
        )
        self.due_s = now if is_first else now + self.retry_s
        if self._heard_s is None or now - self._heard_s < OFFLINE_AFTER_S:
            return []
        # Every reader has the checksum, and most have the CRC.
        if not self._is_check_known:
            self._with_crc = not self._with_crc
        self._unsupported.clear()  # another one may be put in its place
        self._begin_again()
        self._conditions.pop(Condition.KEY_REFUSED, None)
        return self._change(Condition.OFFLINE, active=True)

    # --- sending ----------------------------------------------------------------------------------

    def _next_exchange(self) -> _Exchange:
        if self._key is not None and self._channel is None:
            return self._next_of_handshake(self._key)
        command = self._next_command()
        number = self._next_number()
        code, data = command
        if self._channel is None:
            frame = finished(unsigned_command(self.address, number, code, data, with_crc=self._with_crc))
        else:
            frame = self._channel.seal(self.address, number, code, data, with_crc=self._with_crc)
        return _Exchange(command, number, frame)

    def _next_of_handshake(self, key: bytes) -> _Exchange:
        if self._handshake is None:
            self._handshake = Handshake(key, self._random(RANDOM_BYTES))
        if not self._is_challenged:
            self._next_number()
            frame = self._handshake.challenge(self.address, with_crc=self._with_crc)
            return _Exchange((Command.CHLNG, b""), 0, frame)
        number = self._next_number()
        frame = self._handshake.response(self.address, number, with_crc=self._with_crc)
        return _Exchange((Command.SCRYPT, b""), number, frame)

    def _next_command(self) -> tuple[Command, bytes]:
        if self._number == 0:
            return _POLL  # some readers answer nothing else before it
        if self._requests:
            return self._requests[0]
        while self._start_up and self._start_up[0][0] in self._unsupported:
            self._start_up.popleft()
        if self._start_up:
            return self._start_up[0]
        return self.lights.next_command(self._unsupported) or _POLL

    def _next_number(self) -> int:
        number, self._number = self._number, _NUMBER_AFTER[self._number]
        return number

    # --- replies ----------------------------------------------------------------------------------

    def _heard(self, now: float) -> list[ReaderEvent]:
        """The reader has answered."""
        self._heard_s, self._is_check_known = now, True
        self._exchange = None
        if self._key is not None and self._channel is None:
            return []  # that is settled by the handshake
        return self._change(Condition.OFFLINE, active=False)

    def _busy(self, exchange: _Exchange, now: float) -> list[ReaderEvent]:
        """The same command is sent again later: number and session are as before."""
        exchange.busy += 1
        exchange.times = 0
        self.due_s = now + _BUSY_S
        if exchange.busy > _BUSY_MAX:
            self._restart(now)
        return []

    def _continue_handshake(
        self, handshake: Handshake, exchange: _Exchange, reply: Frame, now: float
    ) -> list[ReaderEvent]:
        self.due_s = now
        if exchange.command[0] is Command.CHLNG:
            if handshake.accepts(reply):
                self._is_challenged = True
                return []
        elif (channel := handshake.finish(reply)) is not None:
            self._channel, self._handshake, self._refusals = channel, None, 0
            return [
                *self._change(Condition.OFFLINE, active=False),
                *self._change(Condition.KEY_REFUSED, active=False),
            ]
        events = [] if _is_nak(reply, Nak.SEQUENCE) else self._refused()
        self._restart(now)
        return events

    def _refused(self) -> list[ReaderEvent]:
        """There was no session, or the reader requires one."""
        self._refusals += 1
        if self._refusals < _REFUSALS_MAX:
            return []
        return [
            *self._change(Condition.OFFLINE, active=False),
            *self._change(Condition.KEY_REFUSED, active=True),
        ]

    def _opened(self, exchange: _Exchange, reply: Frame) -> bytes | None:
        """The data of a reply; None if it does not belong to the session."""
        if self._channel is None:
            return None if reply.security else reply.data
        if exchange.command[0] is Command.KEYSET and reply.code == Reply.ACK and not reply.security:
            return reply.data  # as some readers do; what it means is proved by the next handshake
        return self._channel.open(reply)

    def _answered(self, exchange: _Exchange, code: int, data: bytes, now: float) -> list[ReaderEvent]:
        command, is_refused = exchange.command, code == Reply.NAK
        self.due_s = now
        if is_refused and command != _POLL:
            self._unsupported.add(command[0])
        if command == _POLL:
            # A refused or empty poll and one that brought something are followed by the next one.
            pause_s = self._poll_s if code in (Reply.ACK, Reply.NAK) else _NEXT_EVENT_S
            self.due_s = exchange.sent_s + pause_s if self._is_started else now
            self._failures = self._refusals = 0
            return [*self._change(Condition.KEY_REFUSED, active=False), *events_of(code, data)]
        if self._requests and command == self._requests[0]:
            self._requests.popleft()
            self.replies.append((command[0], code, data))
        elif self._start_up and command == self._start_up[0]:
            self._start_up.popleft()
            self._learn(code, data)
        else:
            self.lights.answered(command)
        return events_of(code, data)

    @property
    def _is_started(self) -> bool:
        return not self._start_up and not self._requests

    def _learn(self, code: int, data: bytes) -> None:
        if code == Reply.PDID:
            self.identity = identity_of(data) or self.identity
        elif code == Reply.PDCAP:
            self.offers_secure_channel = knows_secure_channel(data)

    # --- begin again ------------------------------------------------------------------------------

    def _restart(self, now: float) -> None:
        """The reader answered, and the link is out of step. The first restart in a row is immediate."""
        self._failures += 1
        self.due_s = now if self._failures == 1 else now + self.retry_s
        self._handshake = None
        self._begin_again()

    def _begin_again(self) -> None:
        """The next command has number 0. A challenge that was not answered keeps its random number."""
        self._number = 0
        self._exchange = self._channel = self._last_reply = None
        if self._is_challenged:
            self._handshake = None
        self._is_challenged = False
        self._start_up = deque(_START_UP)
        self.lights.reset()

    def _change(self, condition: Condition, *, active: bool) -> list[ReaderEvent]:
        if self._conditions.get(condition) is active:
            return []
        self._conditions[condition] = active
        return [ConditionChange(condition, active)]


def _is_nak(reply: Frame, reason: Nak) -> bool:
    """Whether this is a NAK in clear text, with this reason."""
    return reply.code == Reply.NAK and not reply.security and reply.data[:1] == bytes([reason])
