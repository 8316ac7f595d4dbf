"""Prints on standard error that rows of a damaged outbox file are still being moved."""

from __future__ import annotations

from pathlib import Path

import click

from agent.outbox.external.counts import recovery_of


def note_recovery(state_dir: Path) -> None:
    """Print one line if a recovery is under way. Raises OutboxError, NotPermittedError."""
    recovery = recovery_of(state_dir)
    if recovery is not None:
        click.echo(
            f"note: rows of {recovery.name} are being recovered ({recovery.done:,} of {recovery.total:,}); "
            "those that are not moved yet are not included",
            err=True,
        )
