"""The VectorStore: what passages say, as vectors in pgvector and as terms; one embedding space beside the other, never
mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from pgvector import HalfVector
from uuid_utils.compat import uuid7

from chatrpc.db.engine import Database
from chatrpc.db.terms import term_vector
from chatrpc.db.usage import book_background
from chatrpc.domain import Served, Usage, UsageKind
from chatrpc.errors import SettingsError
from chatrpc.ports import EmbeddingCost, EmbeddingSpace, Vector

REGISTER = """
INSERT INTO embedding_spaces (fingerprint, name, dimension)
SELECT %(fingerprint)s, %(name)s, %(dimension)s WHERE NOT EXISTS (SELECT 1 FROM embedding_spaces)
ON CONFLICT (fingerprint) DO NOTHING
"""
RECORD_FLOOR = "UPDATE embedding_spaces SET floor = %s WHERE id = %s"
FLOOR = "SELECT floor FROM embedding_spaces WHERE id = %s"
SPACES = "SELECT id, fingerprint, name, dimension FROM embedding_spaces ORDER BY id"
# The lock on the conversation keeps a vector from being written after its conversation is deleted, and, while an append
# switches branches, from being written as a part of the path that is just being left: a weaker one would let it pass.
LOCK = "SELECT id FROM conversations WHERE user_id = %s AND id = ANY(%s) ORDER BY id FOR SHARE"
# Vectors go in their binary form (`%b`): to write 64 of them as text would hold up the event loop for over 10 ms.
NEW = """
FROM unnest(%(ids)s::uuid[], %(containers)s::uuid[], %(places)s::integer[], %(passages)s::smallint[],
            %(starts)s::integer[], %(ends)s::integer[], %(lengths)s::integer[], %(vectors)b::halfvec[],
            %(terms)b::sparsevec[])
     AS n (id, container, place, passage, start, stop, length, vector, terms)
"""
REPLACE = """
ON CONFLICT (user_id, space_id, message_id, passage) DO UPDATE SET
    span_start = excluded.span_start, span_end = excluded.span_end, length = excluded.length,
    embedding = excluded.embedding, terms = excluded.terms
"""
# What a passage is of is looked up by itself for each (`OFFSET 0`), a chunk by the keys of all its indexes, documents
# together: as in the function passage_texts, which says why.
ADD = f"""
INSERT INTO embeddings (user_id, space_id, message_id, passage, conversation_id, branch, depth, active, created_at,
                        span_start, span_end, length, embedding, terms)
SELECT m.user_id, %(space)s, m.id, n.passage, m.conversation_id, m.branch, m.depth,
       c.memory = 'remembered' AND on_path(m.branch, m.depth, c.lineage || ARRAY[c.head_branch, c.head_depth]),
       m.created_at, n.start, n.stop, n.length, n.vector, n.terms
{NEW}
CROSS JOIN LATERAL (
    SELECT m.user_id, m.id, m.conversation_id, m.branch, m.depth, m.created_at FROM messages m
    WHERE m.user_id = %(user)s AND m.id = n.id AND m.state <> 'erased'
    OFFSET 0
) m
CROSS JOIN LATERAL (
    SELECT c.memory, c.lineage, c.head_branch, c.head_depth FROM conversations c
    WHERE c.user_id = %(user)s AND c.id = m.conversation_id AND c.memory <> 'temporary'
    OFFSET 0
) c
{REPLACE}
"""
# A document cannot be deleted while this lock is held; its progress may be noted.
LOCK_DOCUMENTS = "SELECT id FROM documents WHERE user_id = %s AND id = ANY(%s) ORDER BY id FOR KEY SHARE"
ADD_CHUNKS = f"""
WITH d AS MATERIALIZED (
    SELECT id, created_at, collection_id FROM documents WHERE user_id = %(user)s AND id = ANY(%(containers)s::uuid[])
)
INSERT INTO embeddings (user_id, space_id, message_id, passage, conversation_id, branch, depth, active, created_at,
                        span_start, span_end, length, embedding, terms, source, collection_id)
