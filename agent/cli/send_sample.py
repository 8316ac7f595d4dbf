"""badge-agent send-sample: three events to the configured account, without reader or outbox."""

from __future__ import annotations

import contextlib
import json
import random
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import click

from agent import rows
from agent.backoff import Backoff
from agent.cli import config_option
from agent.cli.console import Finding, show
from agent.cli.sql import plan_for
from agent.cli.state_access import load_as_owner
from agent.errors import (
    AgentError,
    AuthError,
    OutcomeUnknownError,
    SnowpipeError,
    TransientError,
    UnreachableError,
)
from agent.service.snowflake import make_client, make_http, pipe_name
from agent.settings import Settings
from agent.snowpipe.channel import Append, Channel
from agent.snowpipe.refusal import CODES_WITH_HINT
from agent.snowpipe.wire import ChannelStatus
from agent.sql.names import literal
from agent.sql.plan import Plan

# Short failures are retried; lasting ones are reported to the administrator.
_TRIES = 4
_FIRST_DELAY_S, _MAX_DELAY_S = 0.5, 4.0
# A commit takes some seconds; the first one into a new pipe can take longer.
_COMMIT_S = 90.0
_FIRST_POLL_S, _LAST_POLL_S = 0.25, 5.0

_OK, _UNAUTHORIZED, _NOT_FOUND = 200, 401, 404

# The sample events of the Snowflake demo, with their signal strength in dBm.
_EVENTS = (
    (
        {"badge_id": "BADGE-001", "user_id": "USR-001", "zone_id": "ZONE-LOBBY-1", "reader_id": "RDR-101"},
        -65.5,
    ),
    (
        {"badge_id": "BADGE-002", "user_id": "USR-002", "zone_id": "ZONE-OFFICE-A", "reader_id": "RDR-102"},
        -58.2,
    ),
    (
        {"badge_id": "BADGE-001", "user_id": "USR-001", "zone_id": "ZONE-OFFICE-A", "reader_id": "RDR-103"},
        -62.1,
    ),
)

# What these failures need is in their own hint.
_CONNECTED = re.compile("TLS|the proxy")

_Answer = TypeVar("_Answer")


@dataclass(slots=True)
class Sent:
    """One event and its outcome; `status` is the HTTP status of the last attempt, None without a reply."""

    badge_id: str
    zone_id: str
    event_id: str
    status: int | None = None
    accepted: bool = False


@dataclass(slots=True)
class Outcome:
    """The result of the command; `committed` if every event is in the table."""

    channel: str
    events: list[Sent] = field(default_factory=list)
    committed: bool = False


@click.command("send-sample", epilog="Example: badge-agent send-sample --config config.toml")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_option
def command(config: Path, *, as_json: bool) -> None:
    """Send three sample events to the configured pipe.

    Tests a new account: it needs the configuration and the key, but no reader, and runs on any
    machine with Python. It waits until Snowflake has committed the rows. They go through the channel
    <agent id>-sample, which is also their agent_id, and have no seq.
    """
    settings = load_as_owner(config, with_key=True)
    plan = plan_for(settings.snowflake)
    outcome = Outcome(channel=f"{settings.agent.id}-sample")
    say = _nothing if as_json else show
    try:
        _send(settings, plan, outcome, say)
    except SnowpipeError as error:
        error.hint = _advice(error, plan, settings.snowflake.url)
        raise
    finally:
        if as_json:
            click.echo(json.dumps(asdict(outcome)))
        else:
            _sum_up(outcome, plan)


def _send(settings: Settings, plan: Plan, outcome: Outcome, say: Callable[[Finding], None]) -> None:
    client = make_client(settings, make_http(settings))
    channel = Channel(client, pipe_name(settings), outcome.channel)
    before = _patiently(channel.open)
    say(Finding("channel", "ok", f"{outcome.channel} is open"))
    # Offset tokens unique to this run: the channel may have committed tokens of an earlier run.
    run = uuid.uuid4().hex[:12]
    for number, (names, strength) in enumerate(_EVENTS, start=1):
        sent = Sent(names["badge_id"], names["zone_id"], str(uuid.uuid4()))
        outcome.events.append(sent)
        row = rows.sample(
            names,
            strength,
            event_id=sent.event_id,
            agent_id=outcome.channel,
            wall_us=int(client.server_clock.now_s() * 1e6),  # correct even if this machine's clock is wrong
        )
        token = f"sample-{run}-{number}"
        try:
            _append(channel, Append(channel.compress([row]), token, token))
            sent.accepted, sent.status = True, _OK
        except SnowpipeError as error:
            sent.status = error.status
            raise
        finally:
            say(_finding(sent))
    seconds = _wait(channel, token, before, plan)
    outcome.committed = True
    # A pipe has room for 2,000 channels; what cannot be dropped now is deleted after 30 days.
    with contextlib.suppress(SnowpipeError):
        channel.drop()
    say(Finding("commit", "ok", f"all are in the table, {seconds:.1f} s after the last answer"))


