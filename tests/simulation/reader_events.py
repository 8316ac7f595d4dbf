"""What happens at the readers, and while nothing of the agent runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import xor
from random import Random

from tests.simulation.history import History, Swiped
from tests.simulation.kinds import event, extent

_MOST_SWIPES = 500


def frame(protocol: str, number: int) -> bytes:
    """What a reader sends for the card of a swipe."""
    tag = bytes([1]) + number.to_bytes(4, "big")
    digits = tag.hex().upper().encode()
    match protocol:
        case "rdm6300":
            return b"\x02" + digits + b"%02X\x03" % reduce(xor, tag)
        case "twn4":
            return digits + b"\r"
        case "em18":
            return digits + b"%02X" % reduce(xor, tag)
    raise ValueError(protocol)


def present(history: History, draw: Random, *, reader: int | None = None) -> bool:
    """A card is presented to a reader, which may send its frame in pieces, and several times."""
    door = history.door
    if len(history.swiped) >= _MOST_SWIPES:
        return False
    number, reader = len(history.swiped) + 1, draw.randrange(2) if reader is None else reader
    line, protocol, process = door.lines.lines[reader], door.protocols[reader], door.readers
    if not line.is_open:
        return False
    data = frame(protocol, number)
    at = draw.randrange(1, len(data)) if draw.random() < 0.2 else 0
    history.swiped[number] = swiped = Swiped(history.machine.true_us, reader)
    swiped.may_be_lost = line.has_chatter or history.machine.true_us < line.quiet_us
    if at:
        swiped.may_be_lost |= door.arrive(reader, data[:at], draw.randrange(1_000, 8_000)) < at
    line.unread.append(number)
    kept = door.arrive(reader, data[at:], draw.randrange(1_000, 8_000))
    swiped.true_us = history.machine.true_us
    if kept < len(data) - at or door.readers is not process:
        swiped.may_be_lost = True
    if protocol == "rdm6300" and draw.random() < 0.2:
        for _ in range(draw.randint(1, 8)):
            last_us = history.machine.true_us
            history.pass_until(history.now_s + 0.055)
            if history.machine.true_us - last_us > 500_000:
                break  # other threads have taken long: it would be another presentation
            door.arrive(reader, data, 5_000)
            swiped.repeated_us = history.machine.true_us
            swiped.may_be_doubled |= door.readers is not process and _may_forget_a_repeat(history)
    return True


def _may_forget_a_repeat(history: History) -> bool:
    """Whether the next process may not know the time of the last repeat of a held card.

    It may be lost with the file, or cannot be read: without room a process cannot make the shared memory file
    of the log, which here is not left by the process before.
    """
    return history.is_damaged or history.disk.may_fail or not history.disk.has_room


@event
def swipe(history: History, draw: Random) -> bool:
    return present(history, draw)


@event
def burst(history: History, draw: Random) -> bool:
    for _ in range(draw.choice((3, 10, 40))):
        if not present(history, draw):
            return False
        history.pass_until(history.now_s + draw.uniform(0.03, 0.3))
    return True


@event
def noise(history: History, draw: Random) -> bool:
    """Bytes that are no frame, and the end of a line after them."""
    reader = draw.randrange(2)
    history.pass_until(history.now_s + 0.2)
    if history.door.protocols[reader] == "em18":
        for number in history.lines.lines[reader].unread:  # the pause after them is lost
            history.swiped[number].may_be_lost = True
    history.door.arrive(reader, draw.randbytes(draw.randint(1, 60)) + b"\x03\r\n", 1_000)
    history.pass_until(history.now_s + 0.2)
    return True


@event
def frame_damaged(history: History, draw: Random) -> bool:
    """A digit of a frame with a checksum is another one: no card."""
    reader = draw.randrange(2)
    protocol = history.door.protocols[reader]
    is_read = history.door.is_running and history.door.ports[reader] is not None
    # The frames of em18 have no end: only the pause separates them, which is lost while bytes wait.
    if protocol == "twn4" or (protocol == "em18" and not is_read):
        return False
    history.pass_until(history.now_s + 0.2)
    data = bytearray(frame(protocol, 1_000_000 + draw.randrange(1_000_000)))
    at = draw.randrange(3, 11)
    data[at] = draw.choice([digit for digit in b"0123456789ABCDEF" if digit != data[at]])
    history.door.arrive(reader, bytes(data), 3_000)
    history.pass_until(history.now_s + 0.2)
    return True


@event
def held_over_a_restart(history: History, draw: Random) -> bool:
    """A card is held to its reader while the process ends and another one starts: one swipe."""
    door = history.door
    reader = next((n for n, name in enumerate(door.protocols) if name == "rdm6300"), None)
    if reader is None or door.agent is None or not present(history, draw, reader=reader):
        return False
    number, process = len(history.swiped), door.readers
    history.swiped[number].may_be_doubled |= _may_forget_a_repeat(history)
    data, line = frame("rdm6300", number), door.lines.lines[reader]
    history.pass_until(history.now_s + 0.2)  # stored, and delivered or not
    for _ in range(3):
        # A thread that waits for the network lets simulated time pass: the card would be presented again.
        if door.readers is not process or history.machine.true_us - history.swiped[number].true_us > 800_000:
            return True
        door.arrive(reader, data, 50_000)
    if door.readers is not process:
        return True
    ended_us = history.machine.true_us
    if draw.random() < 0.5:
        history.kill()
    else:
        history.stop()
    # Nothing arrives here during a stop: one that takes long is a gap between two presentations.
    history.swiped[number].may_be_doubled |= history.machine.true_us - ended_us > 100_000
    history.door.due = {"start": history.now_s + 0.5}
    while door.readers is None and history.now_s * 1e6 - history.swiped[number].true_us < 3e6:
        history.pass_until(history.now_s + 0.05)
        if line.is_open and door.readers is None:
            line.arrive(data)
    return True


@event
def unplugged(history: History, draw: Random) -> bool:
    """A reader's adapter is pulled out, and plugged in again after a while."""
    line = draw.choice(history.lines.lines)
    if not line.is_plugged:
        return False
    history.pass_until(history.now_s + 0.3)
    line.unplug()
    for number in range(2):
        history.door.wake_port(number)
    history.window(extent(draw) / 10, line.plug)
    return True


