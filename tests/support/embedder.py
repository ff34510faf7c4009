"""An embedder whose vectors can be predicted: texts are near each other exactly as far as they share words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chatrpc.ports import EmbeddingSpace


def word_vector(text: str, dimension: int) -> NDArray[np.float32]:
    """Sum of one fixed random direction for each word, of length 1; a fixed direction where there is no word."""
    vector = np.zeros(dimension)
    for word in re.findall(r"\w+", text.lower()) or [""]:
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        vector += np.random.default_rng(seed).standard_normal(dimension)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class WordEmbedder:
    """Implements `chatrpc.ports.Embedder` without a model."""

    def __init__(self, dimension: int = 384) -> None:
        self.space = EmbeddingSpace(
            name=f"words/{dimension}", fingerprint=f"words-{dimension}", dimension=dimension, floor=0.3, max_tokens=512
        )

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = [word_vector(text, self.space.dimension) for text in texts]
        return np.stack(vectors) if vectors else np.zeros((0, self.space.dimension), np.float32)

    async def aclose(self) -> None:
        return None
