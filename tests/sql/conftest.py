"""One emulated account for all tests of a process: starting it takes seconds. And an emulator's file each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sql.engines import DuckDbAccount, EmulatorFile, Engine, duckdb_account
from tests.support.needs import WHEELS, needs


@pytest.fixture(scope="session")
def session_account() -> Iterator[DuckDbAccount]:
    needs(WHEELS)
    with duckdb_account() as account:
        yield account


@pytest.fixture
def account(session_account: DuckDbAccount) -> DuckDbAccount:
    """An account with empty tables."""
    session_account.clear()
    return session_account


@pytest.fixture
def emulator_file(tmp_path: Path) -> Iterator[EmulatorFile]:
    file = EmulatorFile(tmp_path / "emulator")
    yield file
    file.close()


@pytest.fixture(params=["account", "emulator_file"])
def engine(request: pytest.FixtureRequest) -> Engine:
    engine: Engine = request.getfixturevalue(request.param)
    return engine
