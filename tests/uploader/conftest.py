"""The uploader rig as a fixture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.keys.keypair import KeyPair, load_private_key
from tests.support.uploader_rig import UploaderRig


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """An ECDSA key: these tests sign thousands of tokens, and RSA takes fifty times as long."""
    path = tmp_path_factory.mktemp("keys") / "ec_key.p8"
    path.touch(mode=0o600)
    private = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return load_private_key(path)


@pytest.fixture
def door(tmp_path: Path, key: KeyPair) -> Iterator[UploaderRig]:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    door = UploaderRig(state_dir, key)
    yield door
    door.close()
