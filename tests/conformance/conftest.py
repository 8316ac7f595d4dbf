"""An emulator with a certificate of a private CA, and the vendor's SDK to send to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.conformance_rig import ConformanceRig, Vendor
from tests.support.emulator_process import EmulatorProcess, make_certificate
from tests.support.needs import WHEELS, needs

CLIENT = Path(__file__).parent / "vendor_client.py"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConformanceRig]:
    directory = tmp_path_factory.mktemp("conformance")
    ca_file, certificate, key = make_certificate(directory)
    with EmulatorProcess(directory, tls=(certificate, key)) as emulator:
        yield ConformanceRig(emulator, ca_file)


@pytest.fixture(scope="module")
def vendor(stage: ConformanceRig, tmp_path_factory: pytest.TempPathFactory) -> Vendor:
    """Run the SDK with these words, and give its answer."""
    needs(WHEELS)

    def run(*words: str) -> Any:  # noqa: ANN401 - what vendor_client.py answers
        emulator = stage.emulator
        answer = tmp_path_factory.mktemp("vendor") / "answer.json"
        ended = subprocess.run(
            [
                *(sys.executable, str(CLIENT), str(answer)),
                *(emulator.url, str(emulator.private_key_file), emulator.control_url, *words),
            ],
            env=os.environ | {"SSL_CERT_FILE": str(stage.ca_file)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert ended.returncode == 0, f"{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}"
        return json.loads(answer.read_text())

    return run
