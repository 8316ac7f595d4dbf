"""The kernel's counters of line errors, and RS-485: on a real tty where it has them, else from a stand-in."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import PortError
from agent.readers.events import NoiseReason
from agent.readers.port import Port
from agent.readers.protocol import LineSettings
from agent.readers.uart import LineErrors, line_errors
from tests.readers.test_session import ReaderRig
from tests.support.agent_process import PtyReader, rdm6300_frame
from tests.support.kernel_uart import KernelUart
from tests.support.needs import COUNTING_UART, REAL_UART, needs

TAG, OTHER_TAG = 0x0100_63E9_AE, 0x0100_63E9_AF


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> KernelUart:
    kernel = KernelUart()
    monkeypatch.setattr("agent.readers.uart.fcntl", kernel)
    return kernel


@pytest.fixture
def door(tmp_path: Path, kernel: KernelUart) -> Iterator[ReaderRig]:  # noqa: ARG001 - before the port is opened
    door = ReaderRig(tmp_path)
    door.start()
    yield door
    door.close()


@pytest.mark.parametrize(
    ("counter", "reason"),
    [
        ("overrun", NoiseReason.OVERRUN),
        ("buf_overrun", NoiseReason.OVERRUN),
        ("frame", NoiseReason.FRAMING),
        ("brk", NoiseReason.FRAMING),
        ("parity", NoiseReason.LINE_PARITY),
    ],
)
def test_a_frame_in_which_an_error_was_counted_is_noise_and_the_next_one_a_card(
    door: ReaderRig, kernel: KernelUart, counter: str, reason: NoiseReason
) -> None:
    kernel.counters[counter] += 1
    door.line.present(TAG)
    door.wait_until(lambda: door.session.readers[0].counts.noise.total() == 1, "the noise")
    door.line.present(OTHER_TAG)

    door.wait_until(lambda: len(door.kept) == 1, "the next card")
    assert door.kept[0].card.raw == f"{OTHER_TAG:010X}"
    assert dict(door.session.readers[0].counts.noise) == {reason: 1}


def test_an_error_in_the_first_half_of_a_frame_is_one_of_the_whole_frame(
    door: ReaderRig, kernel: KernelUart
) -> None:
    counts = door.session.readers[0].counts
    kernel.counters["frame"] += 1
    door.line.write(rdm6300_frame(TAG)[:7])
    door.wait_until(lambda: counts.line_errors == LineErrors(framing=1), "the first half")

    door.line.write(rdm6300_frame(TAG)[7:])
    door.wait_until(lambda: counts.noise[NoiseReason.FRAMING] == 1, "the noise")
    door.line.present(OTHER_TAG)

    door.wait_until(lambda: len(door.kept) == 1, "the next card")
    assert door.kept[0].card.raw == f"{OTHER_TAG:010X}"


def test_errors_from_before_the_opening_are_none_of_a_frame(tmp_path: Path, kernel: KernelUart) -> None:
    kernel.counters |= {"frame": 2**31 - 1, "overrun": 5}
    door = ReaderRig(tmp_path)
    door.start()

    door.line.present(TAG)

    door.wait_until(lambda: len(door.kept) == 1, "the card")
    assert door.session.readers[0].counts.line_errors == LineErrors()
    door.close()


def test_a_port_without_counters_reads_cards_and_reports_that_it_has_none(tmp_path: Path) -> None:
    door = ReaderRig(tmp_path)  # a pseudo-terminal, which answers ENOTTY
    door.start()

    door.line.present(TAG)

    door.wait_until(lambda: len(door.kept) == 1, "the card")
    assert door.session.readers[0].counts.line_errors is None
    door.close()


def test_the_counters_of_a_real_uart_are_read() -> None:
    needs(COUNTING_UART)
    fd = os.open(REAL_UART, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        counted = line_errors(fd)
    finally:
        os.close(fd)

    assert counted is not None
    assert all(count >= 0 for count in counted)


def test_a_counter_that_wraps_counts_on() -> None:
    assert LineErrors(overrun=1).since(LineErrors(overrun=2**32 - 2)) == LineErrors(overrun=3)


def test_rs485_is_enabled_in_the_driver(line: PtyReader, kernel: KernelUart) -> None:
    Port(str(line.device), replace(LineSettings(), rs485=True)).close()

    flags, *rest = struct.unpack("8I", kernel.rs485)
    assert flags == 0b11  # enabled, RTS on while sending
    assert not any(rest)


def test_a_driver_without_rs485_is_an_error_that_says_what_to_do(line: PtyReader) -> None:
    with pytest.raises(PortError, match="its driver has no RS-485 mode") as raised:
        Port(str(line.device), replace(LineSettings(), rs485=True))

    assert raised.value.hint == (
        "remove rs485 = true: adapters that switch the direction by themselves need no setting"
    )
    Port(str(line.device), LineSettings()).close()  # the failed one left nothing locked
