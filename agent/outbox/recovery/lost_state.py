"""The state of a damaged file without a readable state record, from copies of the record in its bytes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from agent.outbox.records import StateRecord
from agent.outbox.recovery import progress, quarantine
from agent.outbox.recovery.progress import Recovery


def newest_and_recoveries(
    state_dir: Path, one: Recovery, copies: Collection[StateRecord], *, listed: Collection[Recovery]
) -> tuple[StateRecord | None, list[Recovery]]:
    """The newest copy that can be of this file, and what takes the place of its recovery `one`.

    That is the next part of it, and what was still to be moved to this file when it was damaged, up to its
    own last number: the numbers after it are given to new swipes. `listed`: the recoveries of the new file.
    """
    names = {other.name for other in listed}
    older = [
        copy.name
        for copy in quarantine.unfinished(state_dir)
        if quarantine.number_of(copy.name) < quarantine.number_of(one.name) and copy.name not in names
    ]
    possible = [copy for copy in copies if copy.committed_n <= one.end_n]
    if not possible:
        # Older files may have rows that were not moved: first these, as the position is derived from all.
        others = [Recovery(name, progress.STATE, 1, 1, 0, one.end_n, is_whole=False) for name in older]
        return None, [*others, one._replace(part=progress.ALL)]
    newest = max(possible, key=_age)
    others = [other.up_to(one.end_n) for other in _still_to_move(newest, possible) if other.name in older]
    first_n = newest.committed_n + 1
    return newest, [one._replace(part=progress.PENDING, begin_n=first_n, first_n=first_n), *others]


def _still_to_move(newest: StateRecord, copies: Collection[StateRecord]) -> list[Recovery]:
    """The recoveries of all copies: none is surely the newest.

    One that a copy does not have was complete, or not begun. To repeat a complete one is harmless.
    """
    found = {other.name: other for other in progress.readable(newest.recovering)}
    for copy in copies:
        for other in progress.readable(copy.recovering):
            if other.name not in found or other.is_before(found[other.name]):
                found[other.name] = other
    return sorted(found.values(), key=lambda other: quarantine.number_of(other.name), reverse=True)


def _age(copy: StateRecord) -> tuple[int, int, int]:
    """Orders copies of the state record by age, as far as they show it."""
    names = (other.name for other in progress.readable(copy.recovering))
    return copy.committed_n, copy.switches, max(map(quarantine.number_of, names), default=0)
