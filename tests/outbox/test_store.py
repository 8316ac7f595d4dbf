from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import (
    NotPermittedError,
    OutboxBusyError,
    OutboxError,
    OutboxReplacedError,
    OutboxVersionError,
)
from agent.outbox import ErrorCount, LiveRows, Outbox, database, read_counts
from agent.readers.events import raw_hex
from tests.support.outbox_rig import (
    PLENTY,
    at,
    commit,
    keep,
    keep_read_at,
    opened,
    purge,
    recomputed_chain,
    rows_after,
    token,
)
from tests.support.paths import ROOT
from tests.support.swipes import in_threads, swipe

KEEP_AND_DIE = """
import os, signal, sys
from pathlib import Path
from agent.outbox import Outbox
from tests.support.swipes import swipe
outbox = Outbox(Path(sys.argv[1]), agent_id="hq-lobby-1")
for value in range(1, 21):
    outbox.keep(swipe(value))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with closing(opened(tmp_path)) as outbox:
        yield outbox


def raws(rows: list[dict[str, Any]]) -> list[str]:
    return [row["card_raw"] for row in rows]


# --- taking swipes --------------------------------------------------------------------------


def test_a_kept_swipe_is_there_for_another_process_when_keep_returns(tmp_path: Path, outbox: Outbox) -> None:
    outbox.keep(swipe(7))

    with closing(sqlite3.connect(tmp_path / "outbox.db")) as other:
        (row,) = other.execute("SELECT row FROM swipes").fetchone()
    assert json.loads(row)["card_raw"] == raw_hex(40, 7)


def test_an_agent_killed_right_after_keep_has_lost_nothing(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    killed = subprocess.run([sys.executable, "-c", KEEP_AND_DIE, str(tmp_path)], env=environment, check=False)

    assert killed.returncode == -signal.SIGKILL
    with closing(opened(tmp_path)) as outbox:
        assert raws(rows_after(outbox)) == [raw_hex(40, value) for value in range(1, 21)]


def test_readers_that_keep_at_once_get_consecutive_numbers_each_in_its_own_order(outbox: Outbox) -> None:
    def read(reader: int) -> None:
        for value in range(25):
            outbox.keep(swipe(value, reader_id=f"RDR-{reader}"))

    in_threads(*(partial(read, reader) for reader in range(8)))

    rows = rows_after(outbox)
    assert [row["seq"] for row in rows] == list(range(1, 201))
    for reader in range(8):
        own = [row for row in rows if row["reader_id"] == f"RDR-{reader}"]
        assert raws(own) == [raw_hex(40, value) for value in range(25)]
    assert len({row["event_id"] for row in rows}) == 200


def test_the_chain_can_be_recomputed_from_the_rows_alone(outbox: Outbox) -> None:
    keep(outbox, 20)
    keep(outbox, 20)

    previous = outbox.outbox_id
    for m in rows_after(outbox):
        previous = recomputed_chain(previous, m)
        assert m["chain"] == previous


def test_the_chain_goes_on_after_a_restart(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        outbox.keep(swipe(1))
        last = rows_after(outbox)[-1]["chain"]

    with closing(opened(tmp_path)) as outbox:
        outbox.keep(swipe(2))

        assert outbox.last_seq == 2
        m = rows_after(outbox)[-1]
    assert m["chain"] == recomputed_chain(last, m)


def test_a_full_disk_keeps_none_of_the_swipes_and_says_so(outbox: Outbox) -> None:
    keep(outbox, 1)
    # SQLite raises a limit below the file's size to that size: not one page more.
    outbox.file._writer.execute("PRAGMA max_page_count=1")

    with pytest.raises(OutboxError, match="full") as caught:
        outbox.keep(*(swipe(value) for value in range(5000)))

    assert "df -h" in caught.value.hint
    assert outbox.last_seq == 1
    outbox.file._writer.execute("PRAGMA max_page_count=1000000")
    outbox.keep(swipe(2))
    assert raws(rows_after(outbox)) == [raw_hex(40, 1), raw_hex(40, 2)]


def test_a_failed_commit_raises_in_every_call_whose_swipe_was_in_it(outbox: Outbox) -> None:
    caught_errors: list[OutboxError] = []
    outbox.file._writer.execute("PRAGMA query_only=1")

    def try_to_keep() -> None:
        with pytest.raises(OutboxError) as caught:
            outbox.keep(swipe())
        caught_errors.append(caught.value)

    in_threads(*[try_to_keep] * 4)

    assert len(caught_errors) == 4
    assert all(raw_hex(40, 1) not in f"{error}{error.hint}" for error in caught_errors)


def test_a_lock_of_another_program_is_named_and_waited_for_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_S", 0.5)
    with closing(opened(tmp_path)) as outbox, closing(sqlite3.connect(tmp_path / "outbox.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        waits = []
        for _ in range(2):
            begin = time.monotonic()
            with pytest.raises(OutboxBusyError, match="locked") as caught:
                outbox.keep(swipe(1))
            waits.append(time.monotonic() - begin)
        assert f"sudo fuser -v {tmp_path / 'outbox.db'}" in caught.value.hint
        assert "disk errors" not in caught.value.hint
        assert waits[0] > 0.4 > waits[1]

        other.rollback()
        outbox.keep(swipe(1))

        assert raws(rows_after(outbox)) == [raw_hex(40, 1)]


# --- giving rows out ------------------------------------------------------------------------


def test_rows_come_in_order_after_a_given_one(outbox: Outbox) -> None:
    keep(outbox, 10)

    batch = LiveRows(outbox).after((0, 4), 3, max_bytes=PLENTY)

    assert batch is not None
    assert batch.last == (0, 7)
    rows = [json.loads(row) for row in batch.rows]
    assert [row["seq"] for row in rows] == [5, 6, 7]
    assert batch.first_token == f"5-{rows[0]['chain']}"
    assert batch.last_token == f"7-{rows[2]['chain']}"


def test_a_batch_ends_with_the_row_that_reaches_the_byte_limit(outbox: Outbox) -> None:
    keep(outbox, 10)
    first = LiveRows(outbox).after((0, 0), 1, max_bytes=1)
    assert first is not None

    batch = LiveRows(outbox).after((0, 0), PLENTY, max_bytes=len(first.rows[0]) + 1)

    assert batch is not None
    assert batch.last == (0, 2)


def test_at_least_one_row_is_given_however_large(outbox: Outbox) -> None:
    keep(outbox, 2)

    batch = LiveRows(outbox).after((0, 0), 10, max_bytes=1)

    assert batch is not None
    assert batch.last == (0, 1)


def test_nothing_comes_after_the_last_row(outbox: Outbox) -> None:
    assert LiveRows(outbox).after((0, 0), 10, max_bytes=PLENTY) is None

    keep(outbox, 1)

    assert LiveRows(outbox).after((0, 1), 10, max_bytes=PLENTY) is None


def test_a_batch_shows_no_card_when_printed(outbox: Outbox) -> None:
    keep(outbox, 1)

    assert raw_hex(40, 1) not in repr(LiveRows(outbox).after((0, 0), 1, max_bytes=1))


def test_what_is_committed_never_goes_backwards(outbox: Outbox) -> None:
    keep(outbox, 5)
    commit(outbox, 4)

    commit(outbox, 2)

    assert outbox.committed_seq == 4
    assert LiveRows(outbox).committed_token() == token(rows_after(outbox)[3])


def test_what_was_marked_is_known_after_a_restart(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 5)
        commit(outbox, 4)
        before = LiveRows(outbox).committed_token()

    with closing(opened(tmp_path)) as outbox:
        assert outbox.committed_seq == 4
        assert LiveRows(outbox).committed_token() == before


def test_a_swipe_that_was_never_kept_cannot_be_marked(outbox: Outbox) -> None:
    keep(outbox, 1)

    with pytest.raises(OutboxReplacedError, match="no swipe 2"):
        LiveRows(outbox).commit((0, 2), ErrorCount(0, 0), None)

    assert outbox.committed_seq == 0


def test_before_the_first_commit_there_is_no_token(outbox: Outbox) -> None:
    keep(outbox, 1)

    assert LiveRows(outbox).committed_token() is None


# --- tokens ---------------------------------------------------------------------------------


def test_every_own_token_is_explained_as_its_number(outbox: Outbox) -> None:
    keep(outbox, 10)

    assert [LiveRows(outbox).position_of(token(row)) for row in rows_after(outbox)] == [
        at(outbox, seq) for seq in range(1, 11)
    ]


def test_the_last_committed_token_is_explained_after_its_row_was_purged(outbox: Outbox) -> None:
    keep(outbox, 3)
    commit(outbox, 3)
    purge(outbox, 1)

    committed = LiveRows(outbox).committed_token()

    assert committed is not None
    assert LiveRows(outbox).position_of(committed) == (0, 3)


def test_the_token_of_another_history_is_not_explained(outbox: Outbox, tmp_path: Path) -> None:
    keep(outbox, 3)
    (elsewhere := tmp_path / "elsewhere").mkdir()

    with closing(opened(elsewhere)) as other:
        keep(other, 3)
        foreign = [token(row) for row in rows_after(other)]

    assert [LiveRows(outbox).position_of(text) for text in foreign] == [None] * 3


@given(st.text(max_size=40) | st.from_regex(r"\A-?[0-9]{1,30}-[0-9a-fA-F]{0,20}\Z"))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # explain() changes nothing
def test_no_other_text_is_explained_not_even_before_the_first_commit(outbox: Outbox, text: str) -> None:
    assert LiveRows(outbox).position_of(text) is None


@pytest.mark.parametrize("form", ["01-{}", " 1-{}", "1-{}\n", "+1-{}", "1-{}0", "2-{}", "1{}"])
def test_a_token_that_is_almost_ours_is_not_explained(outbox: Outbox, form: str) -> None:
    keep(outbox, 3)

    text = form.format(rows_after(outbox)[0]["chain"])

    assert LiveRows(outbox).position_of(text) is None


# --- one agent, and others that look on -----------------------------------------------------


def test_a_second_outbox_on_the_same_directory_names_the_process_that_has_it(
    tmp_path: Path, outbox: Outbox
) -> None:
    with pytest.raises(OutboxBusyError, match=rf"pid {os.getpid()}\b"):
        opened(tmp_path)

    assert outbox.last_seq == 0


def test_a_failed_open_leaves_the_directory_free(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(OutboxVersionError):
        opened(tmp_path)

    (tmp_path / "outbox.db").unlink()

    opened(tmp_path).close()


def test_the_counts_are_the_same_from_inside_and_outside(tmp_path: Path, outbox: Outbox) -> None:
    keep_read_at(outbox, *((second, True) for second in range(10)))
    commit(outbox, 6)
    purge(outbox, 2)

    counts = read_counts(tmp_path)

    assert (counts.last_seq, counts.committed_seq, counts.pending, counts.kept) == (10, 6, 4, 4)
    assert (outbox.last_seq, outbox.committed_seq, outbox.pending) == (10, 6, 4)
    assert counts.outbox_id == outbox.outbox_id
    assert counts.oldest_pending_row is not None
    assert json.loads(counts.oldest_pending_row)["card_raw"] == rows_after(outbox, 6)[0]["card_raw"]
    assert "card_raw" not in repr(counts)


def test_a_stopped_agents_outbox_can_be_counted(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 3)

    assert read_counts(tmp_path).pending == 3


@pytest.mark.usefixtures("unprivileged")
def test_a_directory_that_cannot_be_written_is_refused_with_a_reason() -> None:
    with pytest.raises(NotPermittedError, match="cannot write in the state directory /etc"):
        opened(Path("/etc"))
