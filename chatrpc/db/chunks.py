"""The chunks of documents, and the background work that makes and embeds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid5

from chatrpc.db.engine import Connection, Database
from chatrpc.domain import Chunk, DocumentState

CLAIM = "SELECT * FROM claim_document_tasks(%s, %s)"
# A task that was put anew since the claim has no claim any more, and stays as it is.
DONE = "DELETE FROM document_tasks WHERE user_id = %s AND document_id = %s AND claimed_until IS NOT NULL"
GIVE_BACK = """
UPDATE document_tasks SET due_at = now() + %s, claimed_until = NULL, attempts = %s
WHERE user_id = %s AND document_id = %s AND claimed_until IS NOT NULL
"""
# The lock keeps chunks from being written once their document is deleted.
LOCK = "SELECT state FROM documents WHERE user_id = %s AND id = %s FOR NO KEY UPDATE"
ADD = """
INSERT INTO document_chunks (user_id, document_id, number, id, span_start, span_end, page, headings, text)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
PARSED = """
UPDATE documents SET state = %(state)s, title = CASE WHEN title = '' THEN %(title)s ELSE title END,
    characters = %(characters)s, pages = %(pages)s, chunks = %(chunks)s, embedded_chunks = 0, updated_at = now()
WHERE user_id = %(owner)s AND id = %(document)s
"""
READ = """
SELECT number, span_start, span_end, page, headings, text FROM document_chunks
WHERE user_id = %s AND document_id = %s AND number >= %s ORDER BY number LIMIT %s
"""
# `GREATEST`: of two workers at one document, as after a lease that ran out, the slower must not take it back.
EMBEDDED = """
UPDATE documents SET embedded_chunks = greatest(embedded_chunks, %(through)s),
    state = CASE WHEN greatest(embedded_chunks, %(through)s) >= chunks THEN %(ready)s ELSE state END, updated_at = now()
WHERE user_id = %(owner)s AND id = %(document)s AND state = %(embedding)s
"""


def chunk_id(document_id: UUID, number: int) -> UUID:
    """The id of a chunk; the same each time that its document is parsed."""
    return uuid5(document_id, str(number))


@dataclass(frozen=True, slots=True)
class DocumentTask:
    """A claim on one document's background work.

    Attributes:
        attempts: Claims since the work last went on, this one included.
    """

    user_id: UUID
    document_id: UUID
    attempts: int


class DocumentTasks:
    """The queue of documents to be parsed and embedded."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, limit: int, lease: timedelta) -> list[DocumentTask]:
        """Claim due tasks, the oldest first; nobody else claims them until the lease is over."""
        async with self._database.unbound() as connection:
            cursor = await connection.execute(CLAIM, (limit, lease))
            return [DocumentTask(**row) for row in await cursor.fetchall()]

    async def done(self, task: DocumentTask) -> None:
        """Nothing is left to do."""
        await self._database.query(task.user_id, (DONE, (task.user_id, task.document_id)))

    async def give_back(self, task: DocumentTask, delay: timedelta, attempts: int) -> None:
        """There is more to do, after the delay.

        Args:
            attempts: 0 where the work went on, else those so far.
        """
        await self._database.query(task.user_id, (GIVE_BACK, (delay, attempts, task.user_id, task.document_id)))


class Chunks:
    """Stores the chunks of a document, and how far they are embedded."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def clear(self, owner_id: UUID, document_id: UUID) -> None:
        """Remove what an earlier try has left."""
        statement = "DELETE FROM document_chunks WHERE user_id = %s AND document_id = %s"
        await self._database.query(owner_id, (statement, (owner_id, document_id)))

    async def add(self, owner_id: UUID, document_id: UUID, chunks: Sequence[Chunk]) -> None:
        """Store further chunks; of a document that is gone, none."""
        async with self._database.transaction(owner_id) as connection:
            if not await _is(connection, owner_id, document_id, DocumentState.PARSING):
                return
            await connection.cursor().executemany(
                ADD,
                [
                    (owner_id, document_id, chunk.number, chunk_id(document_id, chunk.number), chunk.start, chunk.end,
                     chunk.page, list(chunk.headings), chunk.text)
                    for chunk in chunks
                ],
            )  # fmt: skip

    async def finish(
        self, owner_id: UUID, document_id: UUID, *, title: str, characters: int, pages: int, chunks: int
    ) -> None:
        """All chunks are stored; the bytes that they were read from are not needed any more."""
        async with self._database.transaction(owner_id) as connection:
            if not await _is(connection, owner_id, document_id, DocumentState.PARSING):
                return
            await connection.execute(
                "DELETE FROM document_parts WHERE user_id = %s AND document_id = %s", (owner_id, document_id)
            )
            await connection.execute(
                PARSED,
                {
                    "owner": owner_id,
                    "document": document_id,
                    "state": DocumentState.EMBEDDING.value,
                    "title": title,
                    "characters": characters,
                    "pages": pages,
                    "chunks": chunks,
                },
            )

    async def read(self, owner_id: UUID, document_id: UUID, start: int, limit: int) -> list[Chunk]:
        """Chunks from a number on, in order."""
        [rows] = await self._database.query(owner_id, (READ, (owner_id, document_id, start, limit)))
        return [
            Chunk(
                number=row["number"],
                start=row["span_start"],
                end=row["span_end"],
                page=row["page"],
                headings=tuple(row["headings"]),
                text=row["text"],
            )
            for row in rows
        ]

    async def embedded(self, owner_id: UUID, document_id: UUID, through: int) -> None:
        """The first so many chunks can be found; with the last one, the document is ready."""
        params = {
            "owner": owner_id,
            "document": document_id,
            "through": through,
            "ready": DocumentState.READY.value,
            "embedding": DocumentState.EMBEDDING.value,
        }
        await self._database.query(owner_id, (EMBEDDED, params))


async def _is(connection: Connection, owner_id: UUID, document_id: UUID, state: DocumentState) -> bool:
    row = await (await connection.execute(LOCK, (owner_id, document_id))).fetchone()
    return row is not None and row["state"] == state
