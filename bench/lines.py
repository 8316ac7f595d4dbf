"""Latency of a swipe while eight other lines carry noise: from its last byte to the outbox."""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.figures import Figure, percentile
from tests.support.agent_process import AgentProcess, PtyReader, reader_table
from tests.support.emulator_process import EmulatorProcess

_SWIPES = 50
_NOISY_LINES = 8
_BYTES_PER_S = 11_520  # 115200 baud with start and stop bit
_TICK_S = 0.01
_TARGET_MS = 50.0
_GIVEN_UP_S = 10.0
# The protocols with the highest cost of noise, and that of the swipes.
_PROTOCOLS = ("idteck", "rdm6300", "gwiot7941", "bits", "em18", "yaawl", "esphome", "id12la")
_SEED = 7


def run() -> list[Figure]:
    """A real agent process with nine ptys, and the emulator."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        emulator = stack.enter_context(EmulatorProcess(directory / "emulator"))
        readers = [
            stack.enter_context(PtyReader(directory / f"reader{number}"))
            for number in range(_NOISY_LINES + 1)
        ]
        quiet, noisy = readers[0], readers[1:]
        tables = [reader_table(quiet.device)] + [
            reader_table(
                line.device, protocol=protocol, reader_id=f"NOISE-{protocol}", more="baudrate = 115200"
            )
            for line, protocol in zip(noisy, _PROTOCOLS, strict=True)
        ]
        agent = stack.enter_context(
            AgentProcess(
                directory / "agent",
                url=emulator.url,
                private_key_file=emulator.private_key_file,
                readers=tables,
            )
        )
        with _noise_on(noisy):
            time.sleep(1.0)  # until the load is steady
            delays_ms = [_one(agent, quiet, tag) for tag in range(1, _SWIPES + 1)]
        _check_noise_was_read(agent)
    p50, most = percentile(delays_ms, 50), max(delays_ms)
    return [
        Figure(f"p50 of {_SWIPES} swipes", f"{p50:.1f} ms", f"<= {_TARGET_MS:.0f} ms", p50 <= _TARGET_MS),
        Figure(f"slowest of {_SWIPES}", f"{most:.1f} ms", f"<= {_TARGET_MS:.0f} ms", most <= _TARGET_MS),
    ]


@contextmanager
def _noise_on(lines: Sequence[PtyReader]) -> Iterator[None]:
    """Random bytes on every line, at the rate of 115200 baud."""
    ended = threading.Event()
    thread = threading.Thread(target=_make_noise, args=(lines, ended))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _make_noise(lines: Sequence[PtyReader], ended: threading.Event) -> None:
    noise = random.Random(_SEED).randbytes(1 << 20)  # noqa: S311 - line noise for a measurement
    started, sent = time.monotonic(), 0
    while not ended.wait(_TICK_S):
        # By the clock, so that a late tick is compensated.
        due = int((time.monotonic() - started) * _BYTES_PER_S)
        for number, line in enumerate(lines):
            start = (sent + number * 100_003) % (len(noise) // 2)
            line.write(noise[start : start + due - sent])
        sent = due


def _one(agent: AgentProcess, reader: PtyReader, tag: int) -> float:
    """Milliseconds until the swipe is in the outbox, as another process sees it."""
    time.sleep(random.uniform(0.05, 0.15))  # noqa: S311 - not in phase with the agent's timers
    before = agent.outbox().last_seq or 0
    written_s = time.monotonic()
    reader.present(tag)
    while (agent.outbox().last_seq or 0) <= before:
        if time.monotonic() - written_s > _GIVEN_UP_S:
            raise TimeoutError("the swipe did not reach the outbox")
        os.sched_yield()
    return (time.monotonic() - written_s) * 1e3


def _check_noise_was_read(agent: AgentProcess) -> None:
    """The figure is valid only if the agent has read the noise."""
    unread = [reader["id"] for reader in agent.status()["readers"][1:] if not reader["noise"]]
    if unread:
        raise ValueError(f"no noise was read on {', '.join(unread)}")
