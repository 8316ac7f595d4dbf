from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from agent.errors import LineSettingsError
from agent.readers.detect.advice import advice, reader_block
from agent.readers.detect.match import PLAIN, LineForm, Recording, match, ranked
from agent.readers.detect.scan import FORMS, SPEEDS, survey
from agent.readers.uart import LineErrors
from tests.support.agent_process import rdm6300_frame
from tests.support.swipes import DrivenClock

TAG = 0x0100_63E9_AE
TWN4_REPLY = b"00018020046B3D12D6\r"


@dataclass
class Reader:
    """A reader at one line speed, presented with a card every `every_s`; other speeds make garbage of it."""

    clock: DrivenClock
    speed: int
    frame: bytes = b""
    every_s: float = 1.0
    answers: bool = False  # it speaks only when asked
    form: LineForm = PLAIN
    only_8n1: bool = False
    counts: bool = True  # the driver counts errors; otherwise it gives NUL for a byte with one
    opened: list[int] = field(default_factory=list)
    open_lines: int = 0

    def open_line(self, baudrate: int, form: LineForm) -> FakeLine:
        if self.only_8n1 and form != PLAIN:
            raise LineSettingsError("its driver does not support this")
        self.opened.append(baudrate)
        self.open_lines += 1
        return FakeLine(self, baudrate, form)


class FakeLine:
    """A line on which time passes only during read()."""

    def __init__(self, reader: Reader, baudrate: int, form: LineForm) -> None:
        self._reader = reader
        self._form = form
        self._framing = 1  # opened within a byte
        self._baudrate = baudrate
        self._next_s = reader.clock.seconds + reader.every_s
        self._asked = False

    def read(self, timeout_s: float | None) -> bytes:
        assert timeout_s is not None
        reader, clock = self._reader, self._reader.clock
        if reader.answers:
            clock.advance(timeout_s)
            asked, self._asked = self._asked, False
            return self._garbled(reader.frame) if asked else b""
        if not reader.frame or self._next_s > clock.seconds + timeout_s:
            clock.advance(timeout_s)
            return b""
        clock.advance(self._next_s - clock.seconds)
        self._next_s += reader.every_s
        return self._garbled(reader.frame)

    def write(self, data: bytes) -> None:
        self._asked = self._asked or bool(data)

    def close(self) -> None:
        self._reader.open_lines -= 1

    def _garbled(self, data: bytes) -> bytes:
        """At another speed bits are taken for others: as many bytes, none of them right."""
        if self._baudrate == self._reader.speed:
            return data if self._form == self._reader.form else self._with_errors(data)
        return bytes(byte ^ 0x98 for byte in data)

    def _with_errors(self, data: bytes) -> bytes:
        """Half of the bytes have a parity bit where a stop bit is expected, or the other way round."""
        self._framing += len(data) // 2
        return data if self._reader.counts else bytes(byte if byte.bit_count() % 2 else 0 for byte in data)

    def new_errors(self) -> LineErrors | None:
        return LineErrors(framing=self._framing) if self._reader.counts else None


def recordings(reader: Reader, speeds: tuple[int, ...] = SPEEDS, budget_s: float = 60.0) -> list[Recording]:
    return list(
        survey(
            reader.open_line,
            speeds,
            monotonic_s=reader.clock.monotonic_s,
            trying=lambda _attempt: None,
            budget_s=budget_s,
        )
    )


@pytest.fixture
def clock() -> Iterator[DrivenClock]:
    clock = DrivenClock()
    start = clock.seconds
    yield clock
    assert clock.seconds - start < 61.0


@pytest.mark.parametrize("speed", SPEEDS)
def test_the_line_speed_is_the_one_at_which_a_card_is_read(clock: DrivenClock, speed: int) -> None:
    reader = Reader(clock, speed, rdm6300_frame(TAG))

    candidate = ranked(candidate for recording in recordings(reader) for candidate in match(recording))

    assert (candidate[0].protocol, candidate[0].baudrate) == ("rdm6300", speed)
    assert reader.opened[-1] == speed
    assert reader.open_lines == 0


def test_a_card_presented_seldom_is_waited_for_at_the_speed_where_it_was_read(clock: DrivenClock) -> None:
    reader = Reader(clock, 9600, rdm6300_frame(TAG), every_s=3.9)

    recordings(reader)

    assert reader.opened == [9600]


def test_a_reader_that_must_be_asked_is_asked(clock: DrivenClock) -> None:
    reader = Reader(clock, 9600, TWN4_REPLY, answers=True)

    candidate = match(recordings(reader)[-1])

    assert candidate[0].protocol == "twn4-simple"


def test_a_line_that_speaks_by_itself_is_asked_nothing(clock: DrivenClock) -> None:
    reader = Reader(clock, 1200, rdm6300_frame(TAG))

    assert all(not recording.asked for recording in recordings(reader))


def test_a_speed_that_was_given_is_the_only_one(clock: DrivenClock) -> None:
    reader = Reader(clock, 9600)

    recordings(reader, speeds=(1200,))

    assert set(reader.opened) == {1200}


@pytest.mark.parametrize("frame", [b"", b"\x80\xf8\x00" * 30])
def test_the_whole_time_is_bounded_when_nothing_is_read(clock: DrivenClock, frame: bytes) -> None:
    reader = Reader(clock, 9600, frame, every_s=0.01)

    recorded = recordings(reader, budget_s=30.0)

    assert all(recording.bytes <= 5000 for recording in recorded)
    assert reader.open_lines == 0


def test_of_much_noise_the_newest_is_kept_so_that_a_card_after_it_is_read(clock: DrivenClock) -> None:
    reader = Reader(clock, 9600, rdm6300_frame(TAG) + b"\xff" * 300, every_s=0.02)

    assert match(recordings(reader)[0])[0].protocol == "rdm6300"


@pytest.mark.parametrize(("form", "counts"), [(FORMS[0], True), (FORMS[1], True), (FORMS[2], False)])
def test_the_parity_of_a_line_is_the_one_without_errors(
    clock: DrivenClock,
    form: LineForm,
    counts: bool,  # noqa: FBT001 - a case
) -> None:
    reader = Reader(clock, 19_200, rdm6300_frame(TAG), form=form, counts=counts)

    recorded = recordings(reader)
    found = ranked(candidate for recording in recorded for candidate in match(recording))[0]

    assert (found.protocol, found.baudrate, found.form) == ("rdm6300", 19_200, form)
    assert found.card is not None
    block = reader_block(found, found.card, "/dev/ttyUSB0")
    assert f'line_parity = "{form.parity}"' in block
    assert ("data_bits = 7" in block) == (form.data_bits == 7)
    assert f"{form.parity} parity" in advice(recorded, [found])[0].text


def test_text_of_an_unknown_form_is_listened_to_at_each_speed_once(clock: DrivenClock) -> None:
    reader = Reader(clock, 9600, b"Card UID: 04 29 2E 5A\r\n", counts=False)

    recordings(reader)

    assert tuple(reader.opened) == SPEEDS


def test_forms_that_the_driver_lacks_are_left_out(clock: DrivenClock) -> None:
    reader = Reader(clock, 9600, b"\xff\xfe", only_8n1=True)

    assert {recording.form for recording in recordings(reader)} == {PLAIN}


def test_an_error_at_the_opening_is_none_of_the_form(clock: DrivenClock) -> None:
    reader = Reader(clock, 9600, rdm6300_frame(TAG))

    (recorded,) = recordings(reader)

    assert recorded.errors == LineErrors(framing=1)
    assert advice([recorded], match(recorded)) == []
