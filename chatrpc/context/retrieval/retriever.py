"""The policy applied: from a question's vector to the passages that enter."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from chatrpc.context.retrieval.choose import Chosen, choose, shortlist
from chatrpc.context.retrieval.fusion import fuse
from chatrpc.context.retrieval.lexicon import query_terms
from chatrpc.context.retrieval.moments import Span
from chatrpc.db.recall import Recall
from chatrpc.db.search import Pool, Query
from chatrpc.domain import RetrievalMode
from chatrpc.ports import EmbeddingSpace, Vector


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found for a query; the texts are fetched of the best alone."""

    query: Query
    pool: Pool


class Retriever:
    """Writes the queries of one embedding space and one issuer, and chooses of what they find.

    Args:
        space: The embedder's, whose floor holds.
        space_id: Its id in the database.
        shared_id: Owner of the documents that all users find; None where there are none.
    """

    def __init__(self, recall: Recall, space: EmbeddingSpace, space_id: int, shared_id: UUID | None) -> None:
        self._recall = recall
        self._space = space
        self._space_id = space_id
        self._shared_id = shared_id

    def query(self, text: str, vector: Vector, *, elsewhere: bool, collections: Sequence[UUID] | None) -> Query:
        """What to look for, and where: as the attributes of `Query` say."""
        return Query(
            vector,
            self._space_id,
            query_terms(text),
            elsewhere=elsewhere,
            collections=collections,
            shared_id=self._shared_id,
        )

    async def choose(
        self,
        user_id: UUID,
        found: Found,
        *,
        mode: RetrievalMode,
        limit: int,
        spans: Sequence[Span] = (),
        verbatim_ids: Collection[UUID] = (),
        verbatim_places: Collection[tuple[float, int]] = (),
        verbatim_texts: Sequence[str] = (),
        tokens: int | None = None,
    ) -> Chosen:
        """What enters of that which was found; one round trip, for the texts.

        Args:
            limit, verbatim_texts, tokens: As `choose`.
            spans: Times that the question names.
            verbatim_ids: Messages that stand in the window.
            verbatim_places: Their times, by `chatrpc.db.search.moment`, and depths, by which their copies are known.

        Raises:
            Unavailable: The database cannot be reached.
        """
        scores = fuse(found.pool, found.query.terms, spans, self._space.floor)
        ranked = shortlist(
            found.pool,
            scores,
            mode=mode,
            limit=limit,
            verbatim_ids=verbatim_ids,
            verbatim_places=verbatim_places,
        )
        passages = await self._recall.passages(user_id, found.query, found.pool, [each.row for each in ranked])
        return choose(
            ranked,
            passages,
            mode=mode,
            floor=self._space.floor,
            limit=limit,
            verbatim_texts=verbatim_texts,
            tokens=tokens,
        )
