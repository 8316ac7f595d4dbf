from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from agent.clock.system_clock import SystemClock
from agent.readers.cards.decoder import encode
from agent.readers.port import Port
from agent.readers.session import PortSession
from agent.settings import ReaderSettings
from tests.support.fd_store import MemoryFdStore
from tests.support.osdp_device import OsdpDevice, raw
from tests.support.stand_in_sink import MemorySink


@dataclass
class Line:
    """A session on a thread of its own, and the reader's end of its line."""

    protocol: str
    sink: MemorySink = field(default_factory=MemorySink)
    news: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.end, device = os.openpty()
        reader = ReaderSettings(
            id="RDR-101",
            zone_id="ZONE-LOBBY-1",
            port=Path(os.ttyname(device)),
            protocol=self.protocol,
            formats=("H10301",),
            badge_id="{card_number}",
        )
        self.device = device
        self.session = PortSession(
            [reader],
            sink=self.sink,
            clock=SystemClock("always"),
            changed=self.news.set,
            fd_store=MemoryFdStore(),
        )
        self.thread = threading.Thread(target=self.session.run, args=[lambda _: None])
        self.thread.start()
        self.wait_for_news()  # the port is open; what came before would have been flushed away

    def wait_for_news(self) -> None:
        assert self.news.wait(10.0)
        self.news.clear()

    def close(self) -> None:
        self.session.stop()
        self.thread.join(5.0)
        assert not self.thread.is_alive()
        os.close(self.end)
        os.close(self.device)


@pytest.fixture
def polled() -> Iterator[Line]:
    line = Line("twn4-simple")
    yield line
    line.close()


@pytest.fixture
def pad() -> Iterator[Line]:
    line = Line("bits")
    yield line
    line.close()


def test_a_polled_reader_gets_requests_while_its_port_is_open(polled: Line) -> None:
    request = b"050010\r"

    assert os.read(polled.end, 100) == request
    os.write(polled.end, b"0000\r")
    assert os.read(polled.end, 100) == request
    os.write(polled.end, b"00018020046B3D12D6\r")
    while not polled.sink.kept:
        polled.wait_for_news()
    assert polled.sink.kept[0].card.raw == "6B3D12D6"
    assert os.read(polled.end, 100) == request


def test_half_a_reply_is_noise_after_the_silence_and_the_polling_goes_on(polled: Line) -> None:
    os.read(polled.end, 100)
    os.write(polled.end, b"000180200")

    for _ in range(3):
        assert os.read(polled.end, 100)

    assert dict(polled.session.readers[0].counts.noise) == {"truncated": 1}


def test_a_26_bit_pad_that_was_not_declared_is_logged_once(
    pad: Line, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    pins = [encode("H10301", 0, pin) for pin in (4711, 4712)]

    os.write(pad.end, b"".join(b"26:%07X\n" % pin for pin in pins))
    while len(pad.sink.kept) < 2:
        pad.wait_for_news()

    messages = [record.getMessage() for record in caplog.records]
    assert sum("may be a 26-bit PIN pad" in text for text in messages) == 1
    assert not [text for text in messages if "4711" in text or f"{pins[0]:07X}" in text]


@dataclass
class SlowAdapter:
    """A port whose adapter delivers a byte a millisecond, as it comes on a line at 9600 baud."""

    device: OsdpDevice
    reads: int = 0
    since_us: int = 0
    _arrived: float = 0.0
    _held: bytes = b""

    def write(self, data: bytes) -> None:
        self._held, self._arrived = self.device.reply(data), 0.0

    def read(self, _timeout_s: float | None) -> bytes:
        count = max(1, int(self._arrived))
        data, self._held, self._arrived = self._held[:count], self._held[count:], 0.0
        self.reads += len(data) > 0
        return data

    def pause(self, seconds: float) -> None:
        self._arrived = seconds * 960 + 0.5

    def new_errors(self) -> None:
        return None


def test_a_reply_that_arrives_byte_by_byte_wakes_the_processor_three_times(tmp_path: Path) -> None:
    reader = ReaderSettings(
        id="RDR-1",
        zone_id="Z",
        port=tmp_path / "reader",
        protocol="osdp",
        keypad="none",
        options={"address": 1, "secure": "none"},
    )
    sink = MemorySink()
    session = PortSession(
        [reader],
        sink=sink,
        clock=SystemClock("always"),
        changed=lambda: None,
        fd_store=MemoryFdStore(),
    )
    device = OsdpDevice(1)
    device.events.append(raw(26, 4711, 0))
    adapter = SlowAdapter(device)

    while len(device.commands) < 10 or not sink.kept:
        session.step(cast("Port", adapter))

    assert adapter.reads <= 3 * len(device.commands)
