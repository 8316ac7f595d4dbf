from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import serial

from agent.errors import PortError
from agent.readers.events import NoiseReason, raw_hex
from agent.readers.line_monitor import NOISY_PER_MINUTE
from agent.readers.port import Port
from agent.readers.session import PortSession
from agent.settings import ReaderSettings
from agent.swipe import CardCheck, Swipe
from tests.support.agent_process import PtyReader, bits_line, h10301, rdm6300_frame
from tests.support.fd_store import MemoryFdStore
from tests.support.stand_in_sink import MemorySink
from tests.support.swipes import DrivenClock, wait_until

TAG = 0x0100_63E9_AE


class ReaderRig:
    """A session on a thread of its own, the line it reads, and what it has kept."""

    def __init__(
        self, directory: Path, protocol: str = "rdm6300", *, expect_traffic_within: int | None = None
    ) -> None:
        self.sink = MemorySink()
        self.kept = self.sink.kept
        self.clock = DrivenClock()
        self.changes = 0
        self.fd_store = MemoryFdStore()
        self.line = PtyReader(directory / f"{protocol}-reader")
        self.reader = ReaderSettings(
            id="RDR-101",
            zone_id="ZONE-LOBBY-1",
            direction="EXIT",
            port=self.line.device,
            protocol=protocol,
            formats=("H10301",),
            expect_traffic_within=expect_traffic_within,
        )
        self.session = self.new_session()
        self.thread = threading.Thread()

    def new_session(self) -> PortSession:
        return PortSession(
            [self.reader],
            sink=self.sink,
            clock=self.clock,
            changed=self._changed,
            fd_store=self.fd_store,
        )

    def _changed(self) -> None:
        self.changes += 1

    def start(self) -> None:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        self.wait_until(lambda: self.session.readers[0].counts.state == "open", "an open port")

    def _run(self) -> None:
        self.session.run(lambda _: None)

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        wait_until(holds, what=what)

    def end_session(self) -> None:
        """After it every log line of the session has been written: a state is set before its line."""
        self.session.stop()
        if self.thread.ident is not None:
            self.thread.join(5.0)
            assert not self.thread.is_alive()

    def close(self) -> None:
        self.end_session()
        self.fd_store.clear()
        self.line.unplug()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[ReaderRig]:
    door = ReaderRig(tmp_path)
    door.start()
    yield door
    door.close()


@pytest.fixture
def wiegand_door(tmp_path: Path) -> Iterator[ReaderRig]:
    door = ReaderRig(tmp_path, "bits")
    door.start()
    yield door
    door.close()


def test_a_tag_in_front_of_the_reader_is_one_kept_swipe(door: ReaderRig) -> None:
    door.line.present(TAG)

    door.wait_until(lambda: len(door.kept) == 1, "a swipe")
    (swipe,) = door.kept
    assert (swipe.reader_id, swipe.zone_id, swipe.direction) == ("RDR-101", "ZONE-LOBBY-1", "EXIT")
    assert (swipe.badge_id, swipe.card.raw, swipe.card.check) == (
        "40:010063E9AE",
        "010063E9AE",
        CardCheck.CHECKSUM,
    )
    assert swipe.read_at == door.clock.now()


def test_a_card_that_decodes_has_its_badge(wiegand_door: ReaderRig) -> None:
    door = wiegand_door

    door.line.write(bits_line(26, h10301(123, 45_015)))

    door.wait_until(lambda: len(door.kept) == 1, "a swipe")
    (swipe,) = door.kept
    assert swipe.badge_id == "123-45015"
    assert (swipe.card.format, swipe.card.facility_code, swipe.card.card_number) == ("H10301", 123, 45_015)


def test_frames_that_came_in_one_read_are_kept_in_their_order(door: ReaderRig) -> None:
    door.line.write(b"".join(rdm6300_frame(tag) for tag in range(1, 51)))

    door.wait_until(lambda: len(door.kept) == 50, "50 swipes")
    assert [swipe.card.raw for swipe in door.kept] == [raw_hex(40, tag) for tag in range(1, 51)]


