"""What must hold after a history has healed."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from agent.outbox import read_counts
from agent.outbox.database import open_external
from agent.rows import UNKNOWN_LINK
from tests.simulation.history import FailedError, History, number_in
from tests.simulation.service import card, door_events, swipes
from tests.support.outbox_rig import recomputed_chain

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SYNCED_MS = 16_000  # the kernel's limit for a clock that it reports as synchronised
_LEAP_MS = 1_000
_LARGEST_BYTES = 3_000_000
_MOST_CHANNELS = 60
Row = dict[str, Any]


def check(history: History) -> None:
    """Raise FailedError for anything that was promised and does not hold."""
    problems = [
        *what_arrived(history),
        *_held_once(history),
        *_one_history_per_id(history),
        *_numbers_from_one(history),
        *_bounded(history),
    ]
    if problems:
        raise FailedError("; ".join(problems[:6]))


def what_arrived(history: History) -> list[str]:
    """What is wrong with the rows in the table, and with what is held in place of some."""
    return [
        *_once(history),
        *_events_once(history),
        *_in_order(history),
        *_held_with_guilt(history),
        *_right_times(history),
    ]


def _rows(history: History, *, replay: bool) -> list[Row]:
    return [row for row in swipes(history.service.landed) if row.get("replay", False) is replay]


def _once(history: History) -> list[str]:
    live = Counter(card(row) for row in _rows(history, replay=False))
    again = Counter(card(row) for row in _rows(history, replay=True))
    held = {number for _, numbers, _ in held_rows(history) for number in numbers}
    stored = stored_numbers(history) if history.went_back else set()
    lost, doubled = [], []
    for number, swiped in history.swiped.items():
        is_there = live[number] or again[number] or number in held
        if not is_there and not swiped.may_be_lost and (not swiped.went_back or number in stored):
            lost.append(number)
        if live[number] > 1 and not swiped.may_be_doubled:
            doubled.append(number)
    problems = []
    if lost := _unexcused(history, lost):
        problems.append(f"lost: {lost}")
    if doubled and not history.is_damaged:
        problems.append(f"doubled: {doubled}")
    if unknown := set(live) - set(history.swiped):
        problems.append(f"nobody swiped: {sorted(unknown)}")
    ids: dict[int, set[str]] = defaultdict(set)
    for row in swipes(history.service.landed):
        ids[card(row)].add(row["event_id"])
    excused = {number for number, swiped in history.swiped.items() if swiped.may_be_doubled}
    if several := [number for number, found in ids.items() if len(found) > 1 and number not in excused]:
        problems.append(f"several event ids: {several}")
    return problems


def _unexcused(history: History, lost: list[int]) -> list[int]:
    """Those of the lost swipes that no exception of docs/promise.md names."""
    service = history.service
    is_late = service.had_late_counts or bool(history.figures.drawn["odd_status"])
    is_unheard = is_late and service.had_several_channels
    if is_unheard or history.had_other_history or history.was_disk_full:
        # An error is not heard if it is counted, or its count readable, only after the channel was changed.
        # A full disk keeps no rows in which one may still be counted.
        not_loaded = not_loaded_numbers(history)
        lost = [number for number in lost if number not in not_loaded]
    if not history.is_damaged:
        return lost
    # Where the record of a hold is damaged, its row counts as delivered.
    refused = {card(row) for row in swipes(service.refused)}
    lost = [number for number in lost if number not in refused]
    counted = read_counts(history.door.state_dir).unreadable + history.lost_holds
    return [] if len(lost) <= counted else lost


def _events_once(history: History) -> list[str]:
    """No door event is in its table twice, unless an older state was brought back."""
    if history.went_back or history.is_restored or history.is_damaged:
        return []
    ids = Counter(row["event_id"] for row in door_events(history.service.landed))
    return [f"door event {event_id} is there {count} times" for event_id, count in ids.items() if count > 1]


def not_loaded_numbers(history: History) -> set[int]:
    """The swipes whose rows the server could not load."""
    return {card(row) for row in swipes(history.service.not_loaded)}


def _in_order(history: History) -> list[str]:
    if history.is_restored or history.is_damaged:
        return []
    first = list(dict.fromkeys(card(row) for row in _rows(history, replay=False)))
    # Of a row that may arrive twice, only the second one may be loaded.
    late = {number for number in not_loaded_numbers(history) if history.swiped[number].may_be_doubled}
    problems = []
    for reader in range(2):  # what two readers send at the same time has no order
        numbers = [number for number in first if _is_of(history, number, reader) and number not in late]
        problems += [f"out of order: {pair}" for pair in pairwise(numbers) if pair[0] > pair[1]]
    return problems


def _is_of(history: History, number: int, reader: int) -> bool:
    return number in history.swiped and history.swiped[number].reader == reader


def held_rows(history: History) -> list[tuple[str, list[int], str]]:
    """Each hold that is not released: its kind, the swipes in it, its reason."""
    with closing(open_external(history.door.state_dir, "ro")) as connection:
        holds = connection.execute(
            "SELECT kind, first_n, last_n, reason FROM held WHERE released = 0"
        ).fetchall()
        found = []
        for kind, first_n, last_n, reason in holds:
            rows = connection.execute(
                "SELECT row FROM swipes WHERE n BETWEEN ? AND ?", (first_n, last_n)
            ).fetchall()
            found.append((kind, [number for (row,) in rows if (number := number_in(row))], reason))
    return found


def stored_numbers(history: History) -> set[int]:
    """The swipes whose rows are in the file."""
    with closing(open_external(history.door.state_dir, "ro")) as connection:
        return {
            number for (row,) in connection.execute("SELECT row FROM swipes") if (number := number_in(row))
        }


def _held_with_guilt(history: History) -> list[str]:
    problems = []
    refused = {card(row) for row in swipes(history.service.refused)}
    not_loaded = not_loaded_numbers(history)
    for kind, numbers, reason in held_rows(history):
        if reason.startswith(("damaged", "lost", "unreadable")) or "recover" in reason:
            if not history.is_damaged:
                problems.append(f"held without damage: {numbers} ({reason})")
        elif kind == "set_aside" and not set(numbers) <= refused:
            problems.append(f"set aside without guilt: {numbers} ({reason})")
        elif kind == "rejected" and not set(numbers) & not_loaded:
            # Purged because the disk was full, or because rows of a channel that went back count as committed
            # until it is opened; the others of the range were sent again; or a false count.
            # Of several errors only the last has a bound: if they may be in several replays, each has a hold.
            is_one_of_several = bool(history.figures.drawn["replay_asked"]) and not reason.startswith("1 ")
            is_purged = (history.was_disk_full or history.went_back) and not numbers
            was_sent_again = any(
                number in history.swiped and history.swiped[number].went_back for number in numbers
            )
            # Not heard while the status was odd; then the server took its rows back.
            is_of_other_rows = history.went_back and bool(history.figures.drawn["odd_status"])
            is_excused = is_purged or was_sent_again or is_one_of_several or is_of_other_rows
            if is_excused or history.service.answered["false"]:
                continue
            problems.append(f"rejected without guilt: {numbers} ({reason})")
    return problems


def _held_once(history: History) -> list[str]:
    """No error makes a second hold. A server, or a door, that forgets may count it again."""
    service = history.service
    forgets = history.is_restored or history.is_damaged or history.went_back or service.answered["false"]
    if forgets or history.figures.drawn["replay_asked"]:  # errors among several replays: a hold for each
        return []
    with closing(open_external(history.door.state_dir, "ro")) as connection:
        (holds,) = connection.execute("SELECT count(*) FROM held WHERE kind = 'rejected'").fetchone()
    errors = len(service.not_loaded)
    return [f"{holds} holds for {errors} errors"] if holds > errors else []


def _numbers_from_one(history: History) -> list[str]:
    numbers = {row["seq"] for row in swipes(history.service.landed) if row["seq"] < 1}
    return [f"numbers below one were sent: {sorted(numbers)[:5]}"] if numbers else []


def _one_history_per_id(history: History) -> list[str]:
    """One row per number of an id, without holes, each with the chain of the one before it."""
    # Nothing shows that a backup is old once its channel was deleted: its numbers are given again.
    is_hidden = history.is_restored and history.figures.drawn["channels_deleted"]
    if history.has_lost_frames or is_hidden:
        return []
    problems = []
    by_id: dict[str, dict[int, Row]] = defaultdict(dict)
    service = history.service
    taken = swipes((*service.landed, *service.not_loaded))
    last = Counter[str]()  # the last number taken, by id
    for row in taken:
        last[row["outbox_id"]] = max(last[row["outbox_id"]], row["seq"])
    # The server knows nothing of a refused row: a restored backup may give its number to another one.
    refused = [] if history.is_restored else swipes(service.refused)
    for row in (*taken, *refused):
        known = by_id[row["outbox_id"]].setdefault(row["seq"], row)
        if known["event_id"] != row["event_id"]:
            problems.append(f"two rows are {row['outbox_id']} {row['seq']}")
    set_aside = [*numbers_set_aside(history), *history.released]
    for outbox_id, numbered in by_id.items():
        holes = set(range(1, last[outbox_id] + 1)) - set(numbered)
        holes -= {seq for of_id, seq in set_aside if of_id == outbox_id}
        if holes and not (history.is_damaged or history.is_restored or history.went_back):
            problems.append(f"{outbox_id} has holes: {sorted(holes)[:5]}")
        for seq, row in numbered.items():
            before = row.get("chain_before") or (numbered[seq - 1]["chain"] if seq - 1 in numbered else None)
            if before not in {None, UNKNOWN_LINK} and recomputed_chain(before, row) != row["chain"]:
                problems.append(f"the chain is broken at {outbox_id} {seq}")
    return problems


def numbers_set_aside(history: History) -> list[tuple[str, int]]:
    """Outbox id and number of each row that was set aside; it may have been refused under an earlier id."""
    with closing(open_external(history.door.state_dir, "ro")) as connection:
        begins = connection.execute("SELECT first_n, outbox_id FROM generation").fetchall()
        ranges = connection.execute("SELECT first_n, last_n FROM held WHERE kind = 'set_aside'").fetchall()
    found = []
    for first_n, last_n in ranges:
        for n in range(first_n, last_n + 1):
            begins_n, outbox_id = max((one for one in begins if one[0] <= n), default=(n, ""))
            found.append((outbox_id, n - begins_n + 1))
    return found


def _right_times(history: History) -> list[str]:
    if history.is_time_void or history.is_damaged:
        return []
    problems, seen = [], set()
    for row in swipes(history.service.landed):
        swiped = history.swiped.get(card(row))
        if swiped is None or (swiped.may_be_doubled and card(row) in seen):
            continue
        seen.add(card(row))
        at_us = (datetime.fromisoformat(row["event_timestamp"]) - _EPOCH) // timedelta(microseconds=1)
        off_ms = abs(at_us - swiped.true_us) / 1_000
        if swiped.may_be_lost and at_us > swiped.true_us:  # its first frames, with the process
            off_ms = max(0, at_us - max(swiped.true_us, swiped.repeated_us)) / 1_000
        if off_ms > uncertainty_ms(row) + _LEAP_MS * history.figures.drawn["leap_second"] + 1:
            problems.append(
                f"swipe {card(row)}: {row['clock']}, off by {off_ms:.0f} ms, "
                f"stated {row.get('time_uncertainty_ms')}"
            )
    return problems


def uncertainty_ms(row: Row) -> float:
    """How wrong a row's time may be, by what the README says of its columns."""
    if row["clock"] == "synced":
        return _SYNCED_MS
    unknown = 1_000 if row["clock"] == "corrected" else math.inf
    return float(row.get("time_uncertainty_ms", unknown))


def _bounded(history: History) -> list[str]:
    problems = []
    size = sum(path.stat().st_size for path in history.door.state_dir.iterdir())
    if size > _LARGEST_BYTES:
        problems.append(f"the state directory has {size} bytes for {len(history.swiped)} swipes")
    if len(history.service.channels) > _MOST_CHANNELS:
        problems.append(f"{len(history.service.channels)} channels")
    hours = (history.machine.true_us - history.first_us) / 3_600e6
    if len(history.network.requests) > 1_000 + 60 * len(history.swiped) + 500 * hours:
        problems.append(f"{len(history.network.requests)} requests in {hours:.1f} hours")
    return problems
