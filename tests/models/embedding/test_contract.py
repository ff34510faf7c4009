"""What every Embedder promises, asked of each one that can run here."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections.abc import AsyncIterator

import numpy as np
import pytest

from chatrpc.models.embedding import build_embedder
from chatrpc.ports import Embedder
from tests.support.provider import Provider

TEXTS = [
    "user: I planted tomatoes in the garden behind the house.",
    "assistant: Tomatoes in the garden behind the house want sun.",
    "user: The quarterly report on shipping costs is overdue.",
]


@pytest.fixture(
    params=[
        "onnx",
        pytest.param(
            "sentence-transformers",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("sentence_transformers") is None,
                reason="the extra sentence-transformers is not installed",
            ),
        ),
        "openai",
    ]
)
async def embedder(request: pytest.FixtureRequest, embedder_settings) -> AsyncIterator[Embedder]:
    if request.param == "openai":
        async with Provider() as provider:
            settings = embedder_settings(kind="openai", base_url=provider.base_url, model="words", dimension=384)
            async with build_embedder(settings) as embedder:
                yield embedder
    else:
        async with build_embedder(embedder_settings(kind=request.param)) as embedder:
            yield embedder


async def test_vectors_have_the_promised_form(embedder: Embedder) -> None:
    vectors = await embedder.embed(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, embedder.space.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


async def test_no_texts_give_no_vectors(embedder: Embedder) -> None:
    vectors = await embedder.embed([])
    assert vectors.dtype == np.float32
    assert vectors.shape == (0, embedder.space.dimension)


async def test_related_texts_are_nearer_than_others(embedder: Embedder) -> None:
    garden, advice, report = await embedder.embed(TEXTS)
    assert garden @ advice > garden @ report + 0.1


async def test_a_text_has_the_same_vector_in_any_company(embedder: Embedder) -> None:
    texts = [f"{TEXTS[n % 3]} {'Once more. ' * (n % 11)}{n}" for n in range(70)]
    together = await embedder.embed(texts)
    for n in (0, 1, 23, 69):
        np.testing.assert_allclose(together[n], (await embedder.embed([texts[n]]))[0], atol=1e-5)


async def test_concurrent_callers_get_their_own_vectors(embedder: Embedder) -> None:
    texts = [f"{TEXTS[n % 3]} {n}" for n in range(40)]
    expected = await embedder.embed(texts)
    answers = await asyncio.gather(*(embedder.embed([text, text]) for text in texts))
    for row, answer in zip(expected, answers, strict=True):
        np.testing.assert_allclose(answer, [row, row], atol=1e-5)


async def test_a_cancelled_caller_does_not_disturb_the_others(embedder: Embedder) -> None:
    cancelled = asyncio.create_task(embedder.embed(TEXTS * 100))
    other = asyncio.create_task(embedder.embed(TEXTS[:1]))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert (await other).shape == (1, embedder.space.dimension)
    with pytest.raises(asyncio.CancelledError):
        await cancelled


@pytest.mark.parametrize(
    "text", ["", " ", "\x00", "lone \ud800 surrogate", "e\u0301" * 50, "\U0001f9d1\u200d\U0001f33e", "word " * 20_000]
)
async def test_any_text_has_a_vector(embedder: Embedder, text: str) -> None:
    vectors = await embedder.embed([text])
    np.testing.assert_allclose(np.linalg.norm(vectors), 1, atol=1e-5)


async def test_the_space_describes_itself(embedder: Embedder) -> None:
    space = embedder.space
    assert re.fullmatch(r"[0-9a-f]{64}", space.fingerprint)
    assert space.name
    assert 0 <= space.floor < 0.7
    assert space.max_tokens >= 128
