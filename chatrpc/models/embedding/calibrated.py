"""An embedder with the floor that was measured for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from chatrpc.ports import Embedder, Vectors


class CalibratedEmbedder:
    """Implements `chatrpc.ports.Embedder` by another, which is closed with it."""

    def __init__(self, embedder: Embedder, floor: float) -> None:
        self._embedder = embedder
        self.space = replace(embedder.space, floor=floor)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return await self._embedder.embed(texts)

    async def aclose(self) -> None:
        await self._embedder.aclose()
