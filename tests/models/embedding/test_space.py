"""The identity of a space: equal exactly where vectors may be compared."""

from __future__ import annotations

from typing import Any

import pytest

from chatrpc.models.embedding import space as space_module
from chatrpc.models.embedding.space import MINILM_DIGEST, UNKNOWN_FLOOR, embedding_space
from chatrpc.ports import EmbeddingSpace


def described(**changes: Any) -> EmbeddingSpace:
    values: dict[str, Any] = {
        "name": "a model",
        "weights": MINILM_DIGEST,
        "precision": "float32",
        "pooling": "mean",
        "dimension": 384,
        "max_tokens": 254,
        "floor": None,
    }
    return embedding_space(**{**values, **changes})


@pytest.mark.parametrize(
    "change", [{"weights": "0" * 64}, {"precision": "float16"}, {"pooling": "cls"}, {"dimension": 256}]
)
def test_whatever_changes_the_vectors_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert described(**change).fingerprint != described().fingerprint


def test_another_text_template_is_another_space(monkeypatch: pytest.MonkeyPatch) -> None:
    before = described().fingerprint
    monkeypatch.setattr(space_module, "TEMPLATE_VERSION", "other")
    assert described().fingerprint != before


def test_what_changes_no_vector_leaves_the_fingerprint() -> None:
    assert described(name="another", floor=0.9).fingerprint == described().fingerprint


def test_the_fingerprint_of_minilm_never_changes_unseen() -> None:
    """A new value here means that every stored message is embedded anew: change it together with its cause only."""
    assert described().fingerprint == "7851e8f0565e323386e560fdb22cdedf2fafc50bcd02b4a404221a938053b41e"


def test_the_floor_is_the_operators_then_the_models_then_the_cautious_one() -> None:
    assert described(floor=0.0).floor == 0.0
    assert described().floor == 0.3
    assert described(weights="0" * 64).floor == UNKNOWN_FLOOR
