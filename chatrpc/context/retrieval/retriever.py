"""The policy applied: from a question to the passages that enter."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from chatrpc.context.query import PendingQuery
from chatrpc.context.retrieval.choose import Chosen, choose, shortlist
from chatrpc.context.retrieval.fusion import fuse
from chatrpc.context.retrieval.lexicon import query_terms
from chatrpc.context.retrieval.moments import Span
from chatrpc.db.recall import Recall
from chatrpc.db.search import Pool, Query, Sought, Tier
from chatrpc.domain import Path, RetrievalMode
from chatrpc.ports import EmbeddingSpace

# So many users are remembered to have many passages, in about 15 MB.
_MOST_REMEMBERED = 100_000


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found for a query; the texts are fetched of the best alone."""

    query: Query
    pool: Pool


class Retriever:
    """Searches one embedding space for one issuer's users, and chooses of what it finds.

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
        # Whose last search took a look before its exact one; the oldest first.
        self._large: dict[UUID, None] = {}

    def begins_early(self, user_id: UUID, pending: PendingQuery) -> bool:
        """Whether to search by words while the vector is in the making. It pays for users of very many passages, and
        for others it would be one more statement."""
        return user_id in self._large and not pending.done

    def sought(self, text: str, *, elsewhere: bool, collections: Sequence[UUID] | None) -> Sought:
        """What to look for, and where: as the attributes of `Sought` say."""
        return Sought(
            self._space_id,
            query_terms(text),
            elsewhere=elsewhere,
            collections=collections,
            shared_id=self._shared_id,
        )

    async def find(
        self, user_id: UUID, conversation_id: UUID | None, sought: Sought, pending: PendingQuery, through: Path
    ) -> Found:
        """Search; the arguments are those of `Recall.pool`.

        Raises:
            Unavailable: The embedder or the database cannot be reached.
        """
        look = None
        if self.begins_early(user_id, pending):
            look = await self._recall.look(user_id, conversation_id, sought, through)
        query = sought.with_vector(await pending.vector())
        pool = await self._recall.pool(user_id, conversation_id, query, through, look)
        self.note(user_id, pool)
        return Found(query, pool)

    def note(self, user_id: UUID, pool: Pool) -> None:
        """Remember whether the user's next search is to begin early."""
        self._large.pop(user_id, None)
        if pool.tier is not Tier.EXACT:
            self._large[user_id] = None
            if len(self._large) > _MOST_REMEMBERED:
                del self._large[next(iter(self._large))]

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
