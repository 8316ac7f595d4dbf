"""The control panel's side against a reader of the tests' own, in simulated time."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.readers.events import Condition, ConditionChange, Noise, NoiseReason
from agent.readers.protocols.osdp.lights import Light
from agent.readers.protocols.osdp.outputs import Colour, steady_led
from tests.support.osdp_device import BUSY, BUZ, DEFAULT_KEY, FMT, KEYPAD, LED, NAK, POLL, OsdpDevice, raw
from tests.support.osdp_simulation import KEY, SimulatedLine, SimulatedReader, simulated

CARDS = list(range(0x1000, 0x1005))
both = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "secure"])


def lose_each(number: int) -> tuple[list[bytes], object]:
    """A fault that loses every n-th frame, and the list of what was lost."""
    lost: list[bytes] = []
    count = 0

    def fault(data: bytes) -> Sequence[bytes]:
        nonlocal count
        count += 1
        if count % number:
            return (data,)
        lost.append(data)
        return ()

    return lost, fault


@both
def test_cards_and_keys_arrive_once_and_in_order(key: bytes | None) -> None:
    reader = simulated(key=key)
    line = SimulatedLine(reader)
    line.run(1.0)
    reader.device.events += [raw(26, card) for card in CARDS]
    reader.device.events.append((KEYPAD, b"\0\4" + b"1234"))

    line.run(1.0)

    assert reader.cards == CARDS
    assert reader.keys == 4
    assert reader.changes(Condition.OFFLINE) == [False]
    assert reader.protocol.link.is_secure is (key is not None)
    assert reader.protocol.link.identity is not None


@both
def test_the_rest_of_a_reply_is_not_due_before_the_line_can_have_carried_it(key: bytes | None) -> None:
    reader = simulated(key=key)
    protocol, byte_s = reader.protocol, 10 / 9600
    reply = reader.device.reply(protocol.data_to_send(0.0))

    before_s = protocol.rest_s(0.1)
    protocol.receive_data(reply[:2], 0.1)
    after_address_s = protocol.rest_s(0.1)
    protocol.receive_data(reply[2:5], 0.1)
    after_header_s = protocol.rest_s(0.1)
    protocol.receive_data(reply[5:], 0.1)

    assert before_s == 0.0
    assert after_address_s == pytest.approx(5 * byte_s)  # the shortest reply has seven bytes
    assert after_header_s == pytest.approx(min(0.03, (len(reply) - 5) * byte_s))
    assert protocol.rest_s(0.1) == 0.0


def test_a_wrong_length_does_not_make_a_turn_longer() -> None:
    protocol = simulated().protocol
    protocol.data_to_send(0.0)

    protocol.receive_data(b"\x53\x81\x00\x05\x0c", 0.1)  # 1280 bytes: more than a second

    timeout_s = protocol.next_timeout()
    assert timeout_s is not None
    assert protocol.rest_s(0.1) == pytest.approx(0.03)
    assert protocol.rest_s(timeout_s - 0.01) == pytest.approx(0.01)


@both
@pytest.mark.parametrize("direction", ["to_device", "to_panel"])
def test_a_lost_frame_costs_one_repeat_and_no_card(key: bytes | None, direction: str) -> None:
    reader = simulated(key=key)
    line = SimulatedLine(reader)
    line.run(1.0)
    lost, fault = lose_each(5)
    setattr(line, direction, fault)
    reader.device.events += [raw(26, card) for card in CARDS]
    before, commands = len(lost), line.commands

    line.run(3.0)

    assert reader.cards == CARDS
    assert len(lost) > before
    # Each lost one was asked for again after 0.25 s, where a poll has 0.05.
    assert line.commands - commands > (3.0 - 0.3 * len(lost)) / 0.06
    assert reader.changes(Condition.OFFLINE) == [False]
    assert reader.device.commands.count(0x61) == 1  # no restart


@both
def test_doubled_replies_are_one_card(key: bytes | None) -> None:
    reader = simulated(key=key)
    line = SimulatedLine(reader)
    line.to_panel = lambda data: (data, data)
    line.run(1.0)
    reader.device.events += [raw(26, card) for card in CARDS]

    line.run(2.0)

    assert reader.cards == CARDS


@both
def test_noise_before_and_after_each_frame_costs_no_card(key: bytes | None) -> None:
    reader = simulated(key=key)
    line = SimulatedLine(reader)
    line.to_panel = lambda data: (b"\x00\x53\x81\xff\xff" + data + b"\x53\x00",)
    reader.device.events += [raw(26, card) for card in CARDS]

    line.run(3.0)

    assert reader.cards == CARDS


@both
def test_a_reader_that_restarts_is_online_again_within_two_seconds(key: bytes | None) -> None:
    reader = simulated(key=key)
    line = SimulatedLine(reader)
    line.run(3.0)

    for _ in range(3):
        reader.device.restart()
        reader.device.events.append(raw(26, 0x1234))
        line.run(2.0)

    assert reader.cards == [0x1234] * 3
    assert reader.device.is_secure is (key is not None)
    assert reader.changes(Condition.OFFLINE) == [False]


@both
@pytest.mark.parametrize("away_s", [3.0, 60.0])
def test_a_reader_that_was_away_is_back_within_two_seconds(key: bytes | None, away_s: float) -> None:
    reader = simulated(key=key)
    line = SimulatedLine(reader)
    line.run(2.0)
    reader.device.silent = True
    line.run(away_s)
    reader.device.silent = False
    reader.device.restart()
    reader.device.events.append(raw(26, 0x1234))
    back_s = line.now

    line.run(2.0)

    assert reader.cards == [0x1234]
    if away_s > 8.0:
        assert reader.changes(Condition.OFFLINE) == [False, True, False]
        assert 8.0 < reader.time_of(Condition.OFFLINE, active=True) - 2.0 < 9.5
        assert reader.time_of(Condition.OFFLINE, active=False) - back_s < 2.0


def test_a_reader_that_never_answers_is_offline_after_eight_seconds() -> None:
    reader = simulated()
    reader.device.silent = True
    line = SimulatedLine(reader)

    line.run(20.0)

    assert reader.changes(Condition.OFFLINE) == [True]
    assert line.commands < 25  # about one a second


def test_with_another_key_there_is_no_session_and_no_card_and_nothing_in_clear_text() -> None:
    reader = simulated()
    reader.device.key = bytes(16)
    reader.device.events.append(raw(26, 0x1234))
    sent: list[bytes] = []
    line = SimulatedLine(reader)
    line.to_device = lambda data: sent.append(data) or (data,)  # type: ignore[func-returns-value]

    line.run(10.0)

    assert reader.changes(Condition.KEY_REFUSED) == [True]
    assert reader.cards == []
    assert {frame[7] for frame in sent} <= {0x11, 0x13}  # the handshake's security blocks
    assert {frame[8] for frame in sent} == {1}  # never the default key
    reader.device.key = KEY
    line.run(2.0)
    assert reader.changes(Condition.KEY_REFUSED) == [True, False]
    assert reader.cards == [0x1234]


def test_in_a_session_no_reply_in_clear_text_is_a_card() -> None:
    reader = simulated()
    line = SimulatedLine(reader)
    line.run(1.0)
    forger = OsdpDevice(1)
    forged = 0

    def forge(data: bytes) -> Sequence[bytes]:
        nonlocal forged
        number = data[4] & 3
        forger.number, forger.last = (number - 2) % 3 + 1 if number else 0, b""
        forger.events.append(raw(26, 0xBAD))
        forged += 1
        return (forger.reply(forger_command(number)),)

    line.to_panel = forge
    line.run(5.0)

    assert forged > 3
    assert reader.cards == []


def forger_command(number: int) -> bytes:
    head = bytes([0x53, 1, 7, 0, number, POLL])
    return head + bytes([-sum(head) % 256])


def test_a_reader_with_the_default_key_is_not_accepted_with_the_configured_one() -> None:
    reader = simulated()
    reader.device.key = DEFAULT_KEY
    line = SimulatedLine(reader)

    line.run(5.0)

    assert not reader.protocol.link.is_secure
    assert reader.changes(Condition.KEY_REFUSED) == [True]


def test_a_reader_that_requires_a_key_is_reported_where_none_is_configured() -> None:
    reader = simulated(key=None)
    reader.device.key, reader.device.requires_key = KEY, True
    line = SimulatedLine(reader)

    line.run(5.0)

    assert reader.changes(Condition.KEY_REFUSED) == [True]


def test_a_command_that_takes_a_session_is_left_out_in_clear_text() -> None:
    reader = simulated(key=None)
    reader.device.refused, reader.device.refusal = {LED}, b"\6"
    line = SimulatedLine(reader)
    reader.protocol.link.lights.show(Light.NORMAL)
    reader.device.events += [raw(26, card) for card in CARDS]

    line.run(3.0)

    assert reader.cards == CARDS
    assert reader.device.commands.count(LED) == 1
    assert True not in reader.changes(Condition.KEY_REFUSED)


@both
def test_busy_is_asked_again_with_the_same_bytes(key: bytes | None) -> None:
    reader = simulated(key=key)
    line = SimulatedLine(reader)
    line.run(1.0)
    sent: list[bytes] = []
    line.to_device = lambda data: sent.append(data) or (data,)  # type: ignore[func-returns-value]
    reader.device.busy = 5
    reader.device.events.append(raw(26, 0x1234))

    line.run(1.0)

    assert len(set(sent[:6])) == 1
    assert reader.cards == [0x1234]
    assert BUSY not in reader.device.commands


def test_a_reader_that_is_always_busy_does_not_stop_the_others() -> None:
    busy, other = simulated(1), simulated(2)
    line = SimulatedLine(busy, other)
    busy.device.busy = 10**6
    other.device.events += [raw(26, card) for card in CARDS]

    line.run(3.0)

    assert other.cards == CARDS


@both
def test_replies_with_a_checksum_are_valid(key: bytes | None) -> None:
    reader = simulated(key=key)
    reader.device.with_crc = False
    reader.device.events += [raw(26, card) for card in CARDS]
    line = SimulatedLine(reader)

    line.run(2.0)

    assert reader.cards == CARDS


def test_a_reader_that_knows_no_crc_is_asked_with_checksums() -> None:
    reader = simulated(key=None)
    line = SimulatedLine(reader)
    line.to_device = lambda data: () if data[5] & 4 else (data,)
    reader.device.events += [raw(26, card) for card in CARDS]

    line.run(12.0)

    assert reader.cards == CARDS


@both
def test_a_reader_that_does_not_count_a_nak_is_asked_again_once(key: bytes | None) -> None:
    """Whether a NAK takes a number is open: what such a reader refuses is not sent again and again."""
    reader = simulated(key=key)
    reader.device.advances_after_nak = False
    reader.device.refused = {LED, 0x67}
    line = SimulatedLine(reader)
    reader.protocol.link.lights.show(Light.NORMAL)
    line.run(5.0)
    reader.device.commands.clear()
    reader.device.events += [raw(26, card) for card in CARDS]

    line.run(3.0)

    assert reader.cards == CARDS
    assert set(reader.device.commands) == {POLL}


def test_a_format_reply_is_a_card() -> None:
    reader = simulated()
    reader.device.events.append((FMT, b"\0\1\x041234"))
    line = SimulatedLine(reader)

    line.run(1.0)

    assert reader.cards == [0x31323334]


def test_a_malformed_card_is_noise() -> None:
    reader = simulated()
    reader.device.events.append((0x50, b"\0\1\x1a\0\xff"))
    line = SimulatedLine(reader)

    line.run(1.0)

    assert [event for _, event in reader.events if isinstance(event, Noise)] == [Noise(NoiseReason.LENGTH)]


def test_damaged_replies_are_noise_and_asked_for_again() -> None:
    reader = simulated()
    line = SimulatedLine(reader)
    line.run(1.0)
    damaged = 3

    def damage(data: bytes) -> Sequence[bytes]:
        nonlocal damaged
        damaged -= 1
        return (data[:-1] + b"\0",) if damaged >= 0 else (data,)

    line.to_panel = damage
    reader.device.events += [raw(26, card) for card in CARDS]
    line.run(5.0)

    assert reader.cards == CARDS
    assert [event for _, event in reader.events if isinstance(event, Noise)] == [
        Noise(NoiseReason.CHECKSUM)
    ] * 3


def test_tamper_and_power_are_reported() -> None:
    reader = simulated()
    line = SimulatedLine(reader)
    line.run(1.0)
    reader.device.events += [(0x48, b"\1\0"), (0x48, b"\0\1"), (0x4B, b"\2")]

    line.run(1.0)

    changes = [event for _, event in reader.events if isinstance(event, ConditionChange)][-6:]
    assert [(change.condition, change.active) for change in changes] == [
        (Condition.TAMPER, True),
        (Condition.POWER, False),
        (Condition.TAMPER, False),
        (Condition.POWER, True),
        (Condition.HEAD_TAMPER, True),
        (Condition.HEAD_MISSING, False),
    ]


@both
def test_green_and_a_beep_and_the_colour_of_the_state(key: bytes | None) -> None:
    reader = simulated(key=key)
    line, lights = SimulatedLine(reader), reader.protocol.link.lights
    lights.show(Light.NORMAL)
    line.run(1.0)
    lights.signal_stored()
    line.run(0.3)
    lights.show(Light.BLOCKED)
    line.run(0.3)

    assert reader.device.outputs == [
        (LED, steady_led(Colour.OFF)),
        (LED, bytes.fromhex("00000201000202 0a00 0000000000")),
        (BUZ, bytes.fromhex("0002010001")),
        (LED, steady_led(Colour.RED)),
    ]
    reader.device.restart()
    line.run(2.0)
    assert reader.device.outputs[4:] == [(LED, steady_led(Colour.RED))]  # it may have forgotten it


def test_a_reader_that_manages_its_light_gets_no_command_for_it() -> None:
    reader = simulated()
    line = SimulatedLine(reader)

    line.run(2.0)

    assert reader.device.outputs == []


# --- several readers on one line ----------------------------------------------------------------


def test_each_reader_of_a_line_has_its_cards() -> None:
    readers = [simulated(1), simulated(2, key=None), simulated(3)]
    line = SimulatedLine(*readers, baudrate=38400)
    for reader in readers:
        reader.device.events += [raw(26, card + reader.device.address) for card in CARDS]

    line.run(2.0)

    assert [reader.cards for reader in readers] == [
        [card + reader.device.address for card in CARDS] for reader in readers
    ]


def test_a_reader_that_sends_noise_leaves_the_others_their_share() -> None:
    noisy, other = simulated(1), simulated(2)
    line = SimulatedLine(noisy, other, baudrate=38400)
    line.to_panel = lambda data: (b"\x53\x81\xa0\x05" * 30,) * 20 if data[1] == 0x81 else (data,)
    line.run(2.0)
    polls = len(other.device.commands)

    line.run(10.0)

    assert len(other.device.commands) - polls > 100
    assert other.changes(Condition.OFFLINE) == [False]


@pytest.mark.parametrize("count", [2, 4])
def test_a_dead_reader_takes_no_more_than_its_share(count: int) -> None:
    readers = [simulated(address) for address in range(1, count + 1)]
    line = SimulatedLine(*readers, baudrate=38400)
    readers[0].device.silent = True
    line.run(12.0)
    polls = [len(reader.device.commands) for reader in readers]

    line.run(10.0)

    rates = [
        (len(reader.device.commands) - before) / 10.0 for reader, before in zip(readers, polls, strict=True)
    ]
    assert rates[0] == 0
    assert min(rates[1:]) > 20 * (1 - 1 / count) * 0.9


def test_a_dead_reader_delays_a_card_of_another_one_by_one_reply_time_at_most() -> None:
    dead, alive = simulated(1), simulated(2)
    line = SimulatedLine(dead, alive)
    dead.device.silent = True
    line.run(12.0)
    worst = 0.0
    for card in range(40):
        alive.device.events.append(raw(26, card))
        shown_s, before = line.now, len(alive.cards)
        while len(alive.cards) == before:
            line.run(0.005)
        worst = max(worst, line.now - shown_s)
        line.run(0.031)

    assert worst < 0.25 + 0.1


# --- anything -------------------------------------------------------------------------------------


def one_percent(seed: int) -> tuple[object, object]:
    chance = random.Random(seed)  # noqa: S311 - a test that can be repeated

    def fault(data: bytes) -> Sequence[bytes]:
        return (data,) if chance.random() > 0.01 else ()

    return fault, fault


@both
def test_with_one_percent_of_all_frames_lost_every_card_arrives_once(key: bytes | None) -> None:
    """Three simulated minutes; a day of it is `python -m bench osdp`."""
    reader = simulated(key=key)
    line = SimulatedLine(reader, baudrate=38400)
    line.to_device, line.to_panel = one_percent(4)  # type: ignore[assignment]
    shown = []
    for card in range(30):
        line.run(6.0)
        reader.device.events.append(raw(26, card))
        shown.append(card)

    line.run(5.0)

    assert reader.cards == shown
    assert True not in reader.changes(Condition.OFFLINE)


frames = st.sampled_from(
    [
        bytes.fromhex("5381080006406a60"),
        bytes.fromhex("5381090004410422b1"),
        bytes.fromhex("53810800047972a1"),
        bytes.fromhex("53811000075000011a0021181cc022cd"),
        bytes.fromhex("53811e000f0218507a4e548e34c924bf42916efc5281d154c52093cf48f9"),
        bytes.fromhex(
            "53812b000c031201765c0b020044332211a0a1a2a3a4a5a6a79bbe9b05c1912e029431f91e37d82d0661bc"
        ),
    ]
)


@both
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_whatever_is_received_raises_nothing_and_the_reader_comes_back(
    key: bytes | None, data: st.DataObject
) -> None:
    reader = simulated(key=key)
    line = SimulatedLine(reader)
    line.run(data.draw(st.sampled_from([0.0, 0.02, 1.0])))
    pieces = st.lists(st.one_of(st.binary(max_size=12), frames), max_size=3)
    line.to_panel = lambda reply: tuple(part for part in data.draw(pieces) if part) or (reply[:-1],)
    line.run(0.5)
    line.to_panel = lambda reply: (reply,)
    line.run(3.0)
    before = len(reader.cards)
    reader.device.events.append(raw(26, 0x1234))

    line.run(2.0)

    assert reader.cards[before:] == [0x1234]


@both
def test_no_key_is_shown(key: bytes | None) -> None:
    reader: SimulatedReader = simulated(key=key)
    line = SimulatedLine(reader)
    line.run(1.0)

    link = reader.protocol.link
    shown = repr(link) + repr(reader.protocol) + repr(vars(link)) + repr(reader.events)

    assert KEY.hex() not in shown
    assert NAK not in reader.device.commands
    assert repr(KEY) not in shown.replace(repr(link._key), "")
