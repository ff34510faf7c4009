"""Search in documents alone, by the policy that contexts are built with."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from chatrpc.context.query import query_text
from chatrpc.context.retrieval import choose, fuse, query_terms, shortlist
from chatrpc.db.recall import Recall
from chatrpc.db.search import Query
from chatrpc.domain import Hit, RetrievalMode, Role
from chatrpc.models.embedding.template import embedding_text
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
        self._recall = recall
        self._embedder = embedder
        self._space_id = space_id
        self._shared_id = shared_id

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
        space = self._embedder.space
        asked = query_text(text, space.max_tokens)
        [vector] = await self._embedder.embed([embedding_text(Role.USER, asked)])
        query = Query(
            vector,
            self._space_id,
            query_terms(asked),
            elsewhere=False,
            collections=list(collections) or None,
            shared_id=self._shared_id,
        )
        pool = await self._recall.pool(user_id, None, query, ())
        mode = RetrievalMode.CALIBRATED
        scores = fuse(pool, query.terms, (), space.floor)
        ranked = shortlist(pool, scores, mode=mode, limit=limit, verbatim_ids=())
        passages = await self._recall.passages(user_id, query, pool, [each.row for each in ranked])
        return choose(ranked, passages, mode=mode, floor=space.floor, limit=limit, verbatim_texts=()).hits
