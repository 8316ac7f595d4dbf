from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.readers.cards import cardholders
from agent.readers.cards.cardholders import UNKNOWN, Cardholders, CardholdersError, read

HEADER = "badge_id,user_id\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cardholders.csv"
    path.write_text(f"{HEADER}123-45015,USR-001\n40:010063E9AE,USR-002\n")
    return path


def test_a_badge_in_the_file_has_its_holder_and_any_other_is_unknown(file: Path) -> None:
    holders = Cardholders(file)

    assert holders.user_of("123-45015") == "USR-001"
    assert holders.user_of("40:010063E9AE") == "USR-002"
    assert holders.user_of("1-1") == UNKNOWN


def test_without_a_file_everybody_is_unknown() -> None:
    assert Cardholders(None).user_of("123-45015") == UNKNOWN


def test_a_changed_file_is_read_again(file: Path) -> None:
    holders = Cardholders(file)
    holders.user_of("123-45015")

    file.write_text(f"{HEADER}123-45015,USR-100\n")

    assert holders.user_of("123-45015") == "USR-100"
    assert holders.user_of("40:010063E9AE") == UNKNOWN


def test_a_file_that_is_replaced_whole_is_read_again(file: Path) -> None:
    holders = Cardholders(file)
    holders.user_of("123-45015")
    new = file.with_suffix(".new")
    new.write_text(f"{HEADER}123-45015,USR-200\n")

    new.replace(file)

    assert holders.user_of("123-45015") == "USR-200"


@pytest.mark.parametrize("damage", [b"", b"badge,user\n", b"\xff\xfe", None])
def test_a_file_that_went_bad_leaves_the_holders_known_before_and_is_told_once(
    file: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    holders = Cardholders(file)
    holders.user_of("123-45015")

    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)

    assert [holders.user_of("123-45015") for _ in range(3)] == ["USR-001"] * 3
    assert sum(record.levelno == logging.WARNING for record in caplog.records) == 1


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffbadge_id,user_id\r\n123-45015,USR-001\r\n",
        "badge_id, user_id\n 123-45015 , USR-001 \n\n",
        'badge_id,user_id\n"123-45015","USR-001"',
    ],
)
def test_what_spreadsheets_write_is_read(file: Path, content: str) -> None:
    file.write_text(content)

    assert read(file) == {"123-45015": "USR-001"}


@pytest.mark.parametrize(
    "line", ["SECRET", "SECRET,USR-001,more", ",USR-001", "SECRET,", "S" * 51 + ",USR", "SECRET," + "u" * 51]
)
def test_a_line_that_cannot_be_used_is_named_by_its_number_without_its_badge(file: Path, line: str) -> None:
    file.write_text(f"{HEADER}1-1,USR-001\n{line}\n")

    with pytest.raises(CardholdersError, match=f"{file}: line 3") as caught:
        read(file)

    assert "SECRET" not in f"{caught.value}{caught.value.hint}"


def test_a_file_that_is_not_there_says_what_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(CardholdersError, match="No such file") as caught:
        read(tmp_path / "cardholders.csv")

    assert "badge_id,user_id" in caught.value.hint


def test_readers_that_swipe_while_the_file_is_read_wait_for_its_holders(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_reading, may_read = threading.Event(), threading.Event()

    def slow_read(path: Path) -> dict[str, str]:
        is_reading.set()
        assert may_read.wait(10)
        return read(path)

    monkeypatch.setattr(cardholders, "read", slow_read)
    holders = Cardholders(file)

    with ThreadPoolExecutor(3) as readers:
        first = readers.submit(holders.user_of, "123-45015")
        assert is_reading.wait(10)
        others = [readers.submit(holders.user_of, "40:010063E9AE") for _ in range(2)]
        # Time enough for a lookup that does not wait to return UNKNOWN.
        threading.Event().wait(0.2)
        may_read.set()

    assert first.result() == "USR-001"
    assert [other.result() for other in others] == ["USR-002", "USR-002"]
