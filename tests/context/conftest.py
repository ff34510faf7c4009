from __future__ import annotations

import pytest_asyncio

from chatrpc.db.engine import Database
from chatrpc.db.vectors import VectorStore
from tests.context.household import Household
from tests.support.embedder import WordEmbedder


@pytest_asyncio.fixture
async def space_id(database: Database) -> int:
    return await VectorStore(database).register_space(WordEmbedder().space)


@pytest_asyncio.fixture
async def household(database: Database, space_id: int) -> Household:
    return Household(database, space_id, keep=4, fold=4)
