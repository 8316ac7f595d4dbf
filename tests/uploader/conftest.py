"""The uploader rig as a fixture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.keys.keypair import KeyPair, load_private_key
from tests.support.uploader_rig import UploaderRig


@pytest.fixture(scope="session")
def key(rsa_key_file: Path) -> KeyPair:
    return load_private_key(rsa_key_file)


@pytest.fixture
def door(tmp_path: Path, key: KeyPair) -> Iterator[UploaderRig]:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    door = UploaderRig(state_dir, key)
    yield door
    door.close()
