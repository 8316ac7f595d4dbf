"""What keep() returned for is there after a power cut, however little the disk had flushed."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from agent import rows
from agent.outbox import Outbox, schema
from tests.support.outbox_life import AGENT_ID
from tests.support.outbox_rig import recover
from tests.support.power_cut import Life, Promise, cut, faults_in, lay_out, record
from tests.support.recorded_disk import DAMAGES, EVERYTHING, NOISE, NOTHING, Damage
from tests.support.rounds import ROUNDS, chances
from tests.support.swipes import swipe

_TRIES = 10  # to find what is wrong by drawn power cuts


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A damaged outbox says so in a line, a thousand of them in a thousand lines."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


@pytest.fixture
def image_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "image"
    directory.mkdir()
    return directory


def some_places(life: Life, random: Random, count: int) -> list[int]:
    """Half of them while the file is opened, which is when most happens to it."""
    opened = next(at for at, done in enumerate(life.records) if done.kind == "M")
    return [
        *(random.randrange(opened) for _ in range(count // 2)),
        *(random.randrange(opened, len(life.records)) for _ in range(count - count // 2)),
    ]


def broken(
    life: Life,
    places: Sequence[int],
    image_dir: Path,
    random: Random,
    *,
    damages: Sequence[Damage] = DAMAGES,
    may_be_damaged: bool = False,
) -> list[str]:
    """What the outbox made of each survivor image that it should not have."""
    found: list[str] = []
    for what, image, promise in cut(life, places, random, damages):
        lay_out(image, image_dir)
        faults = faults_in(image_dir, promise)
        if not may_be_damaged and any(image_dir.glob("*.corrupt-*")):
            faults.append("the file was damaged and had to be replaced")
        found += [f"{what}: {fault}" for fault in faults]
    return found


@pytest.mark.parametrize("number", range(4 * ROUNDS))
def test_a_power_cut_at_any_moment_costs_no_kept_swipe(
    recorder: Path, state_dir: Path, image_dir: Path, number: int
) -> None:
    random = chances("power cut", number)
    promise = Promise()
    found: list[str] = []

    # Each life begins with what a cut left of the one before.
    for _ in range(3):
        life = record(recorder, state_dir, steps=300, seed=random.getrandbits(32), promise=promise)
        places = some_places(life, random, 12)
        found += broken(life, places[1:], image_dir, random)
        _, image, promise = next(cut(life, places[:1], random, [random.choice(DAMAGES)]))
        lay_out(image, state_dir)

    assert found == []


def test_a_power_cut_in_the_first_moments_of_an_outbox_leaves_one_that_works(
    recorder: Path, state_dir: Path, image_dir: Path
) -> None:
    random = chances("first start")
    life = record(recorder, state_dir, steps=3, seed=1)
    early = [at for at, done in enumerate(life.records) if done.kind != "W"]

    found = broken(life, [*early, *some_places(life, random, 20)], image_dir, random)

    assert found == []


def row_of_version_1(outbox_id: str, seq: int) -> tuple[str, bytes]:
    """A chain of 16 digits, and a row that contains its position."""
    members = json.loads(rows.render(swipe(seq), rows.RowLink(f"event-{seq}", "", ""), agent_id=AGENT_ID)[1])
    chain = members.pop("chain")[:16]
    members |= {"recorded_at": members["event_timestamp"], "outbox_id": outbox_id, "seq": seq}
    members |= {"chain": chain, "replay": False}
    return chain, json.dumps(members, separators=(",", ":")).encode()


def test_a_power_cut_while_an_older_file_is_brought_up_to_date_costs_nothing(
    recorder: Path, state_dir: Path, image_dir: Path
) -> None:
    random = chances("migration")
    with closing(sqlite3.connect(state_dir / "outbox.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        schema.migrate(connection, to=1)
        (outbox_id,) = connection.execute("SELECT outbox_id FROM state").fetchone()
        for value in range(1, 201):
            chain, row = row_of_version_1(outbox_id, value)
            connection.execute("INSERT INTO swipes VALUES (?, ?, ?, ?)", (value, chain, None, row))
    promise = Promise(kept=frozenset(range(1, 201)))

    life = record(recorder, state_dir, steps=20, seed=2, promise=promise)
    migrating = next(at for at, done in enumerate(life.records) if done.kind == "M")
    places = [random.randrange(migrating) for _ in range(30 * ROUNDS)]
    found = broken(life, places, image_dir, random)

    assert found == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_power_cut_while_a_damaged_file_is_replaced_costs_no_row_that_could_be_read(
    recorder: Path, state_dir: Path, image_dir: Path, number: int
) -> None:
    random = chances("salvage", number)
    record(recorder, state_dir, steps=300, seed=random.getrandbits(32), settings="only-keep")
    _damage(state_dir / "outbox.db", random)
    readable = _what_can_be_read(state_dir, image_dir)

    life = record(
        recorder, state_dir, steps=10, seed=1, settings="only-keep,recover", promise=Promise(kept=readable)
    )
    renaming = [at for at, done in enumerate(life.records) if done.kind in "RUCD"]
    places = [*random.sample(renaming, min(8, len(renaming))), *some_places(life, random, 6)]
    found = broken(life, places, image_dir, random, may_be_damaged=True)

    assert len(readable) > 100
    assert found == []


def _damage(outbox: Path, random: Random) -> None:
    """Some pages of noise where the rows are: after the space once used to grow the WAL."""
    with closing(sqlite3.connect(outbox)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    content = bytearray(outbox.read_bytes())
    with_rows = [at for at in range(0, len(content), 1024) if b'"person_salt"' in content[at : at + 1024]]
    for at in random.sample(with_rows, 5):
        content[at : at + 1024] = random.randbytes(1024)
    outbox.write_bytes(content)


def _what_can_be_read(state_dir: Path, image_dir: Path) -> frozenset[int]:
    shutil.copytree(state_dir, image_dir, dirs_exist_ok=True)
    outbox = Outbox(image_dir, agent_id=AGENT_ID)
    recover(outbox)
    with outbox.file.reading() as connection:
        stored = connection.execute("SELECT row FROM swipes").fetchall()
    outbox.close()
    return frozenset(int(row.split(b'"card_raw":"')[1][:10], 16) for (row,) in stored)


# --- whether this would find a loss ---------------------------------------------------------


def test_the_recording_holds_every_byte_that_reached_the_disk(recorder: Path, state_dir: Path) -> None:
    life = record(recorder, state_dir, steps=100, seed=3)

    *_, (_, image, _) = cut(life, [len(life.records) - 1], chances("recording"), [EVERYTHING])

    on_disk = {path.name: path.read_bytes() for path in state_dir.iterdir()}
    # Mapped into memory, so not seen; a survivor image has none either.
    del on_disk["outbox.db-shm"], image["outbox.db-shm"]
    assert image == on_disk


def test_an_outbox_that_does_not_flush_is_caught(recorder: Path, state_dir: Path, image_dir: Path) -> None:
    life = record(recorder, state_dir, steps=100, seed=4, settings="only-keep,unflushed")

    def found(random: Random) -> list[str]:
        return broken(life, some_places(life, random, 10), image_dir, random, damages=[NOTHING])

    assert is_caught("not flushed", found)


def test_commits_that_share_a_sector_are_caught_when_it_turns_to_noise(
    recorder: Path, state_dir: Path, image_dir: Path
) -> None:
    life = record(recorder, state_dir, steps=100, seed=5, settings="only-keep,shared-sectors")
    at_a_commit = [at - 1 for at, done in enumerate(life.records) if done.kind == "S"][-60:]

    def found(random: Random) -> list[str]:
        return broken(life, at_a_commit, image_dir, random, damages=[NOISE])

    assert is_caught("shared sectors", found)


def is_caught(what: str, found: Callable[[Random], list[str]]) -> bool:
    """Whether drawn power cuts show the loss: one draw of six does not, by chance."""
    faults = (fault for number in range(_TRIES) for fault in found(chances(what, number)))
    return any("kept swipes are lost" in fault for fault in faults)
