"""A server for each test, whose language model says what the test tells it to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from chatrpc.db.engine import Database
from tests.rpc.stage import Stage, staged, write_keys


@pytest.fixture(scope="session")
def issuer_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_keys(tmp_path_factory.mktemp("issuer"))


@pytest_asyncio.fixture
async def stage(database: Database, issuer_keys: Path) -> AsyncIterator[Stage]:
    async with staged(database, issuer_keys) as opened:
        yield opened