SELECT k.user_id, %(space)s, k.id, n.passage, k.document_id, 0, k.number, true,
       d.created_at, n.start, n.stop, n.length, n.vector, n.terms, 1, d.collection_id
{NEW}
CROSS JOIN LATERAL (
    SELECT k.user_id, k.id, k.document_id, k.number FROM document_chunks k
    WHERE k.user_id = %(user)s AND k.document_id = n.container AND k.number = n.place AND k.id = n.id
    OFFSET 0
) k
JOIN d ON d.id = n.container
{REPLACE}
"""
DELETE = "DELETE FROM embeddings WHERE user_id = %s AND message_id = ANY(%s)"


@dataclass(frozen=True, slots=True)
class NewVector:
    """One passage of a message, or of a chunk of a document, as it is searched.

    Attributes:
        message_id, conversation_id: Of a chunk, the chunk's id and the document's.
        passage: Number of the passage within the message, from 0.
        span: First and one past the last character of the passage in the message's text.
        vector: Unit vector of the space's dimension.
        place: Of a chunk, its number in the document; None of a message.
        terms: How often the passage holds which terms; they are searched, beside the vector, by equality.
    """

    message_id: UUID
    conversation_id: UUID
    passage: int
    span: tuple[int, int]
    vector: Vector
    terms: Mapping[str, int] = field(default_factory=dict)
    place: int | None = None


class VectorStore:
    """Keeps what a search compares. Searching is `chatrpc.db.recall.Recall.pool`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register_space(self, space: EmbeddingSpace) -> int:
        """The id of an embedding space; a new database takes the first space that comes.

        Raises:
            SettingsError: The database holds vectors of another model, which cannot be compared with this one's.
        """
        async with self._database.unbound() as connection:
            await connection.execute(
                REGISTER, {"fingerprint": space.fingerprint, "name": space.name, "dimension": space.dimension}
            )
            rows = await (await connection.execute(SPACES)).fetchall()
        for row in rows:
            if row["fingerprint"] == space.fingerprint:
                return int(row["id"])
        held = rows[0]
        raise SettingsError(
            f"The database holds vectors of {held['name']} (dimension {held['dimension']}), which cannot be compared "
            f"with those of {space.name} (dimension {space.dimension}); set CHATRPC_EMBEDDER_KIND and "
            "CHATRPC_EMBEDDER_MODEL back, or use another database."
        )

    async def record_floor(self, space_id: int, floor: float) -> None:
        """Keep the floor that was measured for a space; servers take it when they start."""
        async with self._database.unbound() as connection:
            await connection.execute(RECORD_FLOOR, (floor, space_id))

    async def floor(self, space_id: int) -> float | None:
        """The floor that was recorded for a space."""
        async with self._database.unbound() as connection:
            row = await (await connection.execute(FLOOR, (space_id,))).fetchone()
        return None if row is None else row["floor"]

    async def add(
        self, user_id: UUID, space_id: int, vectors: Sequence[NewVector], cost: EmbeddingCost | None = None
    ) -> None:
        """Store passages of messages; those of messages that are gone are left out, those stored before replaced."""
        await self._add(user_id, space_id, vectors, LOCK, ADD, cost)

    async def add_chunks(
        self, user_id: UUID, space_id: int, vectors: Sequence[NewVector], cost: EmbeddingCost | None = None
    ) -> None:
        """Store passages of chunks; those of documents that are gone are left out, those stored before replaced."""
        assert all(vector.place is not None for vector in vectors), "a chunk is known by its place"
        await self._add(user_id, space_id, vectors, LOCK_DOCUMENTS, ADD_CHUNKS, cost)

    async def _add(
        self,
        user_id: UUID,
        space_id: int,
        vectors: Sequence[NewVector],
        lock: str,
        add: str,
        cost: EmbeddingCost | None,
    ) -> None:
        if not vectors:
            return
        columns = {
            "user": user_id,
            "space": space_id,
            "ids": [v.message_id for v in vectors],
            "containers": [v.conversation_id for v in vectors],
            "places": [v.place for v in vectors],
            "passages": [v.passage for v in vectors],
            "starts": [v.span[0] for v in vectors],
            "ends": [v.span[1] for v in vectors],
            "lengths": [sum(v.terms.values()) for v in vectors],
            "vectors": [HalfVector(v.vector) for v in vectors],
            "terms": [term_vector(v.terms) for v in vectors],
        }
        async with self._database.transaction(user_id) as connection:
            await connection.execute(lock, (user_id, sorted({v.conversation_id for v in vectors})))
            await connection.execute(add, columns)
            if cost is not None:
                served = Served(cost.model, Usage(estimated=cost.estimated))
                place = vectors[0].conversation_id
                await book_background(connection, user_id, UsageKind.EMBEDDING, uuid7(), place, served, cost.tokens)

    async def delete_messages(self, user_id: UUID, message_ids: Sequence[UUID]) -> int:
        """Remove all vectors of messages; the number removed."""
        async with self._database.transaction(user_id) as connection:
            cursor = await connection.execute(DELETE, (user_id, list(message_ids)))
            return cursor.rowcount
