"""The agent's requests compared with those of the vendor's SDK: the same shape, with listed exceptions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.cli import main
from tests.support.conformance_rig import ConformanceRig, Shape, Vendor, shapes
from tests.support.emulator_process import ACCOUNT, DATABASE, PIPE, SCHEMA, USER
from tests.support.paths import DATA

RECORDED: dict[str, Shape] = json.loads((DATA / "vendor-requests.json").read_text(encoding="utf-8"))

# Every difference and its reason: requests of the SDK's that the agent does not make ...
NOT_MADE = {
    "pipe-info": "asks for cloud storage to upload large batches to; the agent's go in the request",
}
# ... headers that the SDK sends and the agent does not ...
NOT_SENT = {
    "accept-charset": "JSON is UTF-8 (RFC 8259, 8.1)",
    "x-snowflake-min-append-timestamp-ms": "how long rows have waited in the client; nothing depends on it",
}
# ... and headers that the agent sends and the SDK does not.
SENT_BESIDES = {
    "accept-encoding": "identity: answers are small, and what unfolds cannot be a surprise",
    "connection": "keep-alive, which HTTP/1.1 means without saying so",
}


@pytest.fixture(scope="module")
def agents(stage: ConformanceRig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shape]:
    """What the agent asks for on the way to three committed rows, by all of its own rooms."""
    config = tmp_path_factory.mktemp("agent") / "config.toml"
    config.write_text(
        f"""
        [agent]
        id = "door"
        [[readers]]
        id = "RDR-101"
        zone_id = "ZONE-LOBBY-1"
        port = "/dev/ttyUSB0"
        protocol = "rdm6300"
        [snowflake]
        account = "{ACCOUNT}"
        user = "{USER}"
        role = "SFE_INGEST_ROLE"
        database = "{DATABASE}"
        schema = "{SCHEMA}"
        pipe = "{PIPE}"
        private_key_file = "{stage.emulator.private_key_file}"
        url = "{stage.emulator.url}"
        ca_file = "{stage.ca_file}"
        """
    )
    before = len(stage.seen())

    assert main(["send-sample", "--json", "--config", str(config)]) == 0

    return shapes(stage.seen()[before:])


def test_the_sdk_still_asks_as_it_was_recorded(stage: ConformanceRig, vendor: Vendor) -> None:
    before = len(stage.seen())

    vendor("rows", "6000")

    assert shapes(stage.seen()[before:]) == RECORDED


def test_the_agent_makes_the_requests_of_the_sdk_but_for_those_listed(agents: dict[str, Shape]) -> None:
    assert RECORDED.keys() - agents.keys() == NOT_MADE.keys()
    assert agents.keys() <= RECORDED.keys()


@pytest.mark.parametrize("endpoint", sorted(RECORDED.keys() - NOT_MADE.keys()))
@pytest.mark.parametrize("part", ["method", "path", "query", "content_type", "content_encoding"])
def test_a_request_has_the_shape_of_the_sdks(agents: dict[str, Shape], endpoint: str, part: str) -> None:
    assert agents[endpoint][part] == RECORDED[endpoint][part]


def test_a_request_has_the_headers_of_the_sdks_but_for_those_listed(agents: dict[str, Shape]) -> None:
    missing, besides = _differences(agents)

    assert missing == NOT_SENT.keys()
    assert besides == SENT_BESIDES.keys()


def _differences(agents: dict[str, Any]) -> tuple[set[str], set[str]]:
    missing, besides = set(), set()
    for endpoint, shape in agents.items():
        theirs = set(RECORDED[endpoint]["headers"])
        missing |= theirs - set(shape["headers"])
        besides |= set(shape["headers"]) - theirs
    return missing, besides
