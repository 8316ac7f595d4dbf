from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from agent import rows
from agent.outbox.recovery.sectors import PIECE_BYTES, SectorReader
from tests.support.swipes import swipe

LINK = rows.RowLink("event", "0123456789abcdef", "0a1b2c3d4e5f")


def failing_at(*bad_sectors: int, code: int = errno.EIO) -> Callable[[int, int, int], bytes]:
    """A pread that fails at these sectors, and stops short before the first of them."""
    real = os.pread

    def pread(fd: int, size: int, at: int) -> bytes:
        for bad in sorted(bad_sectors):
            begin = bad * 512
            if begin < at + size and begin + 512 > at:
                if begin <= at:
                    raise OSError(code, os.strerror(code))
                return real(fd, begin - at, at)
        return real(fd, size, at)

    return pread


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    data = Random(1).randbytes(2 * PIECE_BYTES + 777)  # noqa: S311 - chances, not secrets
    (tmp_path / "file").write_bytes(data)
    return data


def test_a_sound_file_is_read_whole_in_bounded_pieces(tmp_path: Path, content: bytes) -> None:
    reader = SectorReader(tmp_path / "file")

    pieces = list(reader.pieces())

    assert b"".join(pieces) == content
    assert max(map(len, pieces)) == PIECE_BYTES
    assert reader.unreadable_bytes == 0


def test_only_the_sectors_that_fail_are_zeros_and_they_are_counted(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = len(content) // 512
    bad = [0, 9, PIECE_BYTES // 512, last]
    monkeypatch.setattr(os, "pread", failing_at(*bad))
    reader = SectorReader(tmp_path / "file")

    for _ in range(2):
        read = b"".join(reader.pieces())
        assert reader.unreadable_bytes == 3 * 512 + len(content) % 512

    expected = bytearray(content)
    for sector in bad:
        part = expected[sector * 512 :][:512]
        expected[sector * 512 : sector * 512 + len(part)] = bytes(len(part))
    assert read == expected
    assert reader.is_readable()


def test_an_error_that_is_no_damage_is_raised(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert content
    monkeypatch.setattr(os, "pread", failing_at(3, code=errno.EINVAL))

    with pytest.raises(OSError, match="Invalid argument"):
        list(SectorReader(tmp_path / "file").pieces())


def test_a_file_without_a_readable_sector_is_named_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(bytes(10_000))
    monkeypatch.setattr(os, "pread", failing_at(*range(20)))

    assert not SectorReader(tmp_path / "file").is_readable()


def test_a_file_that_is_not_there_has_no_bytes(tmp_path: Path) -> None:
    assert list(SectorReader(tmp_path / "nothing").pieces()) == []


@pytest.mark.parametrize("size", [1, 17, 512, 4096, 5000])
def test_rows_are_found_whole_wherever_a_piece_ends(size: int) -> None:
    made = [rows.render(swipe(value), LINK, agent_id="door")[1] for value in range(1, 30)]
    noise = Random(2)  # noqa: S311 - chances, not secrets
    content = b"".join(noise.randbytes(noise.randrange(300)) + row for row in made) + b'{"badge_id":"cut'
    pieces = (content[at : at + size] for at in range(0, len(content), size))

    assert [found.row for found in rows.scan(pieces) if found is not None] == made


def test_a_row_with_an_unreadable_sector_is_none_and_hides_no_other() -> None:
    made = [rows.render(swipe(value), LINK, agent_id="door")[1] for value in range(1, 4)]
    content = bytearray(b"".join(made))
    begin = len(made[0]) + 100
    content[begin : begin + 50] = bytes(50)

    assert [found.row for found in rows.scan([bytes(content)]) if found is not None] == [made[0], made[2]]
