"""badge-agent replay: send kept rows again, exactly once, without interrupting live delivery."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from agent import rows
from agent.cli import config_option
from agent.cli.console import progress
from agent.cli.operator_action import action, record
from agent.cli.recovery_note import note_recovery
from agent.cli.state_access import load_as_owner
from agent.errors import AgentError, OutboxBusyError, OutboxInUseError
from agent.outbox import state_lock
from agent.outbox.external import replay_queue
from agent.service import drain
from agent.service.status_file import read_status
from agent.settings import Settings

_POLL_S = 0.2


def _end(_context: click.Context, parameter: click.Parameter, value: str | None) -> int | datetime | None:
    """Parse a seq, or a time in ISO 8601 (UTC without an offset)."""
    if value is None:
        return None
    if value.isascii() and value.isdecimal():
        return int(value)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is neither a seq such as 1200 nor a time such as 2026-11-23T08:00", param=parameter
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.command(
    epilog="""
\b
  badge-agent replay --from 1200 --to 1300 --dry-run
  badge-agent replay --from 2026-11-23T08:00 --to 2026-11-23T09:30
  badge-agent replay --rejected
"""
)
@config_option
@click.option(
    "--from", "first", callback=_end, metavar="SEQ|TIME", help="First row: its seq, or a time (UTC)."
)
@click.option("--to", "last", callback=_end, metavar="SEQ|TIME", help="Last row, inclusive.")
@click.option("--rejected", is_flag=True, help="All ranges in which Snowflake counted errors.")
@click.option("--set-aside", is_flag=True, help="All rows that Snowflake refused.")
@click.option("--dry-run", is_flag=True, help="Print the rows instead of sending them.")
def command(
    config: Path,
    first: int | datetime | None,
    last: int | datetime | None,
    *,
    rejected: bool,
    set_aside: bool,
    dry_run: bool,
) -> int:
    """Send rows again that are kept on this machine.

    Rows are unchanged except for "replay": true. They go through a channel of their own, after live
    swipes, exactly once. Ctrl-C does not cancel a replay: a running agent continues it, and so does
    the next start after a power cut.
    """
    settings = load_as_owner(config, with_key=not dry_run)
    state_dir = settings.agent.state_dir
    note_recovery(state_dir)
    ranges = replay_queue.find(state_dir, _wanted(first, last, rejected=rejected, set_aside=set_aside))
    total = sum(wanted.rows for wanted in ranges)
    chosen = "rejected rows" if rejected else "rows set aside" if set_aside else "rows of a range"
    if dry_run:
        record(settings, "replay_dry_run", f"read {total} {chosen}", rows=total)
        for row in replay_queue.rows_in(state_dir, ranges):
            sys.stdout.write(rows.as_replay(row).decode() + "\n")
        return 0
    done = action(settings, "replay", f"requested {total} {chosen} to be sent again", rows=total)
    ids = replay_queue.request(state_dir, ranges, done)
    return _follow(settings, ids, total)


def _wanted(
    first: int | datetime | None, last: int | datetime | None, *, rejected: bool, set_aside: bool
) -> replay_queue.Wanted:
    asked = [rejected, set_aside, first is not None or last is not None]
    if sum(asked) != 1:
        raise click.UsageError("choose the rows: --from and/or --to, or --rejected, or --set-aside")
    if rejected or set_aside:
        return replay_queue.Wanted(kind="rejected" if rejected else "set_aside")
    return replay_queue.Wanted(
        first_seq=first if isinstance(first, int) else None,
        last_seq=last if isinstance(last, int) else None,
        first_us=_microseconds(first),
        last_us=_microseconds(last),
    )


def _microseconds(end: int | datetime | None) -> int | None:
    return int(end.timestamp() * 1_000_000) if isinstance(end, datetime) else None


def _follow(settings: Settings, ids: list[int], total: int) -> int:
    """Drain the outbox here, or wake the running agent and wait for it; shows the progress."""
    state_dir = settings.agent.state_dir
    with progress(total, "rows replayed") as advance:
        left = total

        def show() -> bool:
            nonlocal left
            now_left = replay_queue.rows_to_replay(state_dir, ids)
            advance(left - now_left)
            left = now_left
            return left > 0

        while left:
            try:
                drain.drain(settings, while_true=show)
            except OutboxInUseError:
                if _wakes_agent(state_dir):
                    _wait(settings, show)
                else:
                    time.sleep(_POLL_S)  # it has just begun or ended, or its pid is not known
                    show()
            except OutboxBusyError:
                _wait_for_other_replay(state_dir, show)
    return 0 if left == 0 else 1


def _wakes_agent(state_dir: Path) -> bool:
    """Make the running agent send the replay; False if there is none yet, or none any more."""
    try:
        return state_lock.signal_holder(state_dir, signal.SIGUSR1) is not None
    except PermissionError:
        raise AgentError(
            "the replay is stored in the outbox, but this user may not signal the agent",
            hint="it starts with the next swipe; to start it now, run this command with sudo",
        ) from None


def _wait_for_other_replay(state_dir: Path, show: Callable[[], bool]) -> None:
    """Until the other one ends, which may send these rows as well."""
    while show():
        time.sleep(_POLL_S)
        if not state_lock.is_open(state_dir) or state_lock.is_held(state_dir):
            return


def _wait(settings: Settings, show: Callable[[], bool]) -> None:
    reported = ""
    while show():
        if not state_lock.is_held(settings.agent.state_dir):
            raise AgentError(
                "the agent stopped; the replay continues when it runs again",
                hint="sudo systemctl start badge-agent",
            )
        uploader = read_status(settings.agent.id, settings.agent.state_dir, settings.agent.runtime_dir)[
            "uploader"
        ]
        reason = (uploader or {}).get("reason") or ""
        if reason and reason != reported:
            click.echo(f"waiting: {reason}", err=True)
            reported = reason
        time.sleep(_POLL_S)
