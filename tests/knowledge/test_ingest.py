"""The worker on a real database: what it does, what no failure may do to it, and what it leaves behind."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from chatrpc.db.chunks import Chunks, DocumentTasks
from chatrpc.db.collections import Collections
from chatrpc.db.documents import Documents
from chatrpc.db.engine import Database
from chatrpc.db.vectors import VectorStore
from chatrpc.domain import Chunk, Document, DocumentState, NewDocument
from chatrpc.errors import NotFound, Reason, Unavailable
from chatrpc.knowledge import ingest
from chatrpc.knowledge.ingest import IngestWorker
from chatrpc.knowledge.parser import Parser
from chatrpc.ports import Vectors
from chatrpc.settings import KnowledgeSettings
from tests.support.embedder import WordEmbedder

GENEROUS = 30.0
AWAY = Unavailable(Reason.MODEL_UNAVAILABLE, "The embedder cannot be reached; try again.")
LONG = "\n\n".join(f"# Part {number}\n\nIt is about subject {number}." for number in range(40))


@dataclass
class GatedEmbedder(WordEmbedder):
    """Says how much it was asked for, and waits or fails as a test likes."""

    batches: list[int] = field(default_factory=list)
    fail_after: int | None = None
    gate: asyncio.Event | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        super().__init__()

    async def embed(self, texts: Sequence[str]) -> Vectors:
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fail_after is not None and len(self.batches) >= self.fail_after:
            raise AWAY
        self.batches.append(len(texts))
        return await super().embed(texts)


@dataclass
class Shelf:
    """The documents of a user, and a worker."""

    database: Database
    embedder: GatedEmbedder
    worker: IngestWorker
    user_id: UUID = field(default_factory=uuid4)

    @property
    def documents(self) -> Documents:
        return Documents(self.database)

    async def put(self, text: str | bytes, media_type: str = "text/markdown") -> UUID:
        """A document whose bytes are all there."""
        data = text.encode() if isinstance(text, str) else text
        document = await self.begin(data, media_type)
        await self.documents.add_part(self.user_id, document.id, 0, data)
        await self.documents.accept(self.user_id, document.id)
        return document.id

    async def begin(self, data: bytes, media_type: str = "text/markdown") -> Document:
        new = NewDocument("", media_type, len(data), hashlib.sha256(data).digest(), None, "", {})
        return await self.documents.begin(self.user_id, new)

    async def get(self, document_id: UUID) -> Document:
        return await self.documents.get(self.user_id, document_id)

    async def rows(self, table: str) -> int:
        statement = (f"SELECT count(*) AS n FROM {table} WHERE user_id = %s", (self.user_id,))
        [[row]] = await self.database.query(self.user_id, statement)
        return row["n"]

    async def found(self) -> list[tuple[UUID, int]]:
        """Document and chunk number of each vector, in order."""
        statement = (
            "SELECT conversation_id, depth FROM embeddings WHERE user_id = %s AND source = 1 ORDER BY 1, 2",
            (self.user_id,),
        )
        [rows] = await self.database.query(self.user_id, statement)
        return [(row["conversation_id"], row["depth"]) for row in rows]

    async def all_due(self) -> None:
        """Let the pauses between two tries be over."""
        await self.database.query(
            self.user_id, ("UPDATE document_tasks SET due_at = now() WHERE user_id = %s", (self.user_id,))
        )


@pytest_asyncio.fixture
async def shelf(database: Database) -> Shelf:
    embedder = GatedEmbedder()
    space_id = await VectorStore(database).register_space(embedder.space)
    worker = IngestWorker(
        DocumentTasks(database),
        Documents(database),
        Chunks(database),
        VectorStore(database),
        Parser(KnowledgeSettings(), embedder.space.max_tokens),
        embedder,
        space_id,
    )
    return Shelf(database, embedder, worker)


@asynccontextmanager
async def running(worker: IngestWorker) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_document_becomes_chunks_that_can_be_found_and_its_bytes_go(shelf: Shelf) -> None:
    document_id = await shelf.put(LONG)
    await shelf.worker.drain()
    document = await shelf.get(document_id)
    assert (document.state, document.title, document.characters) == (DocumentState.READY, "Part 0", len(LONG))
    assert (document.chunks, document.embedded_chunks) == (40, 40)
    chunks = await Chunks(shelf.database).read(shelf.user_id, document_id, 0, 1_000)
    assert "".join(chunk.text for chunk in chunks) == LONG
    assert await shelf.found() == [(document_id, number) for number in range(40)]
    assert (await shelf.rows("document_parts"), await shelf.rows("document_tasks")) == (0, 0)


async def test_documents_are_ingested_as_they_come(shelf: Shelf) -> None:
    async with running(shelf.worker):
        document_id = await shelf.put("# A\n\ntext")
        shelf.worker.wake()
        async with asyncio.timeout(GENEROUS):
            while (await shelf.get(document_id)).state is not DocumentState.READY:
                await asyncio.sleep(0.01)


async def test_what_was_embedded_before_a_failure_stays_embedded(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "_EMBEDDED_AT_ONCE", 8)
    document_id = await shelf.put(LONG)
    shelf.embedder.fail_after = 3
    await shelf.worker.drain()
    reached = (await shelf.get(document_id)).embedded_chunks
    # The last batch that was embedded may not have been stored when the next one failed.
    assert reached in (16, 24)
    assert len(await shelf.found()) >= reached
    shelf.embedder.fail_after, shelf.embedder.batches = None, []
    await shelf.all_due()
    await shelf.worker.drain()
    assert (await shelf.get(document_id)).state is DocumentState.READY
    assert sum(shelf.embedder.batches) == 40 - reached
    assert await shelf.found() == [(document_id, number) for number in range(40)]


async def test_vectors_are_committed_in_parts_and_their_cost_is_booked_once(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_COMMITTED_AT_ONCE", 16)
    document = await shelf.get(await shelf.put(LONG))
    await shelf.worker.drain()
    committed = "SELECT count(*) AS vectors, count(DISTINCT xmin::text) AS commits FROM embeddings"
    booked = "SELECT kind FROM usage_entries WHERE kind = 'embedding'"
    [[rows], entries] = await shelf.database.query(shelf.user_id, (committed, ()), (booked, ()))
    assert rows == {"vectors": (await shelf.get(document.id)).chunks, "commits": 3}
    assert len(shelf.embedder.batches) == len(entries) == 1


async def test_a_failure_is_tried_again_after_growing_pauses(shelf: Shelf) -> None:
    document_id = await shelf.put("# A\n\ntext")
    shelf.embedder.fail_after = 0
    statement = (
        "SELECT attempts, due_at - now() AS pause, claimed_until FROM document_tasks WHERE user_id = %s",
        (shelf.user_id,),
    )
    pauses = []
    for attempt in range(1, 4):
        await shelf.all_due()
        await shelf.worker.drain()
        [[row]] = await shelf.database.query(shelf.user_id, statement)
        assert (row["attempts"], row["claimed_until"]) == (attempt, None)
        pauses.append(row["pause"])
    assert pauses[0] <= timedelta(seconds=1) < pauses[1] <= timedelta(seconds=2) < pauses[2] <= timedelta(seconds=4)
    assert (await shelf.get(document_id)).state is DocumentState.EMBEDDING


async def test_a_document_that_always_fails_stops_no_other(shelf: Shelf) -> None:
    class Poisoned(GatedEmbedder):
        async def embed(self, texts: Sequence[str]) -> Vectors:
            if any("poison" in text for text in texts):
                raise ArithmeticError("poisoned")
            return await super().embed(texts)

    shelf.worker._embedder = Poisoned()
    poisoned, broken = await shelf.put("# A\n\npoison"), await shelf.put(b"\x80", "text/plain")
    good = await shelf.put("# A\n\ngood")
    await shelf.worker.drain()
    states = [(await shelf.get(document_id)).state for document_id in (poisoned, broken, good)]
    assert states == [DocumentState.EMBEDDING, DocumentState.FAILED, DocumentState.READY]


async def test_a_document_that_cannot_be_read_leaves_nothing_but_the_reason(shelf: Shelf) -> None:
    document_id = await shelf.put(b"%PDF-1.7 broken", "application/pdf")
    await shelf.worker.drain()
    document = await shelf.get(document_id)
    assert (document.state, document.error_reason) == (DocumentState.FAILED, "DOCUMENT_BROKEN")
    assert (document.chunks, document.received) == (0, 0)
    for table in ("document_parts", "document_chunks", "document_tasks", "embeddings"):
        assert await shelf.rows(table) == 0
    # It can be tried again, with the bytes.
    assert await shelf.put(b"%PDF-1.7 broken", "application/pdf") == document_id
    assert (await shelf.get(document_id)).state is DocumentState.PARSING


async def test_what_an_earlier_try_at_parsing_has_left_is_done_anew(shelf: Shelf) -> None:
    document_id = await shelf.put("# A\n\ntext")
    left = [Chunk(number, 0, 1, 0, ("stale",), "x") for number in range(5)]
    await Chunks(shelf.database).add(shelf.user_id, document_id, left)
    await shelf.worker.drain()
    [chunk] = await Chunks(shelf.database).read(shelf.user_id, document_id, 0, 100)
    assert chunk.text == "# A\n\ntext"


async def test_a_worker_that_is_stopped_gives_its_document_back_at_once(shelf: Shelf) -> None:
    document_id = await shelf.put("# A\n\ntext")
    shelf.embedder.gate = asyncio.Event()
    async with running(shelf.worker):
        await asyncio.wait_for(shelf.embedder.asked.wait(), GENEROUS)
    shelf.embedder.gate = None
    [task] = await DocumentTasks(shelf.database).claim(10, timedelta(seconds=-1))
    assert (task.document_id, task.attempts) == (document_id, 1)
    await shelf.worker.drain()
    assert (await shelf.get(document_id)).state is DocumentState.READY


async def test_a_document_deleted_while_it_is_embedded_leaves_nothing(shelf: Shelf) -> None:
    document_id = await shelf.put(LONG)
    shelf.embedder.gate = asyncio.Event()
    working = asyncio.create_task(shelf.worker.drain())
    await asyncio.wait_for(shelf.embedder.asked.wait(), GENEROUS)
    counts = await shelf.documents.delete(shelf.user_id, document_id)
    assert counts.chunks == 40
    shelf.embedder.gate.set()
    await asyncio.wait_for(working, GENEROUS)
    for table in ("documents", "document_chunks", "document_tasks", "embeddings"):
        assert await shelf.rows(table) == 0
    with pytest.raises(NotFound):
        await shelf.get(document_id)


async def test_a_large_document_lets_small_ones_pass(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "STRETCH", 4)
    monkeypatch.setattr(ingest, "CONCURRENCY", 1)
    shelf.worker._loop._concurrency = 1
    large = await shelf.put(LONG)
    for _ in range(3):
        await shelf.worker._work((await shelf.worker._claim(1))[0])
    small = await shelf.put("# A\n\ntext")
    while (await shelf.get(small)).state is not DocumentState.READY:
        await shelf.worker._work((await shelf.worker._claim(1))[0])
    assert (await shelf.get(large)).embedded_chunks < 40
    await shelf.worker.drain()
    assert (await shelf.get(large)).state is DocumentState.READY


async def test_an_upload_that_was_given_up_is_discarded_after_a_day(shelf: Shelf) -> None:
    given_up, going_on = await shelf.begin(b"abc"), await shelf.begin(b"def")
    for document in (given_up, going_on):
        await shelf.documents.add_part(shelf.user_id, document.id, 0, b"x")
    await shelf.worker.drain()
    assert await shelf.rows("document_parts") == 2
    await shelf.database.query(
        shelf.user_id,
        ("UPDATE documents SET updated_at = now() - interval '25 hours' WHERE id = %s", (given_up.id,)),
    )
    await shelf.all_due()
    await shelf.worker.drain()
    assert (await shelf.get(going_on.id)).received == 1
    with pytest.raises(NotFound):
        await shelf.get(given_up.id)
    assert await shelf.rows("document_parts") == 1


async def test_a_vector_of_a_blank_chunk_is_not_made(shelf: Shelf) -> None:
    document_id = await shelf.put("text" + "\n" * 2_000 + "text", "text/plain")
    await shelf.worker.drain()
    document = await shelf.get(document_id)
    assert document.state is DocumentState.READY
    assert 0 < len(await shelf.found()) < document.chunks


async def test_many_that_begin_the_same_upload_at_once_get_one_document(shelf: Shelf) -> None:
    begun = await asyncio.gather(*(shelf.begin(b"the same") for _ in range(8)))
    assert len({document.id for document in begun}) == 1


async def test_a_document_begun_while_its_collection_is_deleted_is_in_it_or_not_at_all(shelf: Shelf) -> None:
    collections = Collections(shelf.database)
    for number in range(8):
        collection = await collections.create(shelf.user_id, "Manuals", None)
        new = NewDocument("", "text/plain", 1, bytes([number]) * 32, collection.id, "", {})
        begun, counts = await asyncio.gather(
            shelf.documents.begin(shelf.user_id, new),
            collections.delete(shelf.user_id, collection.id),
            return_exceptions=True,
        )
        assert counts.documents == 1 or isinstance(begun, NotFound)
    assert await shelf.rows("documents") == 0
