"""OSDP readers on a real line: libosdp's, and the tests' own for what that one cannot do."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pytest

from agent.clock.system_clock import SystemClock
from agent.errors import OutboxFullError
from agent.keys.reader_keys import ReaderKeys
from agent.outbox.swipe_queue import SwipeQueue
from agent.readers.events import Condition
from agent.readers.reader import Reader
from agent.readers.session import PortSession
from agent.service.durability import DeliveryState
from agent.settings import ReaderSettings
from tests.support.fd_store import MemoryFdStore
from tests.support.needs import LIBOSDP, needs
from tests.support.paths import ROOT
from tests.support.swipes import wait_until

KEY = bytes.fromhex("4b8f1d02c7739ae6055e21b4d8f06c93")
OTHER_KEY = bytes(range(16))
PEER = ROOT / "tests" / "support" / "osdp_peer.py"
CARD = "21181cc0"  # 26 bits; the agent has them right-aligned
CARD_RAW = "0846073"
LED, BUZ = 2, 3  # libosdp's numbers of commands


class OsdpRig:
    """A session and libosdp's readers at the two ends of one line. `keys`: of the readers, by address."""

    def __init__(self, keys: dict[int, bytes | None], agent_keys: dict[int, bytes] | None = None) -> None:
        needs(LIBOSDP)
        self.keys = keys
        self.agent_keys = {a: key for a, key in keys.items() if key} if agent_keys is None else agent_keys
        self.line, self.slave = os.openpty()
        for end in (self.line, self.slave):
            tty.setraw(end)
        self.shown: list[dict[str, Any]] = []
        self.fd_store = MemoryFdStore()
        self.start_readers()
        self.start_agent()

    # --- the readers ------------------------------------------------------------------------------

    def start_readers(self) -> None:
        arguments = [f"{address}={key.hex() if key else ''}" for address, key in self.keys.items()]
        self.process = subprocess.Popen(
            [sys.executable, PEER, str(self.line), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self.line],
        )
        assert self.process.stdout is not None
        assert json.loads(self.process.stdout.readline()) == "ready"
        threading.Thread(target=self._collect, args=[self.process.stdout], daemon=True).start()

    def _collect(self, stream: IO[bytes]) -> None:
        for line in stream:
            self.shown.append(json.loads(line))

    def stop_readers(self) -> None:
        self.process.kill()
        self.process.communicate()

    def order(self, **order: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def card(self, address: int) -> None:
        self.order(address=address, bits=26, card=CARD)

    # --- the agent --------------------------------------------------------------------------------

    def start_agent(self) -> None:
        settings = [self.settings(address) for address in self.keys]
        self.queue = SwipeQueue([reader.id for reader in settings])
        self.delivery = DeliveryState(self.queue)
        self.session = PortSession(
            settings,
            sink=self.queue,
            clock=SystemClock("always"),
            changed=lambda: None,
            fd_store=self.fd_store,
            reader_keys=ReaderKeys({f"RDR-{address}": key for address, key in self.agent_keys.items()}),
            durability=self.delivery,
        )
        self.thread = threading.Thread(target=self.session.run, args=[lambda _: None])
        self.thread.start()

    def settings(self, address: int) -> ReaderSettings:
        options = {"address": address, "secure": "required" if address in self.agent_keys else "none"}
        return ReaderSettings(
            id=f"RDR-{address}",
            zone_id="Z",
            port=Path(os.ttyname(self.slave)),
            protocol="osdp",
            keypad="none",
            hold_off_ms=0,
            options=options,
        )

    def stop_agent(self) -> None:
        self.session.stop()
        self.thread.join(5.0)
        assert not self.thread.is_alive()

    def reader(self, address: int) -> Reader:
        return next(each for each in self.session.readers if each.settings.id == f"RDR-{address}")

    def is_online(self, address: int) -> bool:
        osdp = self.reader(address).osdp
        assert osdp is not None
        return osdp.link.is_online and osdp.link.is_secure is (address in self.agent_keys)

    def wait_online(self, *addresses: int) -> None:
        wait_until(lambda: all(map(self.is_online, addresses or self.keys)), what="readers online")

    def swipes(self) -> list[str]:
        """The readers of all swipes with the card, in order."""
        return [swipe.reader_id for swipe in self.queue.first(100) if swipe.card.raw == CARD_RAW]

    def wait_for_swipes(self, *expected: str) -> None:
        wait_until(lambda: len(self.swipes()) >= len(expected), what=f"{len(expected)} swipes")
        assert self.swipes() == list(expected)

    def close(self) -> None:
        self.stop_agent()
        self.stop_readers()
        self.fd_store.clear()
        os.close(self.line)
        os.close(self.slave)


@pytest.fixture
def rigs() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def rig_of(
    rigs: ExitStack, keys: dict[int, bytes | None], agent_keys: dict[int, bytes] | None = None
) -> OsdpRig:
    rig = OsdpRig(keys, agent_keys)
    rigs.callback(rig.close)
    return rig


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "secure"])
def test_cards_keys_and_tamper_of_a_reader(rigs: ExitStack, key: bytes | None) -> None:
    rig = rig_of(rigs, {1: key})
    rig.wait_online()

    for _ in range(3):
        rig.card(1)
    rig.order(address=1, keys="1234")
    rig.order(address=1, tamper=1)

    rig.wait_for_swipes("RDR-1", "RDR-1", "RDR-1")
    reader = rig.reader(1)
    wait_until(lambda: reader.counts.keys_discarded == 4, what="four keys")
    wait_until(lambda: reader.conditions.active == {Condition.TAMPER}, what="tamper")
    assert reader.counts.noise.total() == 0


