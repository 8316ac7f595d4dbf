"""Moves the rows of quarantined files to the outbox, in bounded steps beside new swipes.

Theory of operation

`recovering` in the state record names each quarantined file, the part of the work that is next, and the
numbers that are still to be moved (progress.Recovery). A step moves at most _STEP_ROWS rows in one
transaction that also stores the progress: a crash or a power cut at any moment repeats at most that step.

    STATE -> ALL | PENDING -> MOVED -> (all files MOVED) -> KEPT -> (the name is removed)

    STATE    the state record could not be read: take the newest whole copy in the bytes. Without a copy: ALL,
             every row is moved, and the committed position is derived from the rows and their old copies.
             First the pending rows of every older file are moved that is not known to be finished.
    PENDING  rows after the committed position, so that delivery continues early.
    KEPT     committed rows, for replays; left in the quarantined file where the disk has no room for them.

Rows keep their numbers. They are found by four means, each for what the one before could not give:
1. by number through SQLite, skipping the pages that fail;
2. by their bytes, in pages that no B-tree reaches any more, without the sectors that the disk cannot read
   (record_bytes: the checksum contains `n` and proves it; rows of schemas 1-3: n is base + seq);
3. by their chain, where the bytes around a row are damaged: it follows a row with a number;
4. by number, where only a row whose checksum fails is left: it is held when it is read to be sent.
Rows of schemas 1-3 of which no number is left are numbered again.

Invariants
- No row is sent while an older pending row may be missing (OutboxState.is_withheld).
- The recovered pending rows get a new generation, as one small write: the old id's history is no longer known
  to be complete. What cannot be proved committed is sent again, with the same event_id.
- Numbers are not used again: a number whose row is lost is held for an operator; numbers that no row was ever
  given are a hold that is released already.
- A row is moved whole or counted in `unreadable`; its bytes are never repaired.
- A step needs room for its own rows only. When the disk is short of space, the pages of the quarantined file
  whose rows are all moved and on disk are given back first (Holes).

Not thread-safe: one thread steps it. `file.write_lock` is held for the transaction of a step only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from agent.errors import OutboxFullError, OutboxUnavailableError
from agent.log.message_ids import MessageId, fields
from agent.outbox import holds
from agent.outbox.disk_room import free_bytes
from agent.outbox.file_errors import translated
from agent.outbox.records import ADDRESS
from agent.outbox.recovery import lost_state, progress, quarantine, recovered_ids
from agent.outbox.recovery.damaged_file import DamagedFile
from agent.outbox.recovery.found_rows import FoundRows, RenumberedRows, held_when_read
from agent.outbox.recovery.holes import Holes
from agent.outbox.recovery.moved_rows import MovedRows
from agent.outbox.recovery.progress import Recovery
from agent.outbox.recovery.progress_record import ProgressRecord
from agent.outbox.recovery.ranges import subtract
from agent.outbox.recovery.rebuild import remove_copies
from agent.outbox.recovery.recovering_file import RecoveringFile
from agent.outbox.state import write_record
from agent.outbox.timing.timestamps import STORED, StoredRow

_log = logging.getLogger(__name__)

# One transaction: a swipe waits for it at most.
_STEP_ROWS = 500
_STEP_S = 0.05  # including the time that the rows take to be read
_INSERT = f"INSERT OR IGNORE INTO swipes({STORED}) VALUES (?, ?, ?, ?, ?, ?, ?)"
# What stays free for swipes and the WAL, and how often a moved row is written until it is in the file.
_ROOM_BYTES, _WRITTEN = 3_000_000, 4
_PUNCHED_BYTES = 8_000_000  # freed by one pass
_NOTE_S = 2.0  # between two notes of how far a search is

Steps = Generator[None, None, None]


class RowMover:
    """Executes what `recovering` describes; step() does one bounded thing."""

    def __init__(self, file: RecoveringFile, state_dir: Path) -> None:
        self._file = file
        self._progress = ProgressRecord(file)
        self._state_dir = state_dir
        self._steps: Steps | None = None
        self._new = MovedRows(state_dir)
        self._holes: Holes | None = None
        self._searched: tuple[str, DamagedFile] | None = None  # the quarantined file that is open
        self._noted_s = 0.0
        self._moved = 0

    def step(self) -> bool:
        """One step; False if there is nothing to recover.

        Raises OutboxUnavailableError, also without room, and OutboxReplacedError; the next step() continues.
        """
        if not self._progress.is_of_open_outbox():
            self.close()
        if self._steps is None:
            if not self._file.state.recoveries:
                return False
            self._progress.begin()
            self._steps = self._work()
        try:
            with self._file.recovering(), translated(self._file.file.path):
                next(self._steps)
                self._note_search()
        except StopIteration:
            self.close()
        except BaseException:
            self.close()
            raise
        return True

    def close(self) -> None:
        """Close the quarantined file. The next step() opens it again."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None
        self._searched = None
        self._new.close()

    # --- the work, a step between two yields ------------------------------------------------------

    def _work(self) -> Steps:
        while one := self._progress.first(progress.STATE, progress.ALL, progress.PENDING):
            with self._opened(one) as damaged:
                if one.part == progress.STATE:
                    yield from self._find_state(one, damaged)
                    yield
                else:
                    yield from self._move_pending(one, damaged)
        if self._file.state.is_withheld:
            self._end_withholding()
            yield
        while one := self._progress.first(progress.KEPT):
            with self._opened(one) as damaged:
                is_whole = yield from self._move_kept(one, damaged)
            self._finish(one, is_whole=is_whole)
            yield

    @contextlib.contextmanager
    def _opened(self, one: Recovery) -> Iterator[DamagedFile]:
        path = self._state_dir / one.name
        # Rows that are numbered again have other numbers than in the file: its pages are not given back.
        self._holes = (
            Holes(path, self._new.has_all) if one.part in {progress.PENDING, progress.KEPT} else None
        )
        with contextlib.closing(DamagedFile(path)) as damaged:
            self._searched = one.name, damaged
            yield damaged
            self._searched = None

    def _find_state(self, one: Recovery, damaged: DamagedFile) -> Steps:
        """The state record from its copies in the bytes, and what was still to be moved to this file."""
        copies = yield from damaged.states()
        state = self._file.state
        newest, recoveries = lost_state.newest_and_recoveries(
            self._state_dir, one, copies, listed=state.recoveries
        )
        changed: dict[str, Any] = {}
        # An older file has an older position: it counts only if no newer file has one, nor derives it.
        is_derived = any(other.part == progress.ALL for other in state.recoveries)
        if newest is not None and not (state.committed_n or is_derived):
            names = ("committed_n", "committed_chain", "unreadable", *ADDRESS)
            changed = {name: getattr(newest, name) for name in names}
        self._progress.write(one, recoveries, **changed)

    def _move_pending(self, one: Recovery, damaged: DamagedFile) -> Steps:
        yield from self._move_numbered(one, damaged)
        if self._gaps(one) or one.part == progress.ALL or damaged.had_errors:
            yield from self._move_found(one, damaged)
        position: dict[str, Any] = {}
        if one.part == progress.ALL:
            position["committed_n"] = yield from self._find_position(one, damaged)
        for first, last in self._gaps(one):
            # Where no whole copy of a row was found.
            found = damaged.numbered(first, last)
            yield from self._move(held_when_read(one[0]) if one is not None else None for one in found)
        if damaged.unreadable_bytes:
            _log.warning("outbox: the disk could not read %d bytes of %s", damaged.unreadable_bytes, one.name)
        hides_newest = damaged.had_errors and not one.last_n
        is_whole = self._progress.latest(one).is_whole and not (damaged.unreadable_bytes or hides_newest)
        moved = one._replace(part=progress.MOVED, first_n=one.end_n + 1, is_whole=is_whole)
        self._progress.write(one, [moved], **position)

    def _find_position(self, one: Recovery, damaged: DamagedFile) -> Generator[None, None, int]:
        """The committed position where no copy of the state record is left.

        What cannot be proved committed is sent again, with the same event_id. What is missing before the
        first row was purged, so it was committed.
        """
        first_n = self._new.number("SELECT min(n) FROM swipes WHERE n <= ?", one.end_n)
        if first_n:
            marks = yield from damaged.marks()
            bases = self._new.bases((), self._file.state.record.legacy_n)
            found = (base + marks.get(outbox_id, 0) for outbox_id, base in bases.items())
            return max([first_n - 1, *found])
        renumbered = RenumberedRows(damaged)
        yield from self._move(renumbered.rows())
        with self._file.writing() as connection:
            connection.execute("DELETE FROM timings")  # they refer to numbers that rows no longer have
        return renumbered.committed

    def _move_found(self, one: Recovery, damaged: DamagedFile) -> Steps:
        """Rows by their bytes; committed ones, which are not needed for delivery, while there is room."""
        state = self._file.state
        bases = self._new.bases(state.generations, state.record.legacy_n)
        found = FoundRows(damaged, bases, self._new.has_page)
        yield from self._move(
            row
            for row in found.numbered()
            if row is None or (row.n <= one.end_n and (row.n >= one.begin_n or self._has_room()))
        )
        if found.unnumbered:
            yield from self._move(found.linked(self._new.ends(one.end_n)))

    def _move_kept(self, one: Recovery, damaged: DamagedFile) -> Generator[None, None, bool]:
        """Move committed rows as far as there is room. Returns whether the file can be deleted."""
        first_n = max(one.first_n, damaged.first_n)
        if first_n > one.first_n:
            self._progress.write(one, [one._replace(begin_n=first_n, first_n=first_n)])
        try:
            yield from self._move_numbered(self._progress.latest(one), damaged)
        except OutboxFullError:
            _log.warning(
                "outbox: there is no room for all committed swipes of %s: those that are left in it "
                "cannot be replayed",
                one.name,
            )
            return False
        return one.is_whole and not damaged.had_errors

    def _end_withholding(self) -> None:
        """Every pending row that can be read is there: hold what is lost, start their new generation."""
        state = self._file.state
        end_n = max(one.end_n for one in state.recoveries)
        # What an earlier rebuild found is held already; the tails of several files may overlap.
        held = self._new.select("SELECT first_n, last_n FROM held WHERE kind = 'set_aside'")
        tails: list[tuple[int, int]] = []
        for one in state.recoveries:
            tails += subtract(self._never_given(one), [*held, *tails])
        gaps = subtract(self._new.gaps(state.committed_n + 1, end_n), [*tails, *held])
        lost = sum(last - first + 1 for first, last in gaps)
        kept = [
            one.up_to(state.committed_n)._replace(
                part=progress.KEPT, begin_n=1, first_n=1, is_whole=one.is_whole and not lost
            )
            for one in state.recoveries
        ]
        with self._progress.writing() as connection:
            record = self._file.state.record
            record = record._replace(recovering=progress.written(kept), unreadable=record.unreadable + lost)
            for first, last in tails:
                holds.hold_lost(connection, first, last, holds.NO_SWIPE, released=True)
            for first, last in gaps:
                holds.hold_lost(connection, first, last, "lost: not found in the damaged file")
            write_record(connection, record)
            recovered_ids.start_generation(connection, state, end_n)
            recovered_ids.add_oldest_generation(connection)
        _log.warning(
            "outbox: %d swipes were moved to the new file, %d are lost; delivery continues",
            self._moved,
            lost,
            extra=fields(MessageId.OUTBOX_SALVAGED),
        )

    def _never_given(self, one: Recovery) -> list[tuple[int, int]]:
        """The numbers up to the next generation that no row was given."""
        newest = self._new.number("SELECT max(n) FROM swipes WHERE n <= ?", one.end_n)
        first = max(newest, one.last_n, self._file.state.committed_n) + 1
        return [(first, one.end_n)] if first <= one.end_n else []

    def _finish(self, one: Recovery, *, is_whole: bool) -> None:
        # What was moved is on disk before the quarantined file is deleted.
        self._progress.write(one, [one._replace(first_n=one.end_n + 1)])
        if is_whole:
            quarantine.remove(self._state_dir / one.name)
        left = [other for other in self._file.state.recoveries if other.name != one.name]
        self._progress.write(one, [])
        with self._progress.writing() as connection:
            recovered_ids.add_oldest_generation(connection)
        remove_copies(self._state_dir, left)
        _log.info(
            "outbox: the recovery of %s is complete; it is %s",
            one.name,
            "deleted, as all of its rows were read" if is_whole else "kept",
        )

    # --- steps --------------------------------------------------------------------------------------

    def _move_numbered(self, one: Recovery, damaged: DamagedFile) -> Steps:
        """Move rows by number. A row that is not as it was stored is left for later means."""
        found = damaged.numbered(one.first_n, one.end_n)
        return self._move((row[0] if row is not None and row[1] else None for row in found), of=one)

    def _move(self, found: Iterable[StoredRow | None], *, of: Recovery | None = None) -> Steps:
        """Store rows in steps; `of`: rows in the order of numbers, whose progress is stored with them.

        None: no row was found for a while; a step may end there.
        """
        step: list[StoredRow] = []
        begun = time.monotonic()
        for row in found:
            if row is not None:
                step.append(row)
            if len(step) >= _STEP_ROWS or time.monotonic() - begun >= _STEP_S:
                if step:
                    self._store(step, of)
                yield
                step, begun = [], time.monotonic()
        if step:
            self._store(step, of)
            yield

    def _store(self, step: list[StoredRow], of: Recovery | None) -> None:
        known = self._new.among([row.n for row in step])
        new = [row for row in step if row.n not in known]
        if not new and of is None:
            return
        self._make_room(_WRITTEN * sum(len(row.row) for row in new))
        with self._file.file.write_lock:
            self._progress.ensure_same()
            record = self._file.state.record
            if of is not None:
                record = self._progress.changed(
                    of, [self._progress.latest(of)._replace(first_n=step[-1].n + 1)]
                )
            # Not flushed: a power cut loses the progress together with the rows.
            with self._file.writing(durable=False) as connection:
                # The bytes may have several copies of a row.
                self._moved += connection.executemany(_INSERT, new).rowcount
                write_record(connection, record)
            self._file.state = dataclasses.replace(self._file.state, record=record)

    def _note_search(self) -> None:
        """Store how far the search of the bytes is, for `status`: seldom, not flushed.

        Without room, or while another process holds a lock, it is left out: an error would end the search.
        """
        now_s = time.monotonic()
        if self._searched is None or now_s - self._noted_s < _NOTE_S:
            return
        self._noted_s = now_s
        name, damaged = self._searched
        for one in self._file.state.recoveries:
            if one.name == name and one.searched_bytes != damaged.searched_bytes:
                with contextlib.suppress(OutboxUnavailableError):
                    self._progress.write(
                        one, [one._replace(searched_bytes=damaged.searched_bytes)], durable=False
                    )

    def _has_room(self, size: int = 0) -> bool:
        return free_bytes(self._state_dir) >= _ROOM_BYTES + size

    def _make_room(self, size: int) -> None:
        """Give pages of the quarantined file back if the disk is short of space. Raises OutboxFullError."""
        if self._has_room(size):
            return
        if self._holes is not None:
            with self._progress.writing() as connection:  # flushed: given back only if on disk elsewhere
                write_record(connection, self._file.state.record)
            with contextlib.suppress(OSError):
                self._holes.punch(_PUNCHED_BYTES)
        if not self._has_room(size):
            raise OutboxFullError("no room for the rows of the damaged outbox", hint="free space: df -h")

    def _gaps(self, one: Recovery) -> list[tuple[int, int]]:
        """The numbers that pending rows can have and that have no row in the new file."""
        return self._new.gaps(one.begin_n, one.end_n)