def test_a_frame_that_comes_byte_by_byte_is_one_swipe(door: ReaderRig) -> None:
    for byte in rdm6300_frame(TAG):
        door.line.write(bytes([byte]))

    door.wait_until(lambda: len(door.kept) == 1, "a swipe")
    assert door.session.readers[0].counts.noise.total() == 0


def test_a_held_card_is_one_swipe_and_its_repeats_are_counted(door: ReaderRig) -> None:
    for _ in range(5):
        door.line.present(TAG)

    door.wait_until(lambda: door.session.readers[0].counts.repeats == 4, "four repeats")
    assert len(door.kept) == 1


def test_the_same_card_after_the_hold_off_is_another_swipe(door: ReaderRig) -> None:
    door.line.present(TAG)
    door.wait_until(lambda: len(door.kept) == 1, "a swipe")

    door.clock.advance(1.0)
    door.line.present(TAG)

    door.wait_until(lambda: len(door.kept) == 2, "a second swipe")


def test_a_truncated_frame_is_noise_once_the_line_is_silent(door: ReaderRig) -> None:
    door.line.write(rdm6300_frame(TAG)[:9])

    door.wait_until(lambda: door.session.readers[0].counts.noise[NoiseReason.TRUNCATED] == 1, "noise")
    door.line.present(TAG)
    door.wait_until(lambda: len(door.kept) == 1, "a swipe after it")


def test_noise_is_counted_by_its_reason_and_never_kept(door: ReaderRig) -> None:
    broken = bytearray(rdm6300_frame(TAG))
    broken[-2] ^= 1

    door.line.write(bytes(broken))

    door.wait_until(lambda: door.session.readers[0].counts.noise[NoiseReason.CHECKSUM] == 1, "noise")
    assert door.kept == []


def test_noise_is_news_too_so_that_status_shows_it(door: ReaderRig) -> None:
    before = door.changes

    door.line.write(b"garbage")

    door.wait_until(lambda: door.changes > before, "news")


def test_counts_tell_when_the_last_swipe_and_the_last_byte_came(door: ReaderRig) -> None:
    door.line.present(TAG)

    door.wait_until(lambda: door.session.readers[0].counts.last_swipe_boot_us is not None, "a swipe")
    assert door.session.readers[0].counts.last_swipe_boot_us == door.clock.now().boot_us
    assert door.session.readers[0].counts.last_rx_monotonic_s is not None


def test_a_swipe_that_was_refused_is_admitted_again(door: ReaderRig) -> None:
    door.line.present(TAG)
    door.wait_until(lambda: len(door.kept) == 1, "the swipe")

    door.sink.refused.append(door.kept.pop())
    door.line.present(TAG)

    door.wait_until(lambda: len(door.kept) == 1, "the swipe at the card's next read")


def test_a_reader_that_was_unplugged_is_read_again_when_it_is_back(
    door: ReaderRig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="agent")
    door.line.present(1)
    door.wait_until(lambda: len(door.kept) == 1, "a swipe")

    door.line.unplug()
    door.wait_until(lambda: door.session.readers[0].counts.state == "lost", "a lost port")
    door.line.plug_in()
    door.wait_until(lambda: door.session.readers[0].counts.state == "open", "an open port")
    door.line.present(2)

    door.wait_until(lambda: len(door.kept) == 2, "a second swipe")
    door.end_session()
    messages = [record.getMessage() for record in caplog.records]
    assert sum(record.levelno == logging.WARNING for record in caplog.records) == 1
    assert any("recovered after" in line for line in messages)


def test_half_a_frame_from_before_a_loss_belongs_to_no_frame_after_it(door: ReaderRig) -> None:
    frame = rdm6300_frame(TAG)
    door.line.write(frame[:7])
    door.wait_until(lambda: door.session.readers[0].counts.last_rx_monotonic_s is not None, "bytes")

    door.line.unplug()
    door.wait_until(lambda: door.session.readers[0].counts.state == "lost", "a lost port")
    door.line.plug_in()
    door.wait_until(lambda: door.session.readers[0].counts.state == "open", "an open port")
    door.line.write(frame[7:])

    door.wait_until(lambda: door.session.readers[0].counts.noise.total() > 0, "noise")
    assert door.kept == []


