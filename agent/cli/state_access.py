"""The way of every command to the state and runtime directories: as their owner, never as root."""

from __future__ import annotations

from pathlib import Path

from agent.config.loader import load
from agent.keys import systemd_creds
from agent.owner import become_owner
from agent.settings import Settings


def load_as_owner(config: Path, *, with_key: bool = False) -> Settings:
    """Load the configuration, then give up root for the owner of the state directory, for good.

    `with_key`: read the service's key before, which only root may. Raises ConfigError.
    """
    settings = load(config)
    give_up_root(settings, with_key=with_key)
    return settings


def give_up_root(settings: Settings, *, with_key: bool = False) -> None:
    """As load_as_owner(), for settings that are loaded."""
    first = systemd_creds.remember if with_key else None
    become_owner(settings.agent.state_dir, settings.agent.runtime_dir, first=first)