def _append(channel: Channel, append: Append) -> None:
    def again() -> None:
        try:
            channel.append(append)
        except TransientError:
            append.tries.count += 1
            raise

    _patiently(again)


def _wait(channel: Channel, token: str, before: ChannelStatus, plan: Plan) -> float:
    """The seconds until the last token is committed.

    Raises AgentError when that takes too long, or when rows were skipped.
    """
    started = time.monotonic()
    delay = _FIRST_POLL_S
    while not _reaches((status := _patiently(channel.status)).committed_token, token):
        if time.monotonic() - started > _COMMIT_S:
            raise AgentError(
                f"Snowflake took the events but has not committed them within {_COMMIT_S:.0f} s",
                hint="look for them in a few minutes; "
                f"until then, in Snowflake: SELECT SYSTEM$PIPE_STATUS({literal(plan.pipes[0])});",
            )
        time.sleep(delay)
        delay = min(delay * 2, _LAST_POLL_S)
    skipped = (status.rows_error_count or 0) - (before.rows_error_count or 0)
    if skipped > 0:
        raise AgentError(
            f"Snowflake skipped {skipped} of {len(_EVENTS)} events: {status.last_error_message}",
            hint="the view V_CHANNEL_ERRORS has them; badge-agent sql --only setup shows the table they fit",
        )
    return time.monotonic() - started


def _reaches(committed: str | None, token: str) -> bool:
    """True if a committed token of the same run is this one or a later one: Snowflake may skip tokens."""
    run, _, number = (committed or "").rpartition("-")
    wanted_run, _, wanted = token.rpartition("-")
    return run == wanted_run and number.isdecimal() and int(number) >= int(wanted)


def _patiently(ask: Callable[[], _Answer]) -> _Answer:
    """Ask again what Snowflake could not answer at this moment. Raises the last try's SnowpipeError."""
    backoff = Backoff(first=_FIRST_DELAY_S, cap=_MAX_DELAY_S, random=random.random)
    for _ in range(_TRIES - 1):
        try:
            return ask()
        except TransientError as error:
            delay = max(error.retry_after or 0.0, backoff.next())
            is_for_a_moment = not isinstance(error, UnreachableError) and error.status != _NOT_FOUND
            if not is_for_a_moment or delay > _MAX_DELAY_S:
                raise
            time.sleep(delay)
    return ask()


# --- output -----------------------------------------------------------------------------------


def _nothing(_finding: Finding) -> None:
    """Print nothing: with --json only the result is printed."""


def _finding(sent: Sent) -> Finding:
    status = "no answer" if sent.status is None else f"HTTP {sent.status}"
    return Finding(f"{sent.badge_id} -> {sent.zone_id}", "ok" if sent.accepted else "failed", status)


def _sum_up(outcome: Outcome, plan: Plan) -> None:
    accepted = sum(sent.accepted for sent in outcome.events)
    committed = "committed" if outcome.committed else "not known to be committed"
    click.echo(f"\n{accepted} of {len(_EVENTS)} events accepted, {committed}")
    if outcome.committed:
        theirs = f"{plan.table} WHERE agent_id = {literal(outcome.channel)};"
        click.echo(f"  show them:    SELECT * FROM {theirs}")  # noqa: S608 - printed, and quoted where needed
        # A pipe without the column agent_id, such as the demo's, commits the events as any other.
        click.echo("  no row there: the pipe does not fill every column; badge-agent sql --only replace-pipe")
        click.echo(f"  remove them:  DELETE FROM {theirs}")  # noqa: S608 - as above


def _advice(error: SnowpipeError, plan: Plan, url: str) -> str:
    """The next step for an administrator; the hint of the error itself is for a door."""
    if error.code in CODES_WITH_HINT - {"390144"}:
        return error.hint
    if isinstance(error, AuthError) and error.status == _UNAUTHORIZED:
        return (
            f"in Snowflake: DESC USER {plan.user}; its RSA_PUBLIC_KEY_FP or RSA_PUBLIC_KEY_2_FP must be what "
            "badge-agent key fingerprint prints, and this machine's clock must be correct; "
            "badge-agent sql --only access sets the key"
        )
    if isinstance(error, AuthError):
        return f"in Snowflake: SHOW GRANTS TO ROLE {plan.role}; badge-agent sql --only access grants the rest"
    if error.status == _NOT_FOUND and not isinstance(error, TransientError):
        return (
            f"in Snowflake: SHOW PIPES IN SCHEMA {plan.schema}; badge-agent sql --only setup makes the pipe"
        )
    if isinstance(error, UnreachableError | OutcomeUnknownError) and not _CONNECTED.search(str(error)):
        return (
            f"check the connection: curl -sS {url}; check the account name; "
            "with a proxy: [snowflake] proxy in the configuration"
        )
    return error.hint or "badge-agent check shows which prerequisite fails"
