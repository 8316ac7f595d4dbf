"""What is read from systemctl, with a program of that name in front of the machine's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.service import systemctl
from tests.support.programs import install


@pytest.mark.parametrize(
    ("shown", "delay_s"),
    [
        ("NRestarts=0", 0.0),
        ("NRestarts=1", 2.0),
        ("NRestarts=3", 8.0),
        ("NRestarts=50000", 60.0),
        ("NRestarts=3\\nRestartUSecNext=4.6s", 0.0),  # systemd 254 waits by itself
        ("", 0.0),
    ],
)
def test_after_each_failed_start_the_agent_waits_longer_where_systemd_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str, delay_s: float
) -> None:
    install(tmp_path, "systemctl", f"printf '{shown}\\n'")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert systemctl.missing_restart_delay_s() == delay_s
