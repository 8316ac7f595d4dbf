"""The course of a history: what is planned, the end of all faults, and the checks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from random import Random

from agent.service import upload_loop
from tests.simulation import machine_events, server_events
from tests.simulation.checks import check
from tests.simulation.history import FailedError, Figures, History, Plan
from tests.simulation.kinds import ALWAYS, COMPANIONS, EVENTS, FIRST, LATE_COUNTS_S
from tests.simulation.reader_events import present

_HOUR_S = 3_600.0
# After the last fault: a Retry-After that is honoured for an hour, probes in pauses that double.
_HEALS_IN_S = 3 * _HOUR_S
# A new outbox id waits for up to a day after others without a commit.
_LONGEST_SWITCH_S = 26 * _HOUR_S
_IDLE_FLUSHES = 20
REGISTERED = (machine_events, server_events)  # importing them fills EVENTS
KINDS = tuple(EVENTS)


def plan(seed: int) -> Plan:
    """Draw a history: a swarm of kinds with their own rates, and a time scale."""
    draw = Random(f"{seed} plan")
    kinds = sorted(EVENTS.keys() - ALWAYS - {FIRST})
    chosen = draw.sample(kinds, draw.randint(3, draw.choice((12, 12, 30))))
    chosen += sorted({COMPANIONS[kind] for kind in chosen if kind in COMPANIONS} - set(chosen))
    weights = {kind: 10 ** draw.uniform(-1, 0.7) for kind in chosen} | dict(ALWAYS)
    scale_s = draw.choice((0.3, 3.0, 30.0, 300.0, 2_000.0))
    events = [(0.0, FIRST, draw.getrandbits(40))] if draw.random() < 0.5 else []
    for _ in range(draw.choice((10, 20, 40)) + len(chosen)):
        after_s = draw.expovariate(1.0) * scale_s * draw.choice((0.02, 1.0, 1.0, 3.0))
        kind = draw.choices(list(weights), list(weights.values()))[0]
        events.append((after_s, kind, draw.getrandbits(40)))
    return Plan(seed, events)


def only(whole: Plan, kept: Sequence[int]) -> Plan:
    """The plan with these of its events."""
    return Plan(whole.seed, [whole.events[number] for number in kept])


def run(history: History) -> Figures:
    """Everything that is planned, the end of all faults, and the checks. Raises what is wrong."""
    figures = history.figures
    with history.installed():
        history.door.start()
        for after_s, kind, seed in history.plan.events:
            history.pass_until(history.now_s + after_s)
            if EVENTS[kind](history, Random(seed)):
                figures.drawn[kind] += 1
            history.service.commit_what_is_due()
        heal(history)
        for line in history.lines.lines:
            for number in line.discarded:
                history.swiped[number].may_be_lost = True
        check(history)
    figures.swipes = len(history.swiped)
    figures.requests = len(history.network.requests)
    figures.simulated_s = (history.machine.true_us - history.first_us) / 1e6
    return figures


def heal(history: History) -> None:
    """Every fault ends; the door runs until everything is delivered."""
    lasting = _lasting(history)
    for _, _, end in history.windows:
        end()
    history.windows.clear()
    history.disk.recover()
    history.disk.freeze_after(-1)
    history.network.recover()
    history.service.recover()
    for line in history.lines.lines:
        if not line.is_plugged:
            line.plug()
    history.machine.free_blocks = 5_000_000
    upload_loop._CLOCK_READ_EVERY_S = _HOUR_S
    if not history.machine.has_ntp and history.draw.random() < 0.6:
        history.machine.ntp_comes()
    if history.is_damaged:  # what no query has found yet, the next start finds
        history.stop()
    if not history.door.is_running and not history.door.due:
        history.door.start()
    if lasting:
        for end in lasting:
            end()
        _present_two(history)
        _deliver(history)
        history.network.recover()
        history.service.recover()
    _deliver(history)
    _check_an_idle_day(history)


def _check_an_idle_day(history: History) -> None:
    """Two swipes more, then nothing: no request, few flushes."""
    # A door that had nothing to send asks nothing: what the server has lost shows at the next swipe.
    _present_two(history)
    _deliver(history)
    while True:
        # Errors may be counted late: one more poll. Then nothing is left to do.
        history.pass_until(history.now_s + LATE_COUNTS_S)
        outbox_id = _outbox_id(history)
        requests, flushes = len(history.network.requests), history.disk.flushes
        history.pass_until(history.now_s + _HOUR_S)
        if _outbox_id(history) == outbox_id:
            break
        _deliver(history)  # that hour was not idle: damage was found, and the file replaced
    if len(history.network.requests) > requests:
        raise FailedError(f"an idle door sent {len(history.network.requests) - requests} requests in an hour")
    if history.disk.flushes - flushes > _IDLE_FLUSHES:
        raise FailedError(f"an idle door flushed {history.disk.flushes - flushes} times in an hour")


def _outbox_id(history: History) -> str | None:
    return history.door.agent.outbox.outbox_id if history.door.agent is not None else None


def _present_two(history: History) -> None:
    for _ in range(2):
        present(history, history.draw)
        history.pass_until(history.now_s + 5.0)


def _lasting(history: History) -> list[Callable[[], None]]:
    """What a door has to cope with for ever, half of what there is at the moment: each sets it again."""
    service, network = history.service, history.network
    found: list[tuple[object, str, object]] = [
        (service, "refused_encoding", service.refused_encoding),
        (service, "takes_bytes", service.takes_bytes),
        (service, "interim", service.interim),
        (network, "takes_bytes", max(2_500, network.takes_bytes)),
        (network, "bytes_per_s", max(1_000.0, network.bytes_per_s)),
    ]
    if "status" in service.endpoint_fails:
        found.append((service, "endpoint_fails", {"status": (503, "", None, 1.0)}))
    return [
        functools.partial(setattr, where, name, value)
        for where, name, value in found
        if history.draw.random() < 0.5
    ]


def _deliver(history: History) -> None:
    """Run until nothing is pending."""
    service = history.service
    has_switched = service.had_several_channels or history.had_other_history or history.is_restored
    ends_s = history.now_s + _HEALS_IN_S + 2 * (history.now_s - history.first_us / 1e6)
    ends_s += _LONGEST_SWITCH_S if has_switched else 0.0
    while not _is_done(history):
        if history.now_s > ends_s:
            agent = history.door.agent
            status = agent.uploader.status() if agent is not None else None
            pending = agent.outbox.pending if agent is not None else None
            raise FailedError(f"{pending} swipes are not delivered long after the last fault: {status}")
        history.pass_until(min(history.door.due.values(), default=history.now_s + 1.0))


def _is_done(history: History) -> bool:
    agent = history.door.agent
    if agent is None or agent.outbox.needs_inspection.is_set() or agent.outbox.state.recoveries:
        return False
    if history.door.waiting() or agent.outbox.pending:
        return False
    with history.disk.healthy(), agent.outbox.file.reading() as connection:
        (replays,) = connection.execute("SELECT count(*) FROM replays").fetchone()
    return replays == 0 and not agent.outbox.is_switch_due
