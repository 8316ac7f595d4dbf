"""An installed agent on a machine, and an emulator for its rows: what a test does with them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from tests.support.agent_process import assert_in_order_and_whole, raws, sent_rows
from tests.support.emulator_process import ACCOUNT, DATABASE, PIPE, SCHEMA, USER, EmulatorProcess
from tests.support.machine import Machine, wait_until


class Door:
    """Machine and emulator; `tags` are those presented so far. A wait fails after `within_s`."""

    def __init__(self, machine: Machine, pipe: EmulatorProcess, within_s: float) -> None:
        self.machine = machine
        self.pipe = pipe
        self.tags: list[int] = []
        self._within_s = within_s

    def cut_network(self) -> None:
        """Wait until all rows are committed, then refuse every connection."""
        self.wait_until_pending(0)
        self.pipe.fault("refuse")

    def restore_network(self) -> None:
        """Accept connections again."""
        self.pipe.fault("refuse", seconds=0.1)

    # --- commands of an installer ---------------------------------------------------------------

    def set_up(self, readers: Sequence[str]) -> str:
        """`badge-agent setup --yes`, as for a fleet; returns its output."""
        return self.agent(
            *("setup", "--yes", f"--account={ACCOUNT}", f"--user={USER}", f"--database={DATABASE}"),
            *(f"--schema={SCHEMA}", f"--pipe={PIPE}", "--agent-id=door-1"),
            *(f"--reader={reader}" for reader in readers),
            f"--url={self.pipe.url}",
            check=False,
        )

    def agent(self, *words: str, check: bool = True) -> str:
        """`sudo badge-agent WORDS`; returns its output."""
        return self.machine.run("badge-agent", *words, check=check)

    def register(self, sql: str) -> None:
        """Apply the ALTER USER lines in a text, as an administrator would."""
        found = re.findall(r"ALTER USER \S+ (SET|UNSET) (RSA_PUBLIC_KEY(?:_2)?)(?:='([^']+)')?", sql)
        assert found, f"no ALTER USER in:\n{sql}"
        for verb, name, line in found:
            self.pipe.alter_user(name, line if verb == "SET" else None)

    def signal(self, name: str) -> None:
        """`kill -NAME` to the agent."""
        self.machine.run("systemctl", "kill", f"--signal={name}", "--kill-who=main", "badge-agent")

    # --- observation ----------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """`badge-agent status --json`."""
        printed = self.agent("status", "--json", check=False)
        assert printed.startswith("{"), printed
        status: dict[str, Any] = json.loads(printed)
        return status

    def pid(self) -> int:
        """The agent's process id inside the machine."""
        return int(self.machine.service("MainPID")["MainPID"])

    def open_readers(self) -> set[str]:
        """The readers whose ports are open; none if the agent does not run."""
        status = self.status()
        return {
            reader["id"] for reader in status["readers"] if status["running"] and reader["state"] == "open"
        }

    def wait_until_open(self, *readers: str) -> None:
        """Return when the agent runs and the ports of these readers are open; by default that of RDR-101."""
        wanted = set(readers or ("RDR-101",))
        wait_until(lambda: wanted <= self.open_readers(), f"{sorted(wanted)} are open", self._within_s)

    def wait_until_pending(self, count: int) -> None:
        """Return when `count` swipes are pending in the outbox."""
        wait_until(lambda: self.status()["outbox"]["pending"] == count, f"{count} pending", self._within_s)

    def assert_delivered(self) -> list[dict[str, Any]]:
        """Every tag presented is in the table once, in order, with an unbroken chain; returns the rows."""
        wanted = set(raws(self.tags))

        def all_there() -> bool:
            return wanted <= {row["card_raw"] for row in sent_rows(self.pipe)}

        try:
            wait_until(all_there, "every swipe is in the table", self._within_s)
        except AssertionError:
            missing = wanted - {row["card_raw"] for row in sent_rows(self.pipe)}
            raise AssertionError(f"{len(missing)} swipes are missing\n{self.machine.journal()}") from None
        rows = sent_rows(self.pipe)
        assert_in_order_and_whole(rows, self.tags)
        return rows
