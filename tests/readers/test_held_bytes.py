"""The times of frames that end with a later read than the one that had their bytes."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.clock.reading import ClockReading
from agent.readers.port_protocols import make_protocols
from agent.readers.reader import Reader
from agent.readers.swipe_pipeline import ReadTime
from agent.settings import ReaderSettings
from tests.simulation.reader_events import frame
from tests.support.stand_in_sink import MemorySink

# As in session.py: bytes that waited for less count as read when they arrived. A timer may end their frame.
MOMENT_US, SILENCE_US = 250_000, 100_000


class Line:
    """A port, its clock, and the reader that gets its bytes."""

    def __init__(self, protocol: str) -> None:
        settings = ReaderSettings(id="RDR-101", zone_id="ZONE", port=Path("/dev/null"), protocol=protocol)
        self.sink = MemorySink()
        (wire,) = make_protocols([settings])
        self.reader = Reader(settings, wire, sink=self.sink)
        self.now_us = self.empty_us = 10**9
        self.last = self._read_time()

    def _read_time(self) -> ReadTime:
        age_us = self.now_us - self.empty_us
        reading = ClockReading(self.now_us, "boot", self.now_us, trusted=False)
        return ReadTime(reading, age_us if age_us > MOMENT_US else 0)

    def read(self, data: bytes) -> None:
        """The bytes that have arrived since the last read."""
        self.last = self._read_time()
        self.reader.receive(data, None, lambda: self.last, self.now_us / 1e6)
        self.empty_us = self.now_us

    def wait(self, us: int) -> None:
        """Nothing arrives for so long, while the agent runs."""
        self.now_us += us
        self.empty_us = self.now_us
        self.reader.handle_timeout(self.now_us / 1e6, lambda: self.last, self.now_us / 1e6)


waits_us = st.sampled_from([500, 3_000, 400_000])
stops_us = st.sampled_from([0, 5_000, 2_000_000, 4_000_000_000])


@given(
    protocol=st.sampled_from(["em18", "rdm6300", "twn4"]),
    stops=st.lists(st.tuples(stops_us, st.integers(1, 3), st.integers(0, 11), waits_us), max_size=6),
)
def test_a_card_was_presented_within_the_interval_of_its_swipe(
    protocol: str, stops: list[tuple[int, int, int, int]]
) -> None:
    line, arrived_us, number = Line(protocol), {}, 0

    for stopped_us, cards, late_bytes, wait_us in stops:
        data = b""
        for _ in range(cards):
            line.now_us += stopped_us // cards
            number += 1
            data += frame(protocol, number)
            arrived_us[number] = line.now_us
        at = len(data) - min(late_bytes, len(frame(protocol, number)) - 1)
        line.read(data[:at])
        if at < len(data):
            line.now_us += 1_000
            line.read(data[at:])
            arrived_us[number] = line.now_us
        line.wait(wait_us)
    line.wait(1_000_000)

    swipes = {int(swipe.card.raw, 16) & 0xFFFFFFFF: swipe for swipe in line.sink.kept}
    assert swipes.keys() == arrived_us.keys()
    for number, swipe in swipes.items():
        latest_us = swipe.read_at.boot_us + SILENCE_US
        earliest_us = swipe.read_at.boot_us - swipe.age_us - MOMENT_US
        assert earliest_us <= arrived_us[number] <= latest_us


def test_reads_that_follow_each_other_before_the_timer_runs_add_up() -> None:
    line, arrived_us = Line("em18"), {}

    for number in range(1, 8):
        line.now_us += 200_000
        arrived_us[number] = line.now_us
        line.read(frame("em18", number))
    line.wait(1_000_000)

    for number, swipe in enumerate(line.sink.kept, start=1):
        assert swipe.read_at.boot_us - swipe.age_us - MOMENT_US <= arrived_us[number] <= swipe.read_at.boot_us
    assert len(line.sink.kept) == len(arrived_us)
