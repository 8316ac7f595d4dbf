"""Faults of the server: credentials, channels, other writers, refused rows."""

from __future__ import annotations

import json
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent import rows
from agent.config.loader import load
from agent.service.snowflake import make_client, pipe_name
from agent.snowpipe import wire
from agent.snowpipe.channel import Append, Channel
from agent.snowpipe.http import Http
from tests.support.agent_process import AGENT_ID, raws
from tests.support.chaos_rig import (
    ChaosRig,
    assert_exactly_once,
    assert_histories_are_whole,
    held,
    once_per_event,
    wait_for,
)
from tests.support.emulator_process import make_key, private_pem, public_pem
from tests.support.in_parallel import Running, add, at_once, names
from tests.support.swipes import swipe, wait_until

_FOREIGN = "f" * 12


# --- credentials ----------------------------------------------------------------------------


def holds_everything(stage: ChaosRig, count: int) -> None:
    """Swipes wait, the status says why, and no row is blamed."""
    before = len(stage.rows())
    stage.swipe(count)
    wait_for(stage, lambda uploader: uploader.get("state") == "holding", "a held uploader")
    assert stage.agent.status()["uploader"]["reason"]
    assert len(stage.rows()) == before
    assert stage.agent.outbox().set_aside == 0


@at_once
def tokens_that_expire_are_renewed(place: Path) -> None:
    with ChaosRig(place) as stage:
        for _ in range(5):
            stage.swipe(5)
            stage.pipe.fault("expire_tokens")

        stage.assert_delivered()


@at_once
def a_revoked_key_holds_everything_until_it_is_restored(place: Path) -> None:
    with ChaosRig(place) as stage:
        stage.swipe(3)
        stage.wait_until_delivered()
        stage.pipe.fault("revoke_key")
        stage.pipe.fault("expire_tokens")
        holds_everything(stage, 20)
        stage.pipe.fault("restore_key")

        stage.assert_delivered()


@at_once
def a_replaced_key_is_read_without_a_restart(place: Path) -> None:
    with ChaosRig(place) as stage:
        stage.swipe(3)
        stage.wait_until_delivered()
        new = make_key("replaced")
        (stage.directory / "pipe" / "rsa_key.pub").write_bytes(public_pem(new))
        stage.pipe.restart()
        stage.pipe.fault("expire_tokens")
        holds_everything(stage, 20)
        stage.pipe.private_key_file.write_bytes(private_pem(new))

        stage.assert_delivered()


@at_once
def a_missing_privilege_holds_everything_until_it_is_granted(place: Path) -> None:
    with ChaosRig(place) as stage:
        stage.pipe.fault("status", on="append", status=403)
        holds_everything(stage, 20)
        stage.pipe.fault("clear")

        stage.assert_delivered()


# --- channels -------------------------------------------------------------------------------


@at_once
def an_invalid_channel_that_still_says_200_is_noticed(place: Path) -> None:
    with ChaosRig(place) as stage:
        for reopens in (0, 2):
            stage.swipe(5)
            stage.pipe.fault("invalidate_channel", reopens=reopens)
            stage.swipe(20)
            stage.wait_until_delivered()

        stage.assert_delivered()


@at_once
def an_invalid_channel_that_refuses_is_reopened(place: Path) -> None:
    with ChaosRig(place) as stage:
        for reopens in (0, 3):
            stage.swipe(5)
            stage.pipe.fault(
                "invalidate_channel", appends="refused", reopens=reopens, code="ERR_CHANNEL_IS_GONE"
            )
            stage.swipe(20)
            stage.wait_until_delivered()

        stage.assert_delivered()


@at_once
def a_channel_deleted_after_its_commits_were_noted_costs_nothing(place: Path) -> None:
    with ChaosRig(place) as stage:
        stage.swipe(10)
        stage.assert_delivered()
        stage.pipe.fault("delete_channel")
        stage.swipe(10)
        stage.assert_delivered()
        stage.pipe.fault("delete_channel")
        stage.restart()
        stage.swipe(10)

        stage.assert_delivered()


@at_once
def commits_that_stall_are_waited_for(place: Path) -> None:
    with ChaosRig(place) as stage:
        stage.pipe.fault("stall_commits")
        stage.swipe(20)
        time.sleep(0.5)
        stage.kill()
        stage.agent.start()
        stage.swipe(20)
        time.sleep(0.5)
        assert stage.rows() == []
        stage.pipe.fault("resume_commits")

        stage.assert_delivered()


# --- another writer -------------------------------------------------------------------------


class Rival:
    """Another process with our key and our channel's name."""

    def __init__(self, stage: ChaosRig) -> None:
        settings = load(stage.agent.config)
        self._account = make_client(settings, Http(ca_file=None))
        name = f"{AGENT_ID}-{stage.agent.outbox().outbox_id}"
        self._channel = Channel(self._account, pipe_name(settings), name)

    def open(self) -> None:
        self._channel.open()

    def append(self, count: int) -> None:
        previous, lines = _FOREIGN, []
        for seq in range(1, count + 1):
            link = rows.RowLink(f"foreign-{seq}", "0" * 16, previous)
            previous, row = rows.render(swipe(seq), link, agent_id="rival")
            lines.append(rows.as_sent(row, rows.RowPosition(_FOREIGN, seq)))
        self._channel.append(Append(wire.compress(lines), "1-" + "0" * 16, f"{count}-{previous}"))

    def close(self) -> None:
        self._account._http.close()


