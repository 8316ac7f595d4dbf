"""What tests of several rooms share, the order of the files, and the last line of a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from agent.keys.keypair import generate_key
from tests.support.agent_process import PtyReader
from tests.support.emulator_process import EmulatorProcess
from tests.support.needs import summary

_NOBODY = 65_534

# The time to generate inputs depends on the load of the machine, not on the program.
hypothesis_settings.register_profile("shared", suppress_health_check=[HealthCheck.too_slow], deadline=None)
hypothesis_settings.load_profile("shared")

# A runner started in the background ignores SIGINT, and every process the tests start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


# The files that take longest, longest first. A file runs on one worker, so these have to begin early.
_LONGEST = (
    *(
        "simulation/test_simulation.py",
        "test_main_job.py",
        "powercut/test_power_cut.py",
        "chaos/test_kill.py",
        "chaos/test_server.py",
    ),
    *("chaos/test_file.py", "cli/key/test_rotate.py", "service/test_watchdog.py", "cli/setup/test_setup.py"),
    *("chaos/test_disk.py", "outbox/recovery/test_rebuild.py", "cli/demo/", "test_disk_writes.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((n for n, name in enumerate(_LONGEST) if f"tests/{name}" in item.nodeid), len(_LONGEST))

    items.sort(key=rank)  # stable: the others stay as they were


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """After everything else that pytest prints: what was skipped. A worker has no terminal.

    Their names are written into the file SKIPPED_TO, one a line: .ci/run runs them on another machine.
    """
    result = yield
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not session.config.option.collectonly:
        reports = terminal.stats.get("skipped", [])
        terminal.write_line(summary(report.longrepr[2] for report in reports))
        if name := os.environ.get("SKIPPED_TO"):
            names = "".join(f"{report.nodeid}\n" for report in reports)
            Path(name).write_text(names, encoding="utf-8")
    return result


@pytest.fixture(scope="session")
def rsa_key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh 2048-bit key, made once per run because making one takes a while."""
    path = tmp_path_factory.mktemp("keys") / "rsa_key.p8"
    generate_key(path)
    return path


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[EmulatorProcess]:
    """A pipe of this test's own."""
    with EmulatorProcess(tmp_path / "pipe") as emulator:
        yield emulator


@pytest.fixture
def line(tmp_path: Path) -> Iterator[PtyReader]:
    """A reader on a serial line of this test's own."""
    with PtyReader(tmp_path / "reader") as line:
        yield line


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """An ordinary user for the length of a test: file modes do not bind root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