@event
def chatter(history: History, draw: Random) -> bool:
    """A reader sends more than the kernel buffers while nothing reads it."""
    reader = draw.randrange(2)
    line = history.lines.lines[reader]
    if not line.is_open:
        return False
    history.pass_until(history.now_s + 0.2)
    for swiped in history.swiped.values():
        swiped.may_be_lost |= swiped.reader == reader and bool(line.unread)
    line.arrive(b"\xff" * 5_000)
    line.has_chatter = True
    history.door.wake_port(reader)
    history.pass_until(history.now_s + 0.2)
    return True


def _stopped_for(
    history: History, draw: Random, pass_time: Callable[[float], object], seconds: float
) -> None:
    """Nothing of the agent runs for a while; cards that are presented wait in the kernel."""
    history.door.poll()
    began_us = history.machine.true_us
    parts = draw.randint(1, 4)
    for _ in range(parts):
        pass_time(seconds / parts)
        reader, number = draw.randrange(2), len(history.swiped) + 1
        line = history.lines.lines[reader]
        if draw.random() < 0.5 and line.is_open and len(history.swiped) < _MOST_SWIPES:
            data = frame(history.door.protocols[reader], number)
            history.swiped[number] = Swiped(history.machine.true_us, reader)
            line.unread.append(number)
            history.swiped[number].may_be_lost = line.arrive(data) < len(data)
    pass_time(0.05)
    for line in history.lines.lines:
        line.was_stopped(history.machine.true_us - began_us)
    for number, port in enumerate(history.door.ports):
        if port is not None:
            history.door.wake_port(number, is_first=True)


@event
def suspended(history: History, draw: Random) -> bool:
    _stopped_for(history, draw, history.machine.suspend, draw.choice((1.0, 60.0, 5_000.0)))
    return True


@event
def stalled(history: History, draw: Random) -> bool:
    """SIGSTOP, or a machine under load."""
    _stopped_for(history, draw, history.door.pass_time, draw.choice((0.3, 5.0, 400.0)))
    return True