def test_a_card_of_each_reader_of_a_line_is_its_swipe(rigs: ExitStack) -> None:
    rig = rig_of(rigs, {1: KEY, 2: None})
    rig.wait_online()

    for address in (2, 1, 2):
        rig.card(address)
        before = len(rig.swipes())
        wait_until(lambda before=before: len(rig.swipes()) > before, what="a swipe")  # type: ignore[misc]

    assert rig.swipes() == ["RDR-2", "RDR-1", "RDR-2"]


def test_with_another_key_nothing_is_read_and_the_log_says_why(
    rigs: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    rig = rig_of(rigs, {1: KEY}, agent_keys={1: OTHER_KEY})
    reader = rig.reader(1)

    wait_until(lambda: reader.conditions.active == {Condition.KEY_REFUSED}, what="a refused key")
    rig.card(1)
    time.sleep(0.2)

    assert rig.swipes() == []
    lines = [record.getMessage() for record in caplog.records]
    assert sum("no encrypted session" in line for line in lines) == 1
    assert not [line for line in lines if KEY.hex() in line or OTHER_KEY.hex() in line]


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "secure"])
@pytest.mark.parametrize("fault", ["lose", "double"])
def test_after_lost_and_doubled_replies_the_cards_come(
    rigs: ExitStack, key: bytes | None, fault: str
) -> None:
    """libosdp's reader does not repeat a lost reply, and ends its session: the agent begins another one."""
    rig = rig_of(rigs, {1: key})
    rig.wait_online()

    rig.order(**{fault: 3})
    time.sleep(0.3)
    rig.wait_online()
    rig.card(1)
    rig.wait_for_swipes("RDR-1")
    rig.card(1)

    rig.wait_for_swipes("RDR-1", "RDR-1")
    assert rig.reader(1).conditions.active == frozenset()


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "secure"])
def test_a_restart_of_either_side_costs_a_moment(rigs: ExitStack, key: bytes | None) -> None:
    rig = rig_of(rigs, {1: key})
    rig.wait_online()

    rig.stop_readers()
    rig.start_readers()
    started_s = time.monotonic()
    rig.card(1)
    rig.wait_for_swipes("RDR-1")
    took_s = time.monotonic() - started_s
    rig.stop_agent()
    rig.start_agent()
    rig.wait_online()
    rig.card(1)

    rig.wait_for_swipes("RDR-1")
    assert (
        took_s < 30.0
    )  # a session is never waited for as long as other panels do; 2 s are in test_osdp_link.py


def test_green_and_a_beep_come_after_the_swipe_is_on_disk_and_red_while_none_can_be(rigs: ExitStack) -> None:
    rig = rig_of(rigs, {1: KEY})
    rig.wait_online()
    rig.card(1)
    rig.wait_for_swipes("RDR-1")
    time.sleep(0.2)
    before = colours(rig.shown)

    rig.queue.remove_first(1, stored=True)
    wait_until(lambda: any(one["command"] == BUZ for one in rig.shown), what="a beep")
    green = colours(rig.shown)
    rig.queue.problem = OutboxFullError("full")
    wait_until(lambda: colours(rig.shown)[-1] == "permanent 1", what="red")
    rig.queue.remove_first(0, stored=True)
    rig.queue.problem = None
    wait_until(lambda: colours(rig.shown)[-1] == "permanent 0", what="normal")

    assert before == ["permanent 0"]
    assert green == ["permanent 0", "temporary 2"]


def colours(shown: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"{'temporary' if one['temporary'] else 'permanent'} {one['on_color']}"
        for one in shown
        if one["command"] == LED
    ]
