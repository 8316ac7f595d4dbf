"""The package on another processor, under emulation: systemd does not boot there, all else is real.

Run it with: make test-system ARCH=arm64
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import debian_root
from tests.support.agent_process import assert_in_order_and_whole, rdm6300_frame, sent_rows
from tests.support.emulator_process import ACCOUNT, DATABASE, PIPE, SCHEMA, USER, EmulatorProcess
from tests.support.machine import wait_until
from tests.support.paths import ROOT

PORT = "/dev/serial/by-id/usb-Stand-in_RDM6300_0001-if00-port0"
_STAND_IN = ROOT / "tests" / "support" / "stand_in_reader.py"
_COMMAND_S = 1200.0
_SWIPE_S = 180.0


class Root:
    """A Debian for another processor; each command in it is a container of its own."""

    def __init__(self, directory: Path, release: debian_root.Release) -> None:
        self.directory = directory
        debian_root.unpack(release, directory)
        self._cache = debian_root.package_cache(release)

    def words(self, *words: str) -> list[str]:
        """The host's command line that runs a command in this root."""
        return [
            *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--pipe"),
            *(f"--directory={self.directory}", f"--bind={self._cache}:/var/cache/apt/archives"),
            *("--setenv=DEBIAN_FRONTEND=noninteractive", *words),
        ]

    def run(self, *words: str) -> str:
        """Run a command; returns its standard output."""
        ended = subprocess.run(
            self.words(*words), capture_output=True, text=True, timeout=_COMMAND_S, check=False
        )
        assert ended.returncode == 0, f"{words}: exit {ended.returncode}\n{ended.stdout}{ended.stderr}"
        return ended.stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    release = debian_root.Release(os.environ.get("RELEASES", "trixie").split()[0], os.environ["ARCH"])
    return Root(tmp_path_factory.mktemp("foreign") / release.name, release)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    with EmulatorProcess(tmp_path_factory.mktemp("pipe")) as pipe:
        yield pipe


def test_apt_installs_it(root: Root, package: Path) -> None:
    (root.directory / "root" / package.name).write_bytes(package.read_bytes())
    root.run("apt-get", "update")

    root.run("apt", "install", "--yes", "--no-install-recommends", f"/root/{package.name}")

    assert root.run("badge-agent", "--version").startswith("badge-agent ")


def test_a_card_is_decoded(root: Root) -> None:
    answer = json.loads(root.run("badge-agent", "decode", "bits", "26:2F657AE", "--json"))

    assert answer["outcomes"][0]["format"] == "H10301"


def test_the_check_has_nothing_to_say_against_it(root: Root, pipe: EmulatorProcess) -> None:
    config = root.directory / "etc/badge-agent/config.toml"
    config.write_text(f"""
[agent]
id = "door-1"
runtime_dir = "/var/lib/badge-agent/run"
[[readers]]
id = "RDR-101"
zone_id = "ZONE-LOBBY-1"
port = "{PORT}"
protocol = "rdm6300"
[snowflake]
account = "{ACCOUNT}"
user = "{USER}"
database = "{DATABASE}"
schema = "{SCHEMA}"
pipe = "{PIPE}"
private_key_file = "rsa_key.p8"
url = "{pipe.url}"
[clock]
trust = "always"
""")
    key = config.with_name("rsa_key.p8")
    key.touch(mode=0o600)
    key.write_bytes(pipe.private_key_file.read_bytes())
    (root.directory / "root/stand_in_reader.py").write_bytes(_STAND_IN.read_bytes())

    checked = root.run(
        *("sh", "-c"),
        f"(sleep 600 | python3 /root/stand_in_reader.py {PORT} >/dev/null) & "
        f"while ! [ -e {PORT} ]; do sleep 1; done; badge-agent check --offline",
    )

    assert "failed" not in checked


def test_a_swipe_becomes_a_row(root: Root, pipe: EmulatorProcess) -> None:
    script = (
        f"(python3 /root/stand_in_reader.py {PORT} <&3) & while ! [ -e {PORT} ]; do sleep 1; done; "
        "exec badge-agent run"
    )
    agent = subprocess.Popen(
        root.words("sh", "-c", f"exec 3<&0; {script}"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert agent.stdin is not None
    status = root.directory / "var/lib/badge-agent/run/status.json"
    try:
        wait_until(lambda: status.exists() and '"open"' in status.read_text(), "an open port", _SWIPE_S)
        agent.stdin.write(rdm6300_frame(1).hex().encode() + b"\n")
        agent.stdin.flush()
        wait_until(lambda: bool(pipe.rows()), "the row", _SWIPE_S)
    finally:
        agent.terminate()
        agent.communicate(timeout=60)

    assert_in_order_and_whole(sent_rows(pipe), [1])
