"""What happens to the disk, the process, the clock, and what operators do."""

from __future__ import annotations

import contextlib
import errno
import shutil
from random import Random

from agent.errors import AgentError
from agent.outbox.external import holds, replay_queue
from agent.outbox.file_errors import QUERY_ERRORS
from tests.simulation.checks import held_rows, numbers_set_aside
from tests.simulation.disk import flip_bits, overwrite_page
from tests.simulation.history import History
from tests.simulation.kinds import event, extent

_ERRORS = (errno.EIO, errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


@event
def disk_fails(history: History, draw: Random) -> bool:
    """Operations fail: some of them, or all for a while."""
    kinds = draw.choice(("w", "f", "wf", "m", "o", "r", "rwfmo"))
    code = draw.choice(_ERRORS) if kinds != "r" else errno.EIO
    # SQLite's error of an index of the log that cannot grow means a full disk, whatever the code was.
    history.was_disk_full |= kinds not in {"f", "o", "r"}
    if draw.random() < 0.6:
        history.disk.fail(kinds, code, skip=draw.randrange(40), count=draw.choice((1, 1, 2, 5, 30)))
    else:
        history.disk.fail(kinds, code)
        history.window(extent(draw) / 10, history.disk.recover)
    if "r" in kinds:
        history.is_damaged = True  # a sector that cannot be read is damage
    return True


@event
def flush_fails(history: History, draw: Random) -> bool:
    """A flush fails, and perhaps what the agent does next."""
    kinds, count = draw.choice(("w", "wf", "wfmo")), draw.choice((1, 1, 2, 3, 10))
    history.was_disk_full = True  # as in disk_fails()
    history.disk.fail(kinds, errno.EIO, begins="f", skip=draw.randrange(20), count=count)
    return True


@event
def disk_short_writes(history: History, draw: Random) -> bool:
    history.was_disk_full = True  # SQLite takes a short write for a full disk
    history.disk.fail("w", draw.choice((-1, -1, -2)), skip=draw.randrange(30), count=draw.choice((1, 3, 20)))
    return True


@event
def disk_full(history: History, draw: Random) -> bool:
    history.was_disk_full = True
    history.disk.set_room(draw.choice((0, 0, 4_096, 20_000, 60_000)))
    history.machine.free_blocks = 10
    machine, disk = history.machine, history.disk

    def end() -> None:
        disk.set_room(-1)
        machine.free_blocks = 5_000_000

    history.window(extent(draw), end)
    return True


@event
def disk_locked(history: History, draw: Random) -> bool:
    """Another process holds the file."""
    if draw.random() < 0.5:
        history.disk.fail("l", errno.EAGAIN, skip=draw.randrange(20), count=draw.choice((1, 5, 100)))
    else:
        history.disk.fail("l", errno.EAGAIN)
        history.window(extent(draw) / 10, history.disk.recover)
    return True


@event
def bits_flip(history: History, draw: Random) -> bool:
    history.is_damaged = True
    name = draw.choice(("outbox.db", "outbox.db", "outbox.db-wal"))
    if name.endswith("-wal"):
        history.lose_frames()
        history.is_log_damaged = True
    with history.disk.healthy():
        return flip_bits(history.door.state_dir / name, draw, draw.randint(1, 3))


@event
def pages_damaged(history: History, draw: Random) -> bool:
    """A page of the file is damaged while no process runs, and perhaps of each file that replaces it."""
    history.is_damaged = True
    for _ in range(draw.choice((1, 2, 3))):
        history.stop()
        with history.disk.healthy():
            overwrite_page(history.door.state_dir / "outbox.db", draw)
        history.door.due = {"start": history.now_s + 1.0}
        history.pass_until(history.now_s + 10.0)
    return True


@event
def restart(history: History, draw: Random) -> bool:
    """A clean stop, and a start after a while; often as another version, which changes nothing here."""
    history.stop()
    history.door.due = {"start": history.now_s + draw.choice((0.1, 3.0, 100.0))}
    return True


@event
def stopped_for_hours(history: History, draw: Random) -> bool:
    """Meanwhile a time server answers, for a while or to the end; after the start the clock may be set."""
    history.stop()
    history.machine.ntp_comes()
    if draw.random() < 0.7:
        history.machine.ntp_goes()
    history.door.due = {"start": history.now_s + draw.choice((3_000.0, 10_000.0, 30_000.0))}
    history.pass_until(history.door.due["start"] + 20.0)
    if draw.random() < 0.5:
        clock_set_by_hand(history, draw)
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
    history.door.agent_id = draw.choice(
        [name for name in ("door", "gate", "bay") if name != history.door.agent_id]
    )
    history.door.due = {"start": history.now_s + 1.0}
    return True


@event
def other_pipe(history: History, _: Random) -> bool:
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
def backup_restored(history: History, _: Random) -> bool:
    if history.backup is None:
        return False
    history.stop()
    for swiped in history.swiped.values():
        swiped.may_be_lost = swiped.may_be_doubled = True
    history.is_restored = True
    history.door.restore(history.backup)
    history.door.due = {"start": history.now_s + 1.0}
    return True


@event
def time_service(history: History, draw: Random) -> bool:
    """A time server answers soon after each boot, as for most doors."""
    history.machine.answers_after_us = draw.choice((6e6, 40e6))
    return True


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
    if history.door.agent is not None:
        history.door.agent.clock.now()  # in truth an idle uploader reads it every 10 s
    history.machine.set_by_hand(draw.choice((-1, 1)) * 10 ** draw.uniform(-1, 8))
    return True


@event
def leap_second(history: History, _: Random) -> bool:
    history.machine.leap()
    return True


@event
def replay_asked(history: History, draw: Random) -> bool:
    if history.door.agent is None:
        return False
    last = max(1, history.door.agent.outbox.state.committed_seq)
    wanted = draw.choice(
        (
            replay_queue.Wanted(kind="rejected"),
            replay_queue.Wanted(kind="set_aside"),
            replay_queue.Wanted(first_seq=max(1, last - draw.randint(0, 10)), last_seq=last),
            replay_queue.Wanted(),
        )
    )
    with contextlib.suppress(AgentError):
        ranges = replay_queue.find(history.door.state_dir, wanted)
        replay_queue.request(history.door.state_dir, ranges)
        return True
    return False


@event
def holds_released(history: History, _: Random) -> bool:
    if history.door.agent is None:
        return False
    released: list[int] = []
    with contextlib.suppress(AgentError):
        with history.disk.healthy(), contextlib.suppress(*QUERY_ERRORS):  # damaged, and not found yet
            released = [number for _kind, numbers, _reason in held_rows(history) for number in numbers]
            history.released += numbers_set_aside(history)
        if not holds.release(history.door.state_dir, None):
            return False
        for number in released:
            if number in history.swiped:
                history.swiped[number].may_be_lost = True
        return True
    return False
