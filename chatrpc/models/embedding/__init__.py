"""Embedders: all-MiniLM-L6-v2 without PyTorch by default, any Sentence Transformers model, or an endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from chatrpc.models.embedding.batching import BatchingEmbedder
from chatrpc.ports import Embedder
from chatrpc.settings import EmbedderSettings


@asynccontextmanager
async def build_embedder(settings: EmbedderSettings) -> AsyncIterator[Embedder]:
    """The embedder of the settings, loaded and ready; closed at the end of the block.

    Raises:
        SettingsError: The model is missing, is not what it claims to be, or cannot be run this way.
    """
    # Each kind brings libraries of its own, which the others neither need nor wait for.
    embedder: Embedder
    if settings.kind == "openai":
        from chatrpc.models.embedding.openai import openai_embedder

        embedder = openai_embedder(settings)
    elif settings.kind == "sentence-transformers":
        from chatrpc.models.embedding.sentence_transformers import load_sentence_transformers

        embedder = await BatchingEmbedder.start(partial(load_sentence_transformers, settings), settings.max_batch)
    else:
        from chatrpc.models.embedding.onnx import load_onnx

        embedder = await BatchingEmbedder.start(
            partial(load_onnx, settings), settings.max_batch, bulk_threads=settings.bulk_threads
        )
    try:
        yield embedder
    finally:
        await embedder.aclose()


def query_embedder(embedder: Embedder) -> Embedder:
    """The same embedder for questions, where its model has a quicker way for these; itself where it has not."""
    return embedder.queries if isinstance(embedder, BatchingEmbedder) else embedder


def bulk_embedder(embedder: Embedder) -> Embedder:
    """The same embedder for work that has time, so that queries pass before it; itself where they do in any case."""
    return embedder.bulk if isinstance(embedder, BatchingEmbedder) else embedder
