"""The onnx embedder against the library it stands in for, where that is installed."""

from __future__ import annotations

import numpy as np
import pytest

from chatrpc.models.embedding.onnx import load_onnx
from chatrpc.models.embedding.sentence_transformers import load_sentence_transformers
from tests.models.embedding.conftest import set_pooling

pytest.importorskip("sentence_transformers", reason="the extra sentence-transformers is not installed")

STORY = "The old harbour was quiet when Anna came home with 3 boxes of books, letters and a small grey cat. "
TEXTS = [
    *(f"user: {STORY[n % 17 : 5 * n]} ({n})" for n in range(20)),
    "assistant: " + STORY * 30,
    "Crème brûlée, Straße, 東京タワー, привет, 🎉",
    "",
]


def test_minilm_gives_the_same_vectors_in_the_same_space(embedder_settings) -> None:
    oracle = load_sentence_transformers(embedder_settings(kind="sentence-transformers"))
    encoder = load_onnx(embedder_settings())
    cosines = (oracle.encode(TEXTS) * encoder.encode(TEXTS)).sum(axis=1)
    assert cosines.min() >= 0.9999
    assert encoder.space.fingerprint == oracle.space.fingerprint
    assert (encoder.space.max_tokens, encoder.space.floor) == (oracle.space.max_tokens, oracle.space.floor)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_any_bert_folder_gives_the_same_vectors(embedder_settings, tiny_folder, pooling: str) -> None:
    set_pooling(tiny_folder, pooling)
    texts = ["red fox.", "Blue hen sleeps", "", "unknown words", "red green blue hen fox runs sleeps . red green blue"]
    oracle = load_sentence_transformers(embedder_settings(kind="sentence-transformers", model=str(tiny_folder)))
    encoder = load_onnx(embedder_settings(model=str(tiny_folder)))
    np.testing.assert_allclose(encoder.encode(texts), oracle.encode(texts), atol=1e-5)
    assert encoder.space.fingerprint == oracle.space.fingerprint
