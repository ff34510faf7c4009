"""A meter adds up what is asked within its block, in whatever task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from chatrpc.domain import Served, Usage
from chatrpc.models.embedding import build_embedder
from chatrpc.models.embedding.metered import embed_metered
from chatrpc.models.meter import metered, note
from chatrpc.settings import EmbedderSettings
from tests.support.embedder import WordEmbedder
from tests.support.provider import Provider


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as opened:
        yield opened


async def asked(tokens: int) -> None:
    note("m", Usage(tokens, 1, 2))


async def test_what_is_asked_within_the_block_is_added_up_and_nothing_else() -> None:
    note("outside", Usage(100))
    with metered() as meter:
        assert meter.served is None
        await asyncio.gather(asked(10), asked(20))
        with metered() as inner:
            note("inner", Usage(7))
    note("outside", Usage(100))
    assert meter.served == Served("m", Usage(30, 2, 4))
    assert inner.served == Served("inner", Usage(7))


async def test_an_embedding_costs_what_its_endpoint_counted(provider: Provider) -> None:
    settings = EmbedderSettings(kind="openai", base_url=provider.base_url, model="e", dimension=384, max_batch=2)
    async with build_embedder(settings) as embedder:
        vectors, cost = await embed_metered(embedder, ["one", "two", "three"])
    assert len(vectors) == 3
    assert (cost.model, cost.tokens, cost.estimated) == ("e/openai", 3, False)


@pytest.mark.parametrize("told", [-3, 0, 2**63, 1.5, "three", [3]])
async def test_an_embedding_whose_count_cannot_be_costs_an_upper_estimate(provider: Provider, told: object) -> None:
    provider.embedding_tokens = told
    settings = EmbedderSettings(kind="openai", base_url=provider.base_url, model="e", dimension=384)
    async with build_embedder(settings) as embedder:
        vectors, cost = await embed_metered(embedder, ["one", "two", "three"])
    assert len(vectors) == 3
    assert (3 <= cost.tokens < 30, cost.estimated) == (True, True)


async def test_an_embedding_that_nobody_counts_costs_an_upper_estimate() -> None:
    _, cost = await embed_metered(WordEmbedder(), ["one two three", "four"])
    assert (cost.tokens >= 4, cost.estimated) == (True, True)
