"""Copies of real outboxes with one to three random bits flipped, opened as the agent does.

`python -m tests.support.flipped_files COUNT [SEED]` prints how many started, how many were rebuilt, of how
many a quarantined copy was kept (rows in it could not be read), and the rows in the files that started.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from agent.errors import OutboxError, OutboxReplacedError
from agent.outbox import ErrorCount, LiveRows, Outbox, database
from agent.outbox.external import replay_queue
from tests.support.outbox_rig import commit, keep, looked_up, opened, recover, set_aside
from tests.support.swipes import NOON_US, instant, swipe

_ROWS = 60
_COMMITTED = 20
_ASIDE = 30
_NEW = 1_000
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - directories of its own below it
# A batch is sent, or the outbox is found damaged and replaced: each file needs few of these.
_MOST_STEPS = 20


@dataclass
class Outcome:
    """What became of one file."""

    started: bool
    rebuilt: bool = False
    quarantined: bool = False
    rows: int = 0
    refused: str = ""
    problems: list[str] = field(default_factory=list)


def originals(place: Path) -> list[tuple[bytes, str]]:
    """Outboxes with rows of every kind, as left by a clean stop, each with its outbox id."""
    contents = []
    for name in ("plain", "generation"):
        state_dir = place / name
        state_dir.mkdir()
        with closing(opened(state_dir)) as outbox:
            keep(outbox, _ROWS)
            set_aside(outbox, _ASIDE)
            commit(outbox, _COMMITTED, rejected=(3, 5))
            replay_queue.request(state_dir, [replay_queue.Range(7, 8, None, 2)])
            outbox.observe_clock(instant(NOON_US, boot_ms=70_000))
            if name == "generation":
                outbox.start_generation("another history")
            outbox_id = outbox.outbox_id
        contents.append(((state_dir / "outbox.db").read_bytes(), outbox_id))
    return contents


_NOT_DAMAGED = """SELECT row FROM swipes WHERE NOT EXISTS (
  SELECT 1 FROM held WHERE reason LIKE 'damaged%' AND n BETWEEN first_n AND last_n) ORDER BY n"""


def flipped(content: bytes, random: Random) -> bytes:
    """The content with one to three bits flipped, mostly in pages that are in use."""
    damaged = bytearray(content)
    used = max((at for at, byte in enumerate(content) if byte), default=0) + 1
    for _ in range(random.randint(1, 3)):
        damaged[random.randrange(used)] ^= 1 << random.randrange(8)
    return bytes(damaged)


def outcome(place: Path, content: bytes, outbox_id: str) -> Outcome:
    """Open the file, send what is pending, take a new swipe, and open it again."""
    state_dir = place / "state"
    state_dir.mkdir()
    (state_dir / "outbox.db").write_bytes(content)
    try:
        outbox = opened(state_dir)
    except OutboxError as error:
        found = Outcome(started=False, refused=f"{type(error).__name__}: {error}")
        if (state_dir / "outbox.db").read_bytes() != content:
            found.problems.append("a refused file was changed")
        if "\n" in str(error):
            found.problems.append("not one line")
        return found
    found = Outcome(started=True)
    with closing(outbox):
        outbox.keep(swipe(_NEW))
        sent = _send_all(outbox, found.problems)
    with closing(opened(state_dir)) as again:
        again.keep(swipe(_NEW + 1))
        found.rebuilt = again.outbox_id != outbox_id
    # A held row may have the card of another one: the flipped bit was in its card.
    raws = [raw for (raw,) in looked_up(state_dir, _NOT_DAMAGED)]
    rows = [card for card in map(_card, raws) if card is not None]
    found.rows = len(set(rows) & set(range(1, _ROWS + 1)))
    # The copy of a file whose rows were all read is deleted.
    found.quarantined = any(state_dir.glob("*.corrupt-*"))
    # By the event id: a flipped bit in a committed row, which is not read again, may change its card.
    ids = [found_id for found_id in map(_event_id, raws) if found_id is not None]
    if len(ids) != len(set(ids)):
        found.problems.append("a row is twice in the file")
    if not {_NEW, _NEW + 1} <= set(rows):
        found.problems.append("a new swipe is not in the file")
    expected = set(range(_COMMITTED + 1, _ROWS + 1)) - {_ASIDE}
    (unreadable,) = looked_up(state_dir, "SELECT unreadable FROM state")[0]
    missing = expected - set(sent)
    if len(missing) > unreadable + _held(state_dir):
        found.problems.append(f"{len(missing)} rows were neither sent nor counted: {sorted(missing)}")
    if [value for value in sent if value < _NEW] != sorted(set(sent) - {_NEW}):
        found.problems.append(f"sent out of order or twice: {sent}")
    return found


def _send_all(outbox: Outbox, problems: list[str]) -> list[int]:
    sent: list[int] = []
    for _ in range(_MOST_STEPS):
        try:
            recover(outbox)
            live = LiveRows(outbox)
            batch = live.after(live.committed, _ROWS, max_bytes=10**9)
            if batch is None:
                return sent
            cards = [_card(row) for row in batch.rows]
            sent += [card for card in cards if card is not None]
            if None in cards:
                problems.append("a damaged row was sent")
            live.commit(batch.last, ErrorCount(1, 0), None)
        except OutboxReplacedError:
            sent.clear()  # sending starts again; rows that were sent before have the same event_id
    problems.append("sending does not end")
    return sent


def _card(row: bytes) -> int | None:
    """The card of a row; None for a row that is damaged, which stays in the file for an operator."""
    try:
        return int(json.loads(row)["card_raw"], 16)
    except (ValueError, KeyError):
        return None


def _event_id(row: bytes) -> str | None:
    try:
        return str(json.loads(row)["event_id"])
    except (ValueError, KeyError):
        return None


def _held(state_dir: Path) -> int:
    return int(looked_up(state_dir, "SELECT count(*) FROM held WHERE kind = 'set_aside'")[0][0])


@contextmanager
def _small_log() -> Iterator[None]:
    """Without the growing of the log, which takes longer than all the rest."""
    usual = database._GROWN_WAL_BYTES
    database._GROWN_WAL_BYTES = 20_000
    try:
        yield
    finally:
        database._GROWN_WAL_BYTES = usual


def run(count: int, seed: int) -> tuple[Counter[str], dict[int, list[str]]]:
    """Counts of outcomes, and the problems by the seed of the file."""
    totals: Counter[str] = Counter()
    problems: dict[int, list[str]] = {}
    with (
        _small_log(),
        tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as directory,
    ):
        contents = originals(Path(directory))
        for number in range(seed, seed + count):
            random = Random(number)  # noqa: S311 - chances, not secrets
            content, outbox_id = random.choice(contents)
            with tempfile.TemporaryDirectory(dir=directory) as place:
                try:
                    found = outcome(Path(place), flipped(content, random), outbox_id)
                except Exception as error:  # noqa: BLE001 - the finding
                    found = Outcome(started=False, problems=[f"{type(error).__name__}: {error}"])
            totals["files"] += 1
            totals["started"] += found.started
            totals["refused"] += bool(found.refused)
            totals["rebuilt"] += found.rebuilt
            totals["quarantined"] += found.quarantined
            totals["rows"] += found.rows if found.started else 0
            totals["rows of files that started"] += _ROWS if found.started else 0
            if found.problems:
                problems[number] = found.problems
    return totals, problems


def main() -> None:
    """Run as a command."""
    logging.disable()
    totals, problems = run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    for name, value in totals.items():
        print(f"{value:8} {name}")  # noqa: T201 - the answer
    for number, found in problems.items():
        print(f"seed {number}: {found}")  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
