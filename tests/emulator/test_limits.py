"""The documented limits, and many doors in parallel."""

from __future__ import annotations

import asyncio
import gzip
import resource
from pathlib import Path

import aiohttp
from hypothesis import given
from hypothesis import strategies as st

from agent.emulator.limits import CHANNELS_PER_PIPE, Bucket, Peak
from tests.support.emulator_process import EmulatorProcess
from tests.support.emulator_rig import EmulatorRig, error_code, ndjson, row

THROTTLED = (429, "390701")
ONE_GIBIBYTE_KB = 1024 * 1024

GAPS = st.lists(st.floats(0, 0.5), min_size=1, max_size=60)


def test_more_than_ten_requests_at_once_are_throttled_and_lose_no_token(tmp_path: Path) -> None:
    with EmulatorProcess(tmp_path) as emulator:
        door = EmulatorRig(emulator.url).opened()
        other = EmulatorRig(emulator.url)

        replies = [door.append([row()]) for _ in range(40)]

        throttled = [reply for reply in replies if reply.status_code != 200]
        assert len(replies) - len(throttled) >= 9
        assert {error_code(reply) for reply in throttled} == {THROTTLED}
        assert other.open().status_code == 200  # the rate is each channel's own


def test_more_than_twenty_megabytes_a_second_are_throttled(tmp_path: Path) -> None:
    three_seconds = gzip.compress(b" " * 60_000_000)
    with EmulatorProcess(tmp_path) as emulator:
        door = EmulatorRig(emulator.url).opened()
        other = EmulatorRig(emulator.url).opened()

        taken = door.append(three_seconds, headers={"Content-Encoding": "gzip"})
        refused = door.append([row()])

        assert taken.status_code == 200
        assert error_code(refused) == THROTTLED
        assert other.append([row()]).status_code == 200


def test_limits_can_be_lifted(emulator: EmulatorProcess) -> None:
    door = EmulatorRig(emulator.url).opened()

    codes = {door.append([row()]).status_code for _ in range(40)}

    assert codes == {200}


@given(gaps=GAPS)
def test_a_bucket_never_lets_more_through_than_its_rate_and_one_second_more(gaps: list[float]) -> None:
    bucket, now, taken = Bucket(10), 100.0, 0
    for gap in gaps:
        now += gap
        if bucket.allows(now, 1.0):
            bucket.take(1.0)
            taken += 1

    assert taken <= 10 + (now - 100.0) * 10 + 1e-6


def test_a_steady_client_at_the_rate_is_never_throttled() -> None:
    bucket = Bucket(10)

    allowed = []
    for number in range(1000):
        jitter = 0.02 if number % 3 == 0 else 0.0
        allowed.append(bucket.allows(100 + number * 0.1 + jitter, 1.0))
        bucket.take(1.0)

    assert all(allowed)


@given(gaps=GAPS)
def test_a_peak_is_the_fullest_second(gaps: list[float]) -> None:
    peak, times, now = Peak(), [], 0.0
    for gap in gaps:
        now += gap
        times.append(now)
        peak.add(now)

    assert peak.highest == max(sum(end - 1.0 < at <= end for at in times) for end in times)


async def _visit(session: aiohttp.ClientSession, door: EmulatorRig, number: int) -> int:
    headers = {"Authorization": f"Bearer {door.scoped}"}
    channel = f"{door.url}{door.pipe_path}/channels/many-{number}"
    async with session.put(channel, json={}, headers=headers) as reply:
        body = await reply.json()
        if reply.status != 200:
            return reply.status
    rows_url = channel.replace("/v2/streaming/", "/v2/streaming/data/", 1) + "/rows"
    query = {"continuationToken": body["next_continuation_token"], "offsetToken": "1"}
    async with session.post(rows_url, params=query, data=ndjson([row(seq=number)]), headers=headers) as reply:
        await reply.read()
        return reply.status


async def _visit_all(door: EmulatorRig, count: int) -> list[int]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers={"Accept": "*/*"}) as session:
        return await asyncio.gather(*(_visit(session, door, number) for number in range(count)))


def test_two_thousand_doors_at_once_and_not_one_more(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with EmulatorProcess(tmp_path) as emulator:
        door = EmulatorRig(emulator.url, channel="many-0")

        codes = asyncio.run(_visit_all(door, CHANNELS_PER_PIPE))
        door.committed("1")
        one_more = EmulatorRig(emulator.url).open()

        assert codes == [200] * CHANNELS_PER_PIPE
        assert error_code(one_more) == (400, "ERR_CHANNEL_LIMIT_EXCEEDED")
        peak = Path(f"/proc/{emulator.pid}/status").read_text(encoding="ascii").partition("VmHWM:")[2]
        assert int(peak.split()[0]) < ONE_GIBIBYTE_KB