def test_a_port_that_is_not_there_at_the_start_is_waited_for(tmp_path: Path) -> None:
    door = ReaderRig(tmp_path)
    door.line.unplug()
    door.thread = threading.Thread(target=door._run)
    door.thread.start()

    door.line.plug_in()

    door.wait_until(lambda: door.session.readers[0].counts.state == "open", "an open port")
    door.close()


def test_a_stop_is_obeyed_while_the_line_is_idle(door: ReaderRig) -> None:
    door.session.stop()

    door.thread.join(5.0)
    assert not door.thread.is_alive()


def test_a_stop_before_the_port_was_open_is_obeyed_too(tmp_path: Path) -> None:
    door = ReaderRig(tmp_path)
    door.session.stop()

    door._run()

    assert door.kept == []
    door.close()


def test_a_swipe_on_the_line_when_the_stop_comes_is_still_kept(tmp_path: Path) -> None:
    door = ReaderRig(tmp_path)

    def keep_while_stopping(_: Swipe) -> None:
        if len(door.kept) == 1:
            door.line.present(2)
            door.session.stop()

    door.sink.on_put = keep_while_stopping
    door.start()

    door.line.present(1)

    door.thread.join(5.0)
    assert [swipe.card.raw for swipe in door.kept] == [raw_hex(40, 1), raw_hex(40, 2)]
    door.close()


def test_the_rest_of_a_frame_is_waited_for_at_a_stop(tmp_path: Path) -> None:
    door = ReaderRig(tmp_path)
    frame = rdm6300_frame(2)
    rest = threading.Timer(0.02, door.line.write, [frame[7:]])

    def keep_while_stopping(_: Swipe) -> None:
        if len(door.kept) == 1:
            door.session.stop()
            rest.start()

    door.sink.on_put = keep_while_stopping
    door.start()

    door.line.write(rdm6300_frame(1) + frame[:7])

    door.thread.join(5.0)
    rest.join()
    assert [swipe.card.raw for swipe in door.kept] == [raw_hex(40, 1), raw_hex(40, 2)]
    door.close()


def test_a_line_full_of_noise_does_not_hold_up_a_stop(door: ReaderRig) -> None:
    ended = threading.Event()

    def send_noise() -> None:
        while not ended.wait(0.001):
            door.line.write(b"\xff\xfe\x02")

    noise = threading.Thread(target=send_noise)
    noise.start()
    door.wait_until(lambda: door.session.readers[0].counts.last_rx_monotonic_s is not None, "noise")

    door.session.stop()

    door.thread.join(5.0)
    ended.set()
    noise.join()
    assert not door.thread.is_alive()


def test_a_port_that_stays_away_is_tried_ever_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    door = ReaderRig(tmp_path)
    door.line.unplug()
    delays: list[float] = []

    def wait(delay_s: float) -> bool:
        delays.append(delay_s)
        if len(delays) == 200:
            door.session.stop()
        return False

    monkeypatch.setattr(door.session._stopping, "wait", wait)

    door._run()

    ceilings = [min(30.0, 0.5 * 2.0**n) for n in range(200)]
    assert all(0 < delay <= ceiling for delay, ceiling in zip(delays, ceilings, strict=True))
    assert max(delays) > 20.0
    assert len(set(delays)) == len(delays)
    assert len(caplog.records) == 1


def test_a_port_that_opens_and_fails_at_once_is_tried_ever_more_seldom_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = ReaderRig(tmp_path)
    delays: list[float] = []

    def broken(_port: Port, _timeout_s: float | None) -> bytes:
        raise PortError("the reader answers with an error")

    def wait(delay_s: float) -> bool:
        delays.append(delay_s)
        if len(delays) == 30:
            door.session.stop()
        return False

    monkeypatch.setattr(Port, "read", broken)
    monkeypatch.setattr(door.session._stopping, "wait", wait)

    door._run()

    assert max(delays) > 5.0
    door.close()


