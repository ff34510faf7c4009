"""The graph computes what the model's definition says: against the library's own vectors, and against NumPy."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from chatrpc.errors import SettingsError
from chatrpc.models.embedding.onnx import load_onnx
from tests.models.embedding.conftest import HEADS, HIDDEN, LAYERS, set_pooling

GOLDEN = Path(__file__).parent / "golden.json"


def test_minilm_gives_the_vectors_of_sentence_transformers(embedder_settings):
    """golden.json holds that library's vectors, rounded to six digits, and the versions that made them."""
    golden = json.loads(GOLDEN.read_text())["vectors"]
    vectors = load_onnx(embedder_settings()).encode([entry["text"] for entry in golden])
    expected = np.array([entry["vector"] for entry in golden])
    cosines = (vectors * expected).sum(axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= 0.9999
    np.testing.assert_allclose(vectors, expected, atol=2e-5)


def test_a_question_gets_nearly_the_vector_that_its_text_gets(embedder_settings, tiny_folder):
    texts = [entry["text"] for entry in json.loads(GOLDEN.read_text())["vectors"]]
    # The widths of the second model are no multiples of what is rounded together.
    for settings, texts_, nearest in (
        (embedder_settings(), texts, 0.998),
        (embedder_settings(model=str(tiny_folder)), ["red fox.", "Blue hen sleeps", ""], 0.99),
    ):
        encoder = load_onnx(settings)
        exact, quick = encoder.encode(texts_), encoder.queries.encode(texts_)
        np.testing.assert_allclose(np.linalg.norm(quick, axis=1), 1, atol=1e-5)
        cosines = (exact * quick).sum(axis=1)
        assert cosines.min() >= nearest
        # They are not the same: else nothing was gained.
        assert np.abs(exact - quick).max() > 1e-4
        assert encoder.queries.space == encoder.space


def reference_vector(weights: dict[str, np.ndarray], ids: list[int], pooling: str) -> np.ndarray:
    """BERT by its definition, in double precision, for one text without padding."""

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T.astype(float) + weights[f"{name}.bias"]

    def layer_norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = weights["embeddings.word_embeddings.weight"][ids].astype(float)
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = layer_norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    size = HIDDEN // HEADS
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        query, key, value = (linear(x, f"{prefix}attention.self.{name}") for name in ("query", "key", "value"))
        mixed = np.empty_like(x)
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            scores = query[:, part] @ key[:, part].T / math.sqrt(size)
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[:, part] = shares / shares.sum(-1, keepdims=True) @ value[:, part]
        x = layer_norm(x + linear(mixed, f"{prefix}attention.output.dense"), f"{prefix}attention.output.LayerNorm")
        wide = linear(x, f"{prefix}intermediate.dense")
        wide = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        x = layer_norm(x + linear(wide, f"{prefix}output.dense"), f"{prefix}output.LayerNorm")
    pooled = x[0] if pooling == "cls" else x.mean(axis=0)
    return pooled / np.linalg.norm(pooled)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_any_bert_folder_gives_the_vectors_of_its_definition(embedder_settings, tiny_folder, pooling):
    set_pooling(tiny_folder, pooling)
    weights = load_file(tiny_folder / "model.safetensors")
    texts = {"red fox.": [2, 5, 8, 12, 3], "Blue hen sleeps": [2, 7, 9, 11, 3], "hen": [2, 9, 3], "": [2, 3]}
    vectors = load_onnx(embedder_settings(model=str(tiny_folder))).encode(list(texts))
    expected = [reference_vector(weights, ids, pooling) for ids in texts.values()]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_padding_changes_no_vector(embedder_settings, tiny_folder):
    encoder = load_onnx(embedder_settings(model=str(tiny_folder)))
    texts = ["hen", "red hen", "red hen sleeps", "red green blue hen sleeps ."]
    np.testing.assert_allclose(
        encoder.encode(texts), np.concatenate([encoder.encode([text]) for text in texts]), atol=1e-6
    )


def test_a_text_is_cut_at_the_models_length(embedder_settings, tiny_folder):
    encoder = load_onnx(embedder_settings(model=str(tiny_folder)))
    assert encoder.space.max_tokens == 10
    whole = "red fox runs . green hen sleeps . blue fox"
    cut, same, shorter = encoder.encode([whole + " runs . hen", whole, whole.removesuffix(" fox")])
    np.testing.assert_allclose(cut, same, atol=1e-6)
    assert not np.allclose(cut, shorter, atol=1e-3)


def test_prefixed_half_precision_weights_are_read(embedder_settings, tiny_folder):
    weights = {name: value.astype(np.float16) for name, value in load_file(tiny_folder / "model.safetensors").items()}
    save_file({f"bert.{name}": value for name, value in weights.items()}, tiny_folder / "model.safetensors")
    vector = load_onnx(embedder_settings(model=str(tiny_folder))).encode(["red hen"])[0]
    np.testing.assert_allclose(vector, reference_vector(weights, [2, 5, 9, 3], "mean"), atol=1e-4)


def test_a_missing_tensor_is_named(embedder_settings, tiny_folder):
    weights = load_file(tiny_folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, tiny_folder / "model.safetensors")
    with pytest.raises(SettingsError, match=r"no tensor 'encoder\.layer\.1\.output\.dense\.bias'"):
        load_onnx(embedder_settings(model=str(tiny_folder)))
