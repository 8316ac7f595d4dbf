"""What can happen to a door: each event draws its own extent, and returns False where it cannot happen now."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable
from functools import reduce
from operator import xor
from random import Random

from agent.emulator.anything import Generator
from agent.errors import AgentError
from agent.outbox.external import holds, replay_queue
from tests.simulation.disk import flip_bits
from tests.simulation.history import History, Swiped
from tests.simulation.service import card

Event = Callable[[History, Random], bool]
EVENTS: dict[str, Event] = {}
# In every history: how much more frequent than a fault.
ALWAYS = {"swipe": 4.0, "burst": 0.4}
_MOST_SWIPES = 500
_MOST_BAD = 6
_ERRORS = (errno.EIO, errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def event(function: Event) -> Event:
    """Register an event under the name of its function."""
    EVENTS[function.__name__] = function
    return function


def _extent(draw: Random) -> float:
    """How long a fault lasts: seconds, minutes or hours."""
    return draw.choice((1.0, 10.0, 100.0, 1_000.0, 10_000.0)) * draw.uniform(0.3, 2.0)


# --- readers --------------------------------------------------------------------------------------


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
    return True


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
    history.pass_until(history.now_s + 0.2)
    history.door.arrive(draw.randrange(2), draw.randbytes(draw.randint(1, 60)) + b"\x03\r\n", 1_000)
    history.pass_until(history.now_s + 0.2)
    return True


@event
def frame_damaged(history: History, draw: Random) -> bool:
    """A digit of a frame with a checksum is another one: no card."""
    reader = draw.randrange(2)
    protocol = history.door.protocols[reader]
    if protocol == "twn4":
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
    data, line = frame("rdm6300", number), door.lines.lines[reader]
    history.pass_until(history.now_s + 0.2)  # stored, and delivered or not
    for _ in range(3):
        door.arrive(reader, data, 50_000)
    if door.readers is not process or history.machine.true_us - history.swiped[number].true_us > 900_000:
        return True
    if draw.random() < 0.5:
        history.kill()
    else:
        history.stop()
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
        if f"port {number}" in history.door.due:
            history.door.due[f"port {number}"] = history.now_s
    history.window(_extent(draw) / 10, line.plug)
    return True


@event
def chatter(history: History, draw: Random) -> bool:
    """A reader sends more than the kernel buffers while nothing reads it."""
    if history.door.is_running:
        return False
    reader = draw.randrange(2)
    line = history.lines.lines[reader]
    for swiped in history.swiped.values():
        swiped.may_be_lost |= swiped.reader == reader and bool(line.unread)
    line.arrive(b"\xff" * 5_000)
    return True


# --- network ----------------------------------------------------------------------------------------


@event
def network_down(history: History, draw: Random) -> bool:
    network = history.network
    network.is_down = True
    history.window(_extent(draw), lambda: setattr(network, "is_down", False))
    return True


@event
def network_slow(history: History, draw: Random) -> bool:
    network = history.network
    network.bytes_per_s, network.way_s = 10 ** draw.uniform(2.3, 5), 10 ** draw.uniform(-2, 1)

    def end() -> None:
        network.bytes_per_s, network.way_s = 1e7, 0.02

    history.window(_extent(draw), end)
    return True


@event
def network_breaks_large(history: History, draw: Random) -> bool:
    network = history.network
    network.takes_bytes = int(10 ** draw.uniform(3.1, 4.5))
    history.window(_extent(draw), lambda: setattr(network, "takes_bytes", 1 << 40))
    return True


@event
def network_loses(history: History, draw: Random) -> bool:
    network, share = history.network, draw.choice((0.1, 0.4, 0.9))
    chances = Random(draw.random())

    def lost() -> str:
        return chances.choice(("before", "after", "after")) if chances.random() < share else ""

    network.loses = lost
    history.window(_extent(draw), lambda: setattr(network, "loses", str))
    return True


@event
def network_drops_idle(history: History, draw: Random) -> bool:
    history.network.drops_idle = True
    history.window(_extent(draw), lambda: setattr(history.network, "drops_idle", False))
    return True


# --- the service --------------------------------------------------------------------------------------


@event
def any_answer(history: History, draw: Random) -> bool:
    service = history.service
    names = draw.sample(("hostname", "token", "open", "append", "status"), draw.randint(1, 5))
    drawn = {name: Generator(draw.getrandbits(32), draw.choice((0.1, 0.5, 0.9))) for name in names}
    service.generators |= drawn

    def end() -> None:
        for name in drawn:
            service.generators.pop(name, None)

    history.window(_extent(draw), end)
    return True


_STATUSES = (400, 401, 403, 404, 408, 409, 410, 413, 415, 422, 429, 429, 500, 502, 503, 503, 504)
_CODES = (
    *("", "", "4", "390101", "390422", "ERR_PIPE_DOES_NOT_EXIST_OR_NOT_AUTHORIZED", "STALE_PIPE_CACHE"),
    *("ERR_CHANNEL_HAS_INVALID_ROW_SEQUENCER", "ERR_CHANNEL_MUST_BE_REOPENED", "ERR_MALFORMED_REQUEST"),
)


@event
def endpoint_fails(history: History, draw: Random) -> bool:
    service = history.service
    names = draw.sample(("hostname", "token", "open", "append", "status"), draw.randint(1, 2))
    answer = draw.choice(_STATUSES), draw.choice(_CODES), draw.choice((None, None, 0, 3, 5_000))
    for name in names:
        service.endpoint_fails[name] = answer

    def end() -> None:
        for name in names:
            service.endpoint_fails.pop(name, None)

    history.window(_extent(draw), end)
    return True


@event
def pipe_moves(history: History, draw: Random) -> bool:
    history.service.move()
    history.service.old_host_status = draw.choice((410, 410, 404, 401, 403, 503))
    return True


@event
def tokens_expire(history: History, _: Random) -> bool:
    history.service.expire_tokens()
    return True


@event
def channel_invalid(history: History, _: Random) -> bool:
    history.service.invalidate()
    return bool(history.service.channels)


@event
def commits_slow(history: History, draw: Random) -> bool:
    service = history.service
    service.lag_s = draw.choice((2.0, 50.0, 700.0, 5_000.0))
    history.window(_extent(draw), lambda: setattr(service, "lag_s", 0.3))
    return True


@event
def commits_stall(history: History, draw: Random) -> bool:
    service = history.service
    service.is_stalled = True
    history.window(_extent(draw), lambda: setattr(service, "is_stalled", False))
    return True


@event
def other_writer(history: History, draw: Random) -> bool:
    names = [name for name in history.service.channels if not name.endswith("-replay")]
    if not names:
        return False
    history.service.other_writer(draw.choice(names))
    return True


@event
def other_history(history: History, draw: Random) -> bool:
    """Another writer moves the channel: what was in flight may come again."""
    names = sorted(history.service.channels)
    if not names or history.door.agent is None:
        return False
    mark_in_flight(history)
    token = f"{draw.randint(1, 400)}-{draw.getrandbits(128):032x}"
    history.service.other_writer(draw.choice(names), token)
    history.had_other_history = True
    return True


def mark_in_flight(history: History) -> None:
    """What the door does not know to be committed may arrive twice, or is in the table already."""
    for swiped in history.swiped.values():
        swiped.may_be_doubled = True


@event
def channels_of_another_history(history: History, draw: Random) -> bool:
    """Every channel that is opened has a token of another history."""
    service = history.service
    mark_in_flight(history)
    history.had_other_history = True
    service.foreign_token = f"{draw.randint(1, 400)}-{draw.getrandbits(128):032x}"
    history.window(_extent(draw), lambda: setattr(service, "foreign_token", None))
    return True


@event
def server_goes_back(history: History, draw: Random) -> bool:
    """The last committed rows of a channel are no longer in the table, and its token is an earlier one."""
    service, door = history.service, history.door
    if door.agent is None or door.agent.outbox.state.recoveries:
        return False
    name = f"{door.agent_id}-{door.agent.outbox.state.sending.outbox_id}"
    rows = [landed for landed in service.landed if landed.channel == name]
    channel = service.channels.get(name)
    if channel is None or not rows or channel.committed is None:
        return False
    with history.disk.healthy(), door.agent.outbox.file.reading() as connection:
        (oldest,) = connection.execute("SELECT min(n) FROM swipes").fetchone()
    base = door.agent.outbox.state.base
    lost = rows[-draw.randint(1, 6) :]
    if oldest is None or base + lost[0].row["seq"] < oldest or len(lost) == len(rows):
        return False
    before = rows[-len(lost) - 1].row
    service.landed = [landed for landed in service.landed if landed not in lost]
    channel.committed = f"{before['seq']}-{before['chain']}"
    channel.buffered.clear()
    channel.is_invalid = True
    history.went_back = True
    for landed in lost:
        history.swiped[card(landed.row)].went_back = True
    return True


@event
def channels_deleted(history: History, _: Random) -> bool:
    """After 30 idle days: everything was committed, and the door knows."""
    door = history.door
    if door.agent is None or door.agent.outbox.pending or door.agent.outbox.state.recoveries:
        return False
    if history.service.channels and not any(one.buffered for one in history.service.channels.values()):
        history.service.forget_channel()
        return True
    return False


def _bad(history: History, draw: Random, kind: str) -> bool:
    service = history.service
    if len(service.guilty_cards) >= _MOST_BAD:
        return False
    for ahead in range(draw.randint(1, 3)):
        number = len(history.swiped) + 1 + ahead * draw.randint(1, 3)
        service.bad_cards[number] = kind
        service.guilty_cards.add(number)
    return True


@event
def rows_refused(history: History, draw: Random) -> bool:
    history.service.refusal_status = draw.choice((400, 400, 413, 422, 403))
    return _bad(history, draw, "refused")


@event
def rows_not_loaded(history: History, draw: Random) -> bool:
    history.service.errors_count_after_s = draw.choice((0.0, 1.0, 100.0))
    history.service.had_late_counts |= history.service.errors_count_after_s > 0
    return _bad(history, draw, "not loaded")


@event
def pipe_repaired(history: History, _: Random) -> bool:
    is_news = bool(history.service.bad_cards)
    history.service.bad_cards.clear()
    return is_news


@event
def requests_too_large(history: History, draw: Random) -> bool:
    service = history.service
    service.takes_bytes = int(10 ** draw.uniform(2.9, 4))
    history.window(_extent(draw), lambda: setattr(service, "takes_bytes", 4_000_000))
    return True


@event
def zstd_refused(history: History, draw: Random) -> bool:
    service = history.service
    service.refused_encoding = draw.choice(("zstd", "gzip"))
    history.window(_extent(draw), lambda: setattr(service, "refused_encoding", ""))
    return True


@event
def odd_status(history: History, draw: Random) -> bool:
    service = history.service
    service.status_code = draw.choice(("SUCCESS", "ACTIVE", "ERR_CHANNEL_MUST_BE_REOPENED", "STALE", ""))
    odd = (None, "3", 3.5, 2**63, -1, "\ud800", [1])
    names = ("created_on_ms", "rows_error_count", "last_error_offset_upper_bound", "last_error_message")
    service.bookkeeping = {name: draw.choice(odd) for name in draw.sample(names, draw.randint(0, 3))}

    def end() -> None:
        service.status_code, service.bookkeeping = "SUCCESS", {}

    history.window(_extent(draw), end)
    return True


@event
def interim_answers(history: History, draw: Random) -> bool:
    service = history.service
    service.interim = draw.randint(1, 5)
    history.window(_extent(draw), lambda: setattr(service, "interim", 0))
    return True


@event
def date_off(history: History, draw: Random) -> bool:
    """A device in between answers with its own time, as long as the network is up."""
    service = history.service
    service.date_off_s = draw.choice((-7_200.0, -90.0, 90.0, 7_200.0, 1e9))
    history.is_time_void = True
    history.window(_extent(draw), lambda: setattr(service, "date_off_s", 0.0))
    return True


@event
def key_rotated(history: History, draw: Random) -> bool:
    """The file is replaced, the account has the new key, and the agent is told, or not."""
    history.key_number = 1 - history.key_number
    shutil.copy(history.keys.files[history.key_number], history.key_file)
    new = history.keys.keys[history.key_number].fingerprint
    old_too = draw.random() < 0.5
    history.service.fingerprints = {new} | (history.service.fingerprints if old_too else set())
    if draw.random() < 0.5 and history.door.agent is not None:
        history.door.agent.client.reload_key()
        history.door.agent.uploader.retry_now()
    return True


# --- the disk -----------------------------------------------------------------------------------------


@event
def disk_fails(history: History, draw: Random) -> bool:
    """Operations fail: some of them, or all for a while."""
    kinds = draw.choice(("w", "f", "wf", "m", "o", "r", "rwfmo"))
    code = draw.choice(_ERRORS) if kinds != "r" else errno.EIO
    if draw.random() < 0.6:
        history.disk.fail(kinds, code, skip=draw.randrange(40), count=draw.choice((1, 1, 2, 5, 30)))
    else:
        history.disk.fail(kinds, code)
        history.window(_extent(draw) / 10, history.disk.recover)
    if "r" in kinds:
        history.is_damaged = True  # a sector that cannot be read is damage
    return True


@event
def disk_short_writes(history: History, draw: Random) -> bool:
    history.disk.fail("w", draw.choice((-1, -1, -2)), skip=draw.randrange(30), count=draw.choice((1, 3, 20)))
    return True


@event
def disk_full(history: History, draw: Random) -> bool:
    history.disk.set_room(draw.choice((0, 0, 4_096, 20_000, 60_000)))
    history.machine.free_blocks = 10
    machine, disk = history.machine, history.disk

    def end() -> None:
        disk.set_room(-1)
        machine.free_blocks = 5_000_000

    history.window(_extent(draw), end)
    return True


@event
def disk_locked(history: History, draw: Random) -> bool:
    """Another process holds the file."""
    if draw.random() < 0.5:
        history.disk.fail("l", errno.EAGAIN, skip=draw.randrange(20), count=draw.choice((1, 5, 100)))
    else:
        history.disk.fail("l", errno.EAGAIN)
        history.window(_extent(draw) / 10, history.disk.recover)
    return True


@event
def bits_flip(history: History, draw: Random) -> bool:
    history.is_damaged = True
    name = draw.choice(("outbox.db", "outbox.db", "outbox.db-wal"))
    if name.endswith("-wal"):
        # After a crash SQLite ends its log at the first frame whose checksum is wrong.
        for swiped in history.swiped.values():
            swiped.may_be_lost = swiped.may_be_doubled = True
    return flip_bits(history.door.state_dir / name, draw, draw.randint(1, 3))


# --- the process --------------------------------------------------------------------------------------


@event
def restart(history: History, draw: Random) -> bool:
    """A clean stop, and a start after a while; often as another version, which changes nothing here."""
    history.stop()
    history.door.due = {"start": history.now_s + draw.choice((0.1, 3.0, 100.0))}
    return True


@event
def killed(history: History, _: Random) -> bool:
    history.kill()
    return True


@event
def killed_in_an_operation(history: History, draw: Random) -> bool:
    history.disk.freeze_after(draw.randrange(60))
    return True


@event
def power_cut(history: History, draw: Random) -> bool:
    history.kill(lambda old, new: history.disk.cut_power(old, new, draw))
    history.lines.power_off()
    machine = history.machine
    if draw.random() < 0.5:
        machine.wakes_at_us = max(machine.wakes_at_us, machine.wall_us)  # it saves its clock
    else:
        machine.wakes_at_us = 0
    machine.boot(off_s=draw.choice((1.0, 60.0, 90_000.0)))
    history.door.due = {"start": history.now_s + 5.0}
    return True


@event
def renamed(history: History, draw: Random) -> bool:
    """The agent id in the configuration is another one."""
    history.stop()
    history.door.agent_id = draw.choice([name for name in ("door", "gate", "bay") if name != history.door.agent_id])
    history.door.due = {"start": history.now_s + 1.0}
    return True


@event
def other_pipe(history: History, draw: Random) -> bool:
    history.stop()
    history.door.pipe = "OTHER_PIPE" if history.door.pipe == "PIPE" else "PIPE"
    history.door.due = {"start": history.now_s + 1.0}
    return True


@event
def other_machine(history: History, draw: Random) -> bool:
    """The SD card is moved into another Pi."""
    history.stop()
    history.machine.move(draw.choice("123456789"))
    history.lines.power_off()
    history.machine.wakes_at_us = 0
    history.machine.boot(off_s=60.0)
    history.door.due = {"start": history.now_s + 1.0}
    return True


@event
def backup_made(history: History, draw: Random) -> bool:
    history.stop()
    if history.backup is not None:
        shutil.rmtree(history.backup)
    history.backup = history.place / f"backup-{draw.getrandbits(40)}"
    shutil.copytree(history.door.state_dir, history.backup)
    history.door.due = {"start": history.now_s + 1.0}
    return True


@event
def backup_restored(history: History, draw: Random) -> bool:
    if history.backup is None:
        return False
    history.stop()
    for swiped in history.swiped.values():
        swiped.may_be_lost = swiped.may_be_doubled = True
    history.is_restored = True
    history.door.restore(history.backup)
    history.door.due = {"start": history.now_s + 1.0}
    return True


# --- the clock ----------------------------------------------------------------------------------------


@event
def ntp_comes(history: History, _: Random) -> bool:
    history.machine.ntp_comes()
    return True


@event
def ntp_goes(history: History, _: Random) -> bool:
    had = history.machine.has_ntp
    history.machine.ntp_goes()
    return had


@event
def clock_set_by_hand(history: History, draw: Random) -> bool:
    history.machine.set_by_hand(draw.choice((-1, 1)) * 10 ** draw.uniform(-1, 8))
    return True


def _stopped_for(history: History, draw: Random, pass_time: Callable[[float], object], seconds: float) -> None:
    """Nothing of the agent runs for a while; cards that are presented wait in the kernel."""
    history.door.poll()
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
    for number, port in enumerate(history.door.ports):
        if port is not None:
            history.door.due[f"port {number}"] = history.now_s


@event
def suspended(history: History, draw: Random) -> bool:
    _stopped_for(history, draw, history.machine.suspend, draw.choice((1.0, 60.0, 5_000.0)))
    return True


@event
def stalled(history: History, draw: Random) -> bool:
    """SIGSTOP, or a machine under load."""
    _stopped_for(history, draw, history.door.pass_time, draw.choice((0.3, 5.0, 400.0)))
    return True


@event
def leap_second(history: History, _: Random) -> bool:
    history.machine.leap()
    return True


# --- operators ------------------------------------------------------------------------------------------


@event
def replay_asked(history: History, draw: Random) -> bool:
    if history.door.agent is None:
        return False
    first = draw.randint(1, 40)
    wanted = draw.choice(
        (
            replay_queue.Wanted(kind="rejected"),
            replay_queue.Wanted(kind="set_aside"),
            replay_queue.Wanted(first_seq=first, last_seq=first + draw.randint(0, 10)),
        )
    )
    with contextlib.suppress(AgentError):
        ranges = replay_queue.find(history.door.state_dir, wanted)
        replay_queue.request(history.door.state_dir, ranges)
        history.has_replays = True
        return True
    return False


@event
def holds_released(history: History, draw: Random) -> bool:
    if history.door.agent is None or draw.random() < 0.5:
        return False
    with contextlib.suppress(AgentError):
        released = history.held_rows()
        if not holds.release(history.door.state_dir, None):
            return False
        for number in released:
            if number in history.swiped:
                history.swiped[number].may_be_lost = True
        return True
    return False


__all__ = ["ALWAYS", "EVENTS", "card", "event", "frame", "present"]
