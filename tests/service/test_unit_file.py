from __future__ import annotations

import subprocess

from tests.support.needs import SYSTEMD_ANALYZE, needs
from tests.support.paths import ROOT

MOST_EXPOSURE = 1.2  # out of 10


def test_systemd_sees_in_the_unit_file_alone_how_little_the_service_may_do() -> None:
    needs(SYSTEMD_ANALYZE)

    analysis = subprocess.run(
        [
            *("systemd-analyze", "security", "--no-pager", "--offline=true"),
            *(f"--threshold={MOST_EXPOSURE * 10:.0f}", ROOT / "systemd/badge-agent.service"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert analysis.returncode == 0, analysis.stdout + analysis.stderr
