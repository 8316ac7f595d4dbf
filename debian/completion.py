"""Prints the completion of the command line for bash."""

from __future__ import annotations

from click.shell_completion import BashComplete

from agent.cli import _group

print(BashComplete(_group, {}, "badge-agent", "_BADGE_AGENT_COMPLETE").source(), end="")
