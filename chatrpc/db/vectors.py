"""The VectorStore: vectors of messages in pgvector, one embedding space beside the other, never mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from pgvector import HalfVector

from chatrpc.db.engine import Database
from chatrpc.errors import SettingsError
from chatrpc.ports import EmbeddingSpace, Vector

REGISTER = """
INSERT INTO embedding_spaces (fingerprint, name, dimension)
SELECT %(fingerprint)s, %(name)s, %(dimension)s WHERE NOT EXISTS (SELECT 1 FROM embedding_spaces)
ON CONFLICT (fingerprint) DO NOTHING
"""
SPACES = "SELECT id, fingerprint, name, dimension FROM embedding_spaces ORDER BY id"
# The lock on the conversation keeps a vector from being written after its conversation is deleted, and, while an append
# switches branches, from being written as a part of the path that is just being left: a weaker one would let it pass.
LOCK = "SELECT id FROM conversations WHERE user_id = %s AND id = ANY(%s) ORDER BY id FOR SHARE"
ADD = """
INSERT INTO embeddings (user_id, space_id, message_id, passage, conversation_id, branch, depth, active,
                        span_start, span_end, embedding)
SELECT m.user_id, %s, m.id, %s, m.conversation_id, m.branch, m.depth,
       c.memory = 'remembered' AND on_path(m.branch, m.depth, c.lineage || ARRAY[c.head_branch, c.head_depth]),
       %s, %s, %s
FROM messages m JOIN conversations c ON c.user_id = m.user_id AND c.id = m.conversation_id
WHERE m.user_id = %s AND m.id = %s AND m.state <> 'erased' AND c.memory <> 'temporary'
ON CONFLICT (user_id, space_id, message_id, passage) DO UPDATE SET
    span_start = excluded.span_start, span_end = excluded.span_end, embedding = excluded.embedding
"""
DELETE = "DELETE FROM embeddings WHERE user_id = %s AND message_id = ANY(%s)"


@dataclass(frozen=True, slots=True)
class NewVector:
    """The vector of one passage of a message.

    Attributes:
        passage: Number of the passage within the message, from 0.
        span: First and one past the last character of the passage in the message's text.
        vector: Unit vector of the space's dimension.
    """

    message_id: UUID
    conversation_id: UUID
    passage: int
    span: tuple[int, int]
    vector: Vector


class VectorStore:
    """Keeps the vectors of one user's messages. Searching is `chatrpc.db.recall.Recall.search`."""

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

    async def add(self, user_id: UUID, space_id: int, vectors: Sequence[NewVector]) -> None:
        """Store vectors; those of messages that are gone are left out, those stored before are replaced."""
        if not vectors:
            return
        async with self._database.transaction(user_id) as connection:
            conversations = sorted({vector.conversation_id for vector in vectors})
            await connection.execute(LOCK, (user_id, conversations))
            await connection.cursor().executemany(
                ADD,
                [(space_id, v.passage, *v.span, HalfVector(v.vector), user_id, v.message_id) for v in vectors],
            )

    async def delete_messages(self, user_id: UUID, message_ids: Sequence[UUID]) -> int:
        """Remove all vectors of messages; the number removed."""
        async with self._database.transaction(user_id) as connection:
            cursor = await connection.execute(DELETE, (user_id, list(message_ids)))
            return cursor.rowcount
