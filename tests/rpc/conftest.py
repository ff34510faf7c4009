"""A server for each test, over one database for all: each test makes its own conversations in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from chatrpc.db.engine import Database
from chatrpc.dev.postgres import PostgresServer
from tests.conftest import TEMPLATE
from tests.rpc.stage import Stage, staged, write_keys


@pytest.fixture(scope="session")
def issuer_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_keys(tmp_path_factory.mktemp("issuer"))


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def database_url(postgres: PostgresServer) -> AsyncIterator[str]:
    yield await postgres.create_database("rpc", TEMPLATE)
    await postgres.drop_database("rpc")


@pytest_asyncio.fixture
async def stage(database: Database, issuer_keys: Path) -> AsyncIterator[Stage]:
    """A server with the settings of production."""
    async with staged(database, issuer_keys) as opened:
        yield opened
