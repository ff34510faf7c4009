"""Search in documents alone, by the policy that contexts are built with."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from chatrpc.context.query import PendingQuery
from chatrpc.context.retrieval import Retriever
from chatrpc.db.recall import Recall
from chatrpc.domain import Hit, RetrievalMode
from chatrpc.ports import Embedder

DEFAULT_RESULTS = 8
"""Passages where a caller names no number."""


class DocumentSearch:
    """Finds passages of documents.

    Args:
        space_id: The embedder's space in the database.
        shared_id: Owner of the shared collections.
    """

    def __init__(self, recall: Recall, embedder: Embedder, space_id: int, shared_id: UUID) -> None:
        self._embedder = embedder
        self._retriever = Retriever(recall, embedder.space, space_id, shared_id)

    @property
    def embedding_model(self) -> str:
        return self._embedder.space.name

    async def search(self, user_id: UUID, text: str, limit: int, collections: Sequence[UUID]) -> Sequence[Hit]:
        """Passages that a question is about, best first.

        Args:
            collections: Where to look; empty for the user's own documents and all shared ones.

        Raises:
            Unavailable: The embedder or the database cannot be reached.
        """
        pending = PendingQuery(self._embedder, text)
        try:
            sought = self._retriever.sought(pending.text, elsewhere=False, collections=list(collections) or None)
            found = await self._retriever.find(user_id, None, sought, pending, ())
        finally:
            pending.cancel()
        return (await self._retriever.choose(user_id, found, mode=RetrievalMode.CALIBRATED, limit=limit)).hits
