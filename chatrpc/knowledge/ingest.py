"""The background work on documents: they are parsed, and their chunks are embedded, a stretch at a time.

A task is claimed for one stretch and given back behind all others that are due, so that a large document keeps no
small one waiting. What a stretch has done stays done: after a crash the work goes on where it stood. A document that
cannot be read is failed, with the reason; any other failure is tried again later, with growing pauses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from datetime import timedelta

from chatrpc.context.background import WorkLoop, backoff, log_failure
from chatrpc.context.retrieval.lexicon import terms
from chatrpc.db.chunks import Chunks, DocumentTask, DocumentTasks, chunk_id
from chatrpc.db.documents import Documents, not_found
from chatrpc.db.vectors import NewVector, VectorStore
from chatrpc.domain import Chunk, Document, DocumentState
from chatrpc.errors import NotFound
from chatrpc.knowledge.chunk import embedded_text
from chatrpc.knowledge.parser import Parser
from chatrpc.knowledge.text import ParseError
from chatrpc.models.embedding.metered import embed_metered
from chatrpc.ports import Embedder, EmbeddingCost

LEASE = timedelta(minutes=10)
"""How long a claim lasts; a stretch that takes longer is broken off and tried again."""
CONCURRENCY = 2
"""Documents that one process works on at a time."""
STRETCH = 1_024
"""Chunks that are embedded before other documents have their turn."""

# Texts of like length are embedded together without padding: the more there are to choose from, the less is wasted. To
# find the terms of so many, and to write them, holds up the event loop for some milliseconds.
_EMBEDDED_AT_ONCE = 64
_STORED_AT_ONCE = 512
# Vectors and their words make much log, and whoever commits meanwhile waits until it is written: 50 ms for 64 of them.
_COMMITTED_AT_ONCE = 16


class IngestWorker:
    """Parses and embeds documents as they become due; several processes may each run one.

    Args:
        embedder: At best one that lets queries pass first.
        space_id: The embedder's space in the database.
    """

    def __init__(
        self,
        tasks: DocumentTasks,
        documents: Documents,
        chunks: Chunks,
        vectors: VectorStore,
        parser: Parser,
        embedder: Embedder,
        space_id: int,
    ) -> None:
        self._tasks = tasks
        self._documents = documents
        self._chunks = chunks
        self._vectors = vectors
        self._parser = parser
        self._embedder = embedder
        self._space_id = space_id
        self._loop = WorkLoop("ingest", self._claim, self._work, CONCURRENCY)

    def wake(self) -> None:
        """Look for work at once: an upload of this process is complete."""
        self._loop.wake()

    async def run(self) -> None:
        """Work until cancelled. No error ends it; documents under way when it is cancelled are given back."""
        await self._loop.run()

    async def drain(self) -> int:
        """Work until nothing is due and return the number of stretches; those that fail are not due for a while."""
        return await self._loop.drain()

    async def _claim(self, limit: int) -> list[DocumentTask]:
        return await self._tasks.claim(limit, LEASE)

    async def _work(self, task: DocumentTask) -> None:
        """Do a stretch and give the task back, however it ends."""
        # Broken off by the end of this process, it is no failure of the document.
        done, delay, attempts = False, timedelta(0), task.attempts - 1
        try:
            async with asyncio.timeout(LEASE.total_seconds()):
                done = await self._stretch(task)
            attempts = 0
        except Exception as error:  # noqa: BLE001 - one document's failure is not to stop the others.
            delay, attempts = backoff(task.attempts), task.attempts
            log_failure("ingest_failed", error, document_id=str(task.document_id), attempts=task.attempts)
        finally:
            await self._give_back(task, done, delay, attempts)

    async def _give_back(self, task: DocumentTask, done: bool, delay: timedelta, attempts: int) -> None:
        try:
            if done:
                await self._tasks.done(task)
            else:
                await self._tasks.give_back(task, delay, attempts)
        except Exception as error:  # noqa: BLE001 - the task comes back by itself when its lease is over.
            log_failure("ingest_give_back_failed", error, document_id=str(task.document_id))

    async def _stretch(self, task: DocumentTask) -> bool:
        """Do the next that is to be done. Whether that was all."""
        try:
            document = await self._documents.get(task.user_id, task.document_id)
            match document.state:
                case DocumentState.UPLOADING:
                    await self._documents.delete_expired(task.user_id, task.document_id)
                case DocumentState.PARSING:
                    return not await self._parse(document)
                case DocumentState.EMBEDDING:
                    return await self._embed(document)
        except NotFound:
            pass  # It was deleted, and its task with it.
        return True

    async def _parse(self, document: Document) -> bool:
        """Store the chunks of a document. Whether there is something to embed."""
        owner_id, document_id = document.owner_id, document.id
        await self._chunks.clear(owner_id, document_id)
        try:
            async with (
                aclosing(self._documents.parts(owner_id, document_id)) as parts,
                self._parser.parse(document.media_type, parts) as parsed,
                aclosing(parsed.read_chunks()) as chunks,
            ):
                waiting: list[Chunk] = []
                async for chunk in chunks:
                    waiting.append(chunk)
                    if len(waiting) == _STORED_AT_ONCE or chunk.number == parsed.chunks - 1:
                        await self._chunks.add(owner_id, document_id, waiting)
                        waiting = []
        except ParseError as error:
            await self._documents.fail(owner_id, document_id, error.reason)
            return False
        await self._chunks.finish(
            owner_id,
            document_id,
            title=parsed.title,
            characters=parsed.characters,
            pages=parsed.pages,
            chunks=parsed.chunks,
        )
        return True

    async def _embed(self, document: Document) -> bool:
        """Embed the next chunks of a document; while some are stored, the next are embedded. Whether it is ready."""
        reached = document.embedded_chunks
        end = min(reached + STRETCH, document.chunks)
        storing: asyncio.Task[None] | None = None
        try:
            while reached < end:
                limit = min(_EMBEDDED_AT_ONCE, end - reached)
                chunks = await self._chunks.read(document.owner_id, document.id, reached, limit)
                if not chunks:
                    raise not_found(document.id)  # Deleted meanwhile.
                vectors, cost = await self._vectors_of(document, chunks)
                if storing is not None:
                    await storing
                reached = chunks[-1].number + 1
                storing = asyncio.create_task(self._store(document, vectors, cost, reached))
            if storing is not None:
                await storing
        finally:
            if storing is not None:
                storing.cancel()
                await asyncio.wait({storing})
        return reached >= document.chunks

    async def _vectors_of(self, document: Document, chunks: Sequence[Chunk]) -> tuple[list[NewVector], EmbeddingCost]:
        spoken = [chunk for chunk in chunks if chunk.text.strip()]
        texts = [embedded_text(document.title, chunk.headings, chunk.text) for chunk in spoken]
        vectors, cost = await embed_metered(self._embedder, texts)
        new = [
            NewVector(
                message_id=chunk_id(document.id, chunk.number),
                conversation_id=document.id,
                passage=0,
                span=(0, len(chunk.text)),
                vector=vector,
                terms=terms(text),
                place=chunk.number,
            )
            for chunk, text, vector in zip(spoken, texts, vectors, strict=True)
        ]
        return new, cost

    async def _store(self, document: Document, vectors: Sequence[NewVector], cost: EmbeddingCost, reached: int) -> None:
        for start in range(0, len(vectors), _COMMITTED_AT_ONCE):
            part = vectors[start : start + _COMMITTED_AT_ONCE]
            # What all of them cost is booked with the last.
            spent = cost if part[-1] is vectors[-1] else None
            await self._vectors.add_chunks(document.owner_id, self._space_id, part, spent)
        await self._chunks.embedded(document.owner_id, document.id, reached)
