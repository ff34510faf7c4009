"""The ONNX graphs of a model folder, kept on disk: one for all texts, and one for questions.

The weights stand in a file beside the graphs, which onnxruntime maps into memory: all processes of a machine share
it, and of the word embeddings only the rows in use are ever read.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

from chatrpc.errors import SettingsError
from chatrpc.models.embedding.weights import BertFolder

# Raised with every change of the graph that is built, so that the caches of older versions are not read.
_GRAPH_VERSION = 2
_QUERIES = "queries.onnx"


def cached_graph(folder: BertFolder, cache_dir: Path) -> Path:
    """Path of the folder's graph, built now if the cache does not hold it (about a second for all-MiniLM-L6-v2).

    An entry appears in one step, complete and on disk, whoever else builds it at the same time.

    Raises:
        SettingsError: The cache cannot be written, or the weights lack a tensor of the BERT family.
    """
    recipe = json.dumps(
        [_GRAPH_VERSION, folder.digest, folder.pooling, folder.layers, folder.heads, folder.hidden, folder.epsilon]
    )
    entry = cache_dir / "onnx" / hashlib.sha256(recipe.encode()).hexdigest()
    graph = entry / "model.onnx"
    if not graph.is_file():
        try:
            _build(folder, entry, graph.name)
        except OSError as error:
            raise SettingsError(
                f"CHATRPC_EMBEDDER_CACHE_DIR: the ONNX graph cannot be written to {entry.parent} "
                f"({error.strerror}); set it to a writable folder with room for a copy of the weights."
            ) from None
    return graph


def query_graph(graph: Path) -> Path:
    """Path of the graph for questions, which lies beside that for all texts."""
    return graph.with_name(_QUERIES)


def _build(folder: BertFolder, entry: Path, graph_name: str) -> None:
    # Takes 0.2 s and 30 MB, which a process that finds the graph in the cache need not spend.
    import onnx

    from chatrpc.models.embedding.graph import build_graph

    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="building-", dir=entry.parent) as workplace:
        draft = Path(workplace) / "entry"
        draft.mkdir()
        model = build_graph(folder)
        onnx.save_model(
            model, draft / graph_name, save_as_external_data=True, location="weights.bin", size_threshold=1024
        )
        queries = build_graph(folder, eight_bits=True)
        # What both graphs hold, the word embeddings above all, stands in the file of weights once.
        saved = {tensor.name: tensor for tensor in model.graph.initializer}
        for tensor in queries.graph.initializer:
            if tensor.name in saved:
                tensor.CopyFrom(saved[tensor.name])
        (draft / _QUERIES).write_bytes(queries.SerializeToString())
        for file in draft.iterdir():
            # An image's build writes the cache as one user and its process reads it as another.
            file.chmod(0o644)
            with file.open("rb") as written:
                os.fsync(written.fileno())
        try:
            draft.rename(entry)
        except OSError:
            # Another process was first; its entry is the same.
            if not (entry / graph_name).is_file():
                raise
