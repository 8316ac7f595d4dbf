"""Fixtures of the package tests, and their transcript: one line per test at the end of the run."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.support import debian_root
from tests.support.installed_agent import InstalledAgent
from tests.support.paths import ROOT

_RELEASES = os.environ.get("RELEASES", "trixie bookworm").split()
_NATIVE = debian_root.host_architecture()
_ARCH = os.environ.get("ARCH", _NATIVE)
# systemd does not boot under emulation.
collect_ignore = ["test_foreign.py"] if _ARCH == _NATIVE else ["test_door.py"]

# Unpacking, booting or an upgrade, on a busy machine and, for another processor, under emulation.
_LONGEST_TEST_S = 1800

CONFIG = "etc/badge-agent/config.toml"

_FIGURES = pytest.StashKey[str]()
_BROKEN = pytest.StashKey[str]()
_LINES: list[str] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "door" in metafunc.fixturenames:
        releases = [debian_root.Release(name, _ARCH) for name in _RELEASES]
        metafunc.parametrize(
            "door", releases, indirect=True, scope="module", ids=[release.name for release in releases]
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(_LONGEST_TEST_S))


@pytest.fixture(scope="session")
def package() -> Path:
    """The package of this checkout, built by `make deb`."""
    made = _run("make", "--no-print-directory", "deb")
    return ROOT / made.split()[-1]


def newer(package: Path, directory: Path) -> Path:
    """The same package with the next version number."""
    root = _unpacked(package, directory)
    _change_version(root, ".1")
    return _packed(root)


def earlier(package: Path, directory: Path) -> Path:
    """The same package as version 0.1.0 had it: its configuration is a file of the package."""
    root = _unpacked(package, directory)
    _change_version(root, "~earlier")
    example = root / "usr/share/doc/badge-agent/examples/config.example.toml"
    # Another text than that of the next version, which would make dpkg ask if that still had the file.
    (root / CONFIG).write_text("# An example.\n" + example.read_text())
    (root / "DEBIAN/conffiles").write_text(f"/{CONFIG}\n")
    return _packed(root)


def _unpacked(package: Path, directory: Path) -> Path:
    _run("dpkg-deb", "--raw-extract", str(package), str(directory / "package"))
    return directory / "package"


def _change_version(root: Path, suffix: str) -> None:
    for path in (root / "DEBIAN/control", root / "usr/share/badge-agent/agent/__init__.py"):
        text = path.read_text()
        changed = re.sub(
            r'^(Version: |__version__ = ")([0-9.]+)', rf"\g<1>\g<2>{suffix}", text, flags=re.MULTILINE
        )
        assert changed != text
        path.write_text(changed)


def _packed(root: Path) -> Path:
    made = _run("dpkg-deb", "--root-owner-group", "--build", str(root), str(root.parent))
    return Path(made.split("'")[-2])


def _run(*words: str) -> str:
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def door(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InstalledAgent]:
    """An installed agent on one release, shared by the tests of a module."""
    release: debian_root.Release = request.param
    with InstalledAgent(release, tmp_path_factory.mktemp("system")) as door:
        yield door


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds what was measured to the test's line in the transcript."""

    def add(figures: str) -> None:
        request.node.stash[_FIGURES] = figures

    return add


def pytest_runtest_setup(item: pytest.Item) -> None:
    # Each test continues from the state that the previous one left.
    if item.parent is not None and item.parent.stash.get(_BROKEN, None) == _release(item):
        pytest.skip("a previous step failed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and item.parent is not None:
        item.parent.stash[_BROKEN] = _release(item)
    if report.when == "call" or not report.passed:
        name = item.name.partition("[")[0].removeprefix("test_").replace("_", " ")
        figures = item.stash.get(_FIGURES, "")
        mark = {"passed": "ok    ", "failed": "FAILED"}.get(report.outcome, report.outcome)
        _LINES.append(f"{mark}  {_release(item) or 'package'}: {name}" + (f" ({figures})" if figures else ""))
    return report


def _release(item: pytest.Item) -> str:
    return item.name.partition("[")[2].removesuffix("]")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("the package on a booted Debian")
    for line in _LINES:
        terminalreporter.write_line(line)
