"""Any Sentence Transformers model, by the library of that name: an extra, since it brings PyTorch."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chatrpc.errors import SettingsError
from chatrpc.models.embedding.space import embedding_space
from chatrpc.models.embedding.template import well_formed
from chatrpc.models.embedding.weights import PACKAGED_NAME, packaged_digest, packaged_folder, weights_digest
from chatrpc.ports import EmbeddingSpace, Vectors
from chatrpc.settings import EmbedderSettings


class SentenceTransformersEncoder:
    """Implements `SentenceEncoder`."""

    queries = None

    def __init__(self, space: EmbeddingSpace, model: Any, max_batch: int) -> None:
        self._space = space
        self._model = model
        self._max_batch = max_batch

    @property
    def space(self) -> EmbeddingSpace:
        return self._space

    def encode(self, texts: Sequence[str]) -> Vectors:
        vectors = self._model.encode(
            [well_formed(text) for text in texts],
            batch_size=self._max_batch,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, np.float32)


def load_sentence_transformers(settings: EmbedderSettings) -> SentenceTransformersEncoder:
    """Load the model of the settings; PyTorch alone takes some 10 s.

    Raises:
        SettingsError: The extra is not installed, or the library cannot load the model.
    """
    try:
        library = importlib.import_module("sentence_transformers")
        torch = importlib.import_module("torch")
    except ModuleNotFoundError:
        raise SettingsError(
            "CHATRPC_EMBEDDER_KIND=sentence-transformers needs the extra of that name: "
            "pip install 'chatrpc[sentence-transformers]'."
        ) from None
    torch.set_num_threads(settings.threads)
    digest = packaged_digest(packaged_folder()) if settings.model is None else None
    source = str(packaged_folder()) if settings.model is None else settings.model
    try:
        model = library.SentenceTransformer(source)
    except Exception:  # noqa: BLE001 - OSError, ValueError, KeyError, errors of HTTP: whatever its parts raise
        raise SettingsError(
            f"CHATRPC_EMBEDDER_MODEL: the sentence-transformers library cannot load {source!r}; "
            "set it to a model's folder, or to the name of a model that can be downloaded."
        ) from None
    precision = str(next(model.parameters()).dtype).removeprefix("torch.")
    space = embedding_space(
        name=f"{PACKAGED_NAME if settings.model is None else Path(source).name}/torch-{precision}",
        weights=digest or _digest(source, model),
        precision=precision,
        pooling=_pooling(model),
        dimension=model.get_embedding_dimension(),
        max_tokens=model.max_seq_length - model.tokenizer.num_special_tokens_to_add(),
        floor=settings.floor,
    )
    return SentenceTransformersEncoder(space, model, settings.max_batch)


def _digest(source: str, model: Any) -> str:
    """That of the weights' file where there is one, as for the onnx embedder; else one over the loaded tensors."""
    file = Path(source) / "model.safetensors"
    if file.is_file():
        return weights_digest(file)
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _pooling(model: Any) -> str:
    """`mean` or `cls` for the plain models that the onnx embedder reads too; else all modules by name."""
    names = [type(module).__name__ for module in model]
    pooling = next((str(module.pooling_mode) for module in model if type(module).__name__ == "Pooling"), "none")
    plain = names in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
    return pooling if plain else f"{pooling} in {' '.join(names)}"