@at_once
def another_writer_that_opens_our_channel_is_overruled(place: Path) -> None:
    with ChaosRig(place) as stage:
        stage.swipe(5)
        with closing(Rival(stage)) as rival:
            for _ in range(3):
                rival.open()
                stage.swipe(10)

        stage.assert_delivered()


@at_once
def another_writers_rows_in_our_channel_swallow_none_of_ours(place: Path) -> None:
    with ChaosRig(place) as stage:
        stage.swipe(5)
        stage.wait_until_delivered()
        with closing(Rival(stage)) as rival:
            rival.open()
            rival.append(1000)
            wait_until(lambda: len(stage.rows()) == 1005, what="foreign rows")
        stage.swipe(30)

        stage.wait_until_delivered()
        wait_until(lambda: stage.agent.outbox().pending == 0, what="no pending swipes")
        ours = [row for row in stage.rows() if row["outbox_id"] != _FOREIGN]
        assert_exactly_once(once_per_event(ours), stage.tags)
        assert_histories_are_whole(ours)
        assert len({row["outbox_id"] for row in ours}) == 2


# --- rows that are not taken ----------------------------------------------------------------


def backlog(stage: ChaosRig, count: int) -> list[int]:
    """Swipes that go to the server together, because it is away for a moment; their tags."""
    stage.pipe.fault("refuse", seconds=1)
    stage.swipe(count)
    return stage.tags[-count:]


@at_once
def rows_that_the_server_refuses_for_a_while_are_set_aside_by_nothing(place: Path) -> None:
    """Only an hour of refusals is evidence against a row: tests/uploader/test_refusals.py."""
    with ChaosRig(place) as stage:
        stage.swipe(3)
        for tag in (4, 15, 16, 43):
            stage.pipe.fault("refuse_rows", field="card_raw", value=raws([tag])[0])
        backlog(stage, 40)
        wait_for(stage, lambda uploader: uploader.get("state") == "holding", "a held uploader")
        assert (held(stage), stage.agent.outbox().set_aside) == ([], 0)
        stage.restart()
        wait_for(stage, lambda uploader: uploader.get("state") == "holding", "a held uploader")
        assert (held(stage), stage.agent.outbox().set_aside) == ([], 0)
        stage.pipe.fault("clear")

        stage.assert_delivered()


@at_once
def rows_that_the_server_could_not_load_are_kept_and_sent_again(place: Path) -> None:
    with ChaosRig(place) as stage:
        stage.swipe(3)
        stage.wait_until_delivered()
        bad = 20
        stage.pipe.fault("reject_rows", field="card_raw", value=raws([bad])[0])
        backlog(stage, 40)
        stage.wait_until_delivered(without=[bad])
        wait_until(lambda: bool(stage.agent.outbox().rejected), what="a rejected range")
        stage.assert_delivered(without=[bad])
        (hold,) = held(stage)
        assert (hold["kind"], hold["first_seq"] <= bad <= hold["last_seq"]) == ("rejected", True)
        shown = stage.command("outbox", "show", str(hold["id"])).stdout.splitlines()
        assert raws([bad])[0] in {json.loads(line)["card_raw"] for line in shown}
        stage.pipe.fault("clear")

        answer = stage.command("replay", "--rejected")

        assert (answer.returncode, held(stage)) == (0, [])
        again = [row for row in stage.rows() if row["replay"]]
        assert [row["seq"] for row in again] == list(range(hold["first_seq"], hold["last_seq"] + 1))
        assert len(once_per_event(stage.rows())) == len(stage.tags)


@at_once
def requests_too_large_for_something_on_the_way_are_split(place: Path) -> None:
    with ChaosRig(place) as stage:
        for limit in ({"max_rows": 7}, {"max_rows": 1}, {"max_bytes": 2_000}):
            stage.pipe.fault("refuse_rows", **limit)
            backlog(stage, 30)
            stage.wait_until_delivered()
            stage.pipe.fault("clear")

        stage.assert_delivered()
        assert stage.agent.outbox().set_aside == 0


_REFUSALS: list[dict[str, Any]] = [
    {"do": "status", "on": "append", "status": 400},
    {"do": "refuse_rows", "max_bytes": 10},
]


def a_server_that_refuses_every_row(refusal: dict[str, Any], place: Path) -> None:
    """Not the rows' fault: all are held, none is set aside for good."""
    with ChaosRig(place) as stage:
        stage.pipe.fault(**refusal)
        backlog(stage, 40)
        wait_for(stage, lambda uploader: uploader.get("state") == "holding", "a held uploader")
        wait_until(lambda: stage.agent.outbox().set_aside == 0, what="no row blamed")
        stage.pipe.fault("clear")

        stage.assert_delivered()


for _refusal in _REFUSALS:
    add(
        f"every row is refused by {_refusal['do']}",
        __name__,
        partial(a_server_that_refuses_every_row, _refusal),
    )


@pytest.mark.parametrize("scenario", names(__name__))
def test_no_swipe_is_lost_or_doubled_when(running: Running, scenario: str) -> None:
    running[scenario].result()
