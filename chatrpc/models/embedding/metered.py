"""Texts are embedded, and what that took is counted."""

from __future__ import annotations

from collections.abc import Sequence

from chatrpc.models.meter import metered
from chatrpc.ports import Embedder, EmbeddingCost, Vectors
from chatrpc.tokens import estimate_tokens


async def embed_metered(embedder: Embedder, texts: Sequence[str]) -> tuple[Vectors, EmbeddingCost]:
    """As Embedder.embed, with its cost: as the endpoint counted it, else an upper estimate."""
    with metered() as meter:
        vectors = await embedder.embed(texts)
    space = embedder.space
    if meter.embedding_tokens:
        return vectors, EmbeddingCost(space.name, meter.embedding_tokens, estimated=False)
    tokens = sum(min(estimate_tokens(text), space.max_tokens) for text in texts)
    return vectors, EmbeddingCost(space.name, tokens, estimated=True)