def test_the_log_and_the_status_name_the_device_behind_the_port(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="agent")
    door = ReaderRig(tmp_path)
    device = os.path.realpath(door.line.device)

    door.start()

    shown = door.session.readers[0].counts.resolved_device
    assert shown == device
    door.line.unplug()
    door.wait_until(lambda: door.session.readers[0].counts.state == "lost", "a lost port")
    assert (door.session.readers[0].counts.state, door.session.readers[0].counts.resolved_device) == (
        "lost",
        None,
    )
    door.close()
    assert f"open on {door.line.device} -> {device} (rdm6300)" in caplog.text


def test_a_reader_that_falls_silent_is_told_and_so_is_its_return(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="agent")
    door = ReaderRig(tmp_path, expect_traffic_within=1)
    door.start()
    door.wait_until(lambda: door.session.readers[0].line_monitor.silent, "silence")
    assert door.session.readers[0].counts.state == "open"

    door.line.present(TAG)

    door.wait_until(lambda: len(door.kept) == 1, "a swipe")
    door.close()
    assert "silent" in caplog.text
    assert "sends again" in caplog.text


def test_a_reader_that_sends_mostly_noise_is_told_as_noisy(
    wiegand_door: ReaderRig, caplog: pytest.LogCaptureFixture
) -> None:
    wiegand_door.line.write(b"26:2F657AF\r\n" * (NOISY_PER_MINUTE + 5))

    wiegand_door.wait_until(lambda: wiegand_door.session.readers[0].line_monitor.noisy, "a noisy reader")
    wiegand_door.end_session()

    assert sum("noisy" in record.getMessage() for record in caplog.records) == 1


def test_no_card_is_in_the_log_at_any_level(
    door: ReaderRig, caplog: pytest.LogCaptureFixture, wiegand_door: ReaderRig
) -> None:
    caplog.set_level(logging.DEBUG)
    door.line.write(rdm6300_frame(TAG) + rdm6300_frame(TAG)[:9])
    wiegand_door.line.write(bits_line(26, h10301(123, 45_015)) + b"26:2F657AF\r\nnonsense\r\n")

    door.wait_until(lambda: door.session.readers[0].counts.noise.total() > 0, "noise")
    wiegand_door.wait_until(lambda: wiegand_door.session.readers[0].counts.noise.total() > 0, "noise")
    door.line.unplug()
    door.wait_until(lambda: door.session.readers[0].counts.state == "lost", "a lost port")
    door.end_session()
    wiegand_door.end_session()

    assert len(door.kept) == len(wiegand_door.kept) == 1
    for secret in ("63E9AE", "6547886", "45015", raw_hex(26, h10301(123, 45_015)), "2F657AF", "nonsense"):
        assert secret not in caplog.text


def test_what_a_reader_sends_between_two_sessions_is_a_swipe_of_the_second(door: ReaderRig) -> None:
    door.end_session()

    door.line.present(TAG)
    door.session = door.new_session()
    door.start()

    door.wait_until(lambda: len(door.kept) == 1, "the swipe that was sent between the sessions")


def test_a_driver_that_hangs_while_the_port_is_closed_does_not_delay_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing, may_close = threading.Event(), threading.Event()
    close = serial.Serial.close

    def hang(port: serial.Serial) -> None:
        closing.set()
        may_close.wait(30)
        close(port)

    door = ReaderRig(tmp_path)
    door.start()
    monkeypatch.setattr(serial.Serial, "close", hang)
    door.session.stop()
    assert closing.wait(10)

    stopper = threading.Thread(target=door.session.stop)
    stopper.start()
    stopper.join(10)

    assert not stopper.is_alive()
    may_close.set()
    door.close()
