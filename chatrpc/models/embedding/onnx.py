"""The default embedder's model: a BERT-family folder, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from tokenizers import Tokenizer

from chatrpc.errors import SettingsError
from chatrpc.models.embedding.cache import cached_graph, query_graph
from chatrpc.models.embedding.space import embedding_space
from chatrpc.models.embedding.template import well_formed
from chatrpc.models.embedding.weights import PRECISION, BertFolder, read_folder
from chatrpc.ports import EmbeddingSpace, Vectors
from chatrpc.settings import EmbedderSettings

# Largest inference of more than one text, padding included. Larger ones are no faster for each text, and take more
# memory: the process has 147 MB with this, 172 MB with four times as much.
_MAX_PADDED_TOKENS = 256

# Padding that costs as much time as one more inference does, which reads all weights again: an inference of 21
# tokens takes about 5 ms, and 21 further tokens in a batch about 2.6 ms.
_MAX_WASTED_TOKENS = 20

# WordPiece makes at least one token of this many characters, white space apart, so nothing behind `max_tokens` times
# as many is ever read; tokenising a megabyte to its end would take a second.
_CHARACTERS_PER_TOKEN_AT_MOST = 100

_SPECIAL_TOKENS = 2


class OnnxEncoder:
    """Implements `SentenceEncoder`."""

    def __init__(
        self,
        space: EmbeddingSpace,
        tokenizer: Tokenizer,
        session: onnxruntime.InferenceSession,
        queries: OnnxEncoder | None = None,
    ) -> None:
        self._space = space
        self._tokenizer = tokenizer
        self._session = session
        self.queries = queries

    @property
    def space(self) -> EmbeddingSpace:
        return self._space

    def encode(self, texts: Sequence[str]) -> Vectors:
        vectors = np.empty((len(texts), self._space.dimension), np.float32)
        tokens = self._tokens(texts)
        for rows in _groups([len(ids) for ids in tokens]):
            # The rows are sorted by length.
            longest = len(tokens[rows[-1]])
            ids = np.zeros((len(rows), longest), np.int64)
            mask = np.zeros_like(ids)
            for place, row in enumerate(rows):
                ids[place, : len(tokens[row])] = tokens[row]
                mask[place, : len(tokens[row])] = 1
            vectors[rows] = self._session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})[0]
        return vectors

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        cut = self._space.max_tokens * _CHARACTERS_PER_TOKEN_AT_MOST
        read = [well_formed(text[:cut]) for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(read)]


def load_onnx(settings: EmbedderSettings) -> OnnxEncoder:
    """Load the model of the settings; 0.25 s for all-MiniLM-L6-v2, a second more where its graphs must be built. That
    for questions takes 29 MB of its own.

    Raises:
        SettingsError: The model cannot be read without PyTorch, is not what it claims to be, or the cache directory
            cannot be written.
    """
    folder = read_folder(settings.model)
    graph = cached_graph(folder, Path(settings.cache_dir))
    space = embedding_space(
        name=f"{folder.name}/onnx-fp32",
        weights=folder.digest,
        precision=PRECISION,
        pooling=folder.pooling,
        dimension=folder.hidden,
        max_tokens=folder.max_positions - _SPECIAL_TOKENS,
        floor=settings.floor,
    )
    tokenizer = _tokenizer(folder)
    queries = OnnxEncoder(space, tokenizer, _session(query_graph(graph), settings.threads))
    return OnnxEncoder(space, tokenizer, _session(graph, settings.threads), queries)


def _tokenizer(folder: BertFolder) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(folder.tokenizer))
    except Exception:  # noqa: BLE001 - the library raises nothing narrower
        raise SettingsError(f"CHATRPC_EMBEDDER_MODEL: {folder.tokenizer} cannot be read; restore the folder.") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(folder.max_positions)
    return tokenizer


def _session(graph: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin between inferences would take the cores from the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - the library's errors have no other common base
        raise SettingsError(
            f"CHATRPC_EMBEDDER_CACHE_DIR: the ONNX graph in {graph.parent} cannot be read; "
            "delete that folder, and it is built anew."
        ) from None


def _groups(lengths: list[int]) -> Iterator[list[int]]:
    """Rows of each inference, shortest first: of like length, and of bounded size."""
    group: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group:
            padded = lengths[row] * (len(group) + 1)
            wasted = padded - sum(lengths[member] for member in (*group, row))
            if padded > _MAX_PADDED_TOKENS or wasted > _MAX_WASTED_TOKENS:
                yield group
                group = []
        group.append(row)
    if group:
        yield group
