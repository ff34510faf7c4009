"""How the parts are put together."""

from __future__ import annotations

import pytest

from chatrpc.db.engine import Database
from chatrpc.db.vectors import VectorStore
from chatrpc.server import MemorySettings, open_memory
from chatrpc.settings import ContextSettings, DatabaseSettings, EmbedderSettings, KnowledgeSettings, ModelSettings


@pytest.mark.parametrize(
    ("recorded", "configured", "expected"), [(None, None, 0.3), (0.42, None, 0.42), (0.42, 0.5, 0.5)]
)
async def test_the_floor_is_the_operators_else_the_measured_one_else_the_models(
    database: Database, database_url: str, recorded: float | None, configured: float | None, expected: float
) -> None:
    settings = MemorySettings(
        DatabaseSettings(url=database_url),
        ModelSettings(),
        EmbedderSettings(floor=configured),
        ContextSettings(),
        KnowledgeSettings(),
    )
    async with open_memory(settings) as memory:
        space_id = memory.space_id
    if recorded is not None:
        await VectorStore(database).record_floor(space_id, recorded)
    async with open_memory(settings) as memory:
        assert (memory.space_id, memory.embedder.space.floor) == (space_id, expected)
        assert (await memory.embedder.embed(["hello"])).shape == (1, memory.embedder.space.dimension)
