"""What is looked up one by one is so whatever the tables' sizes were when a connection planned it.

Connections plan while the tables are empty, and the tables are never analysed: the worst that can happen to a plan.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest_asyncio

from chatrpc.db.chunks import chunk_id
from chatrpc.db.engine import Database, open_database
from chatrpc.db.recall import Recall, plan_searches
from chatrpc.db.search import Query
from chatrpc.db.vectors import NewVector, VectorStore
from chatrpc.ports import EmbeddingSpace
from chatrpc.settings import DatabaseSettings

SPACE = EmbeddingSpace(name="test", fingerprint="f", dimension=4, floor=0.3, max_tokens=64)
VECTOR = np.full(4, 0.5, np.float32)
# Of each of these, and of documents without chunks beside one with them. Pages of a table that were never looked at
# count as ten, so it must be more than fits there.
MANY = 1_500
LOOKED_AT = 10

MESSAGES = """
INSERT INTO messages (user_id, conversation_id, branch, depth, id, sequence, role, state, parts, tokens)
SELECT %(user)s, %(conversation)s, 0, n, gen_random_uuid(), n, 'user', 'complete', '[{"text": "Oil the pump."}]', 4
FROM generate_series(1, %(many)s) AS n
"""
DOCUMENTS = """
INSERT INTO documents (user_id, id, title, media_type, uri, labels, size, sha256, state)
SELECT %(user)s, CASE n WHEN 1 THEN %(document)s ELSE gen_random_uuid() END, 'Pumps', 'text/plain', '', '{}', 1,
       n::text::bytea, 'ready'
FROM generate_series(1, %(many)s) AS n
"""
CHUNKS = """
INSERT INTO document_chunks (user_id, document_id, id, number, span_start, span_end, page, headings, text)
SELECT %(user)s, %(document)s, unnest(%(ids)s::uuid[]), generate_series(0, %(many)s - 1), 0, 13, 0, '{}',
       'Oil the pump.'
"""
# Vectors of all messages, and of all chunks.
EMBEDDINGS = """
INSERT INTO embeddings (user_id, space_id, message_id, passage, conversation_id, branch, depth, active, length,
                        span_start, span_end, embedding, source)
SELECT user_id, %(space)s, id, 0, conversation_id, branch, depth, true, 3, 0, 13, '[0.5,0.5,0.5,0.5]'::halfvec, 0
FROM messages
UNION ALL
SELECT user_id, %(space)s, id, 0, document_id, 0, number, true, 3, 0, 13, '[0.5,0.5,0.5,0.5]', 1
FROM document_chunks
"""
READ = """
SELECT coalesce(sum(pg_stat_get_tuples_returned(i.indexrelid)), 0) AS entries
FROM pg_index i WHERE i.indrelid::regclass::text ~ %s
"""
LOOKED_UP = "^(messages|document_chunks|embeddings)"


@dataclass(frozen=True)
class Home:
    """A user with much of everything, and a database with one connection, which had its plans before."""

    database: Database
    user: UUID
    conversation: UUID
    document: UUID
    space_id: int
    messages: list[UUID]

    async def entries_read(self, work: Callable[[], Awaitable[object]]) -> int:
        """Entries of indexes that it takes. The user's documents may be passed over, to lock one and to read it."""
        before, documents = await self._read(LOOKED_UP), await self._read("^documents")
        await work()
        assert await self._read("^documents") - documents <= 2 * MANY
        return await self._read(LOOKED_UP) - before

    async def _read(self, tables: str) -> int:
        async with self.database.unbound() as connection:
            await connection.execute("SELECT pg_stat_force_next_flush()")
            row = await (await connection.execute(READ, (tables,))).fetchone()
        assert row is not None
        return int(row["entries"])


@pytest_asyncio.fixture
async def home(database_url: str) -> AsyncIterator[Home]:
    settings = DatabaseSettings(url=database_url, pool_size=1)
    async with open_database(settings, plan_searches) as database:
        user, conversation, document = uuid4(), uuid4(), uuid4()
        space_id = await VectorStore(database).register_space(SPACE)
        ids = [chunk_id(document, number) for number in range(MANY)]
        params = {
            "user": user,
            "conversation": conversation,
            "document": document,
            "ids": ids,
            "many": MANY,
            "space": space_id,
        }
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
            await owner.execute(
                "INSERT INTO conversations (user_id, id, title, settings, labels) VALUES (%s, %s, '', '{}', '{}')",
                (user, conversation),
            )
            for statement in (MESSAGES, DOCUMENTS, CHUNKS, EMBEDDINGS):
                await owner.execute(statement, params)
            said = await (await owner.execute("SELECT id FROM messages ORDER BY depth")).fetchall()
        yield Home(database, user, conversation, document, space_id, [id_ for (id_,) in said])


async def test_texts_are_read_of_what_was_chosen_alone(home: Home) -> None:
    recall = Recall(home.database)
    query = Query(home.space_id, ("pump",), elsewhere=True, collections=None, vector=VECTOR, exact_to=4 * MANY)
    pool = await recall.pool(home.user, None, query, ())
    assert len(pool) == 2 * MANY
    messages, chunks = (np.flatnonzero(pool.container == pool.container[row]) for row in _one_of_each(pool.container))
    for rows in (messages, chunks):
        chosen = rows[:LOOKED_AT].tolist()
        read = await home.entries_read(lambda chosen=chosen: recall.passages(home.user, query, pool, chosen))
        assert LOOKED_AT <= read <= 10 * LOOKED_AT
        assert len(await recall.passages(home.user, query, pool, chosen)) == LOOKED_AT


def _one_of_each(container: np.ndarray) -> list[int]:
    return [int(row) for row in np.unique(container, return_index=True)[1]]


async def test_units_beside_others_are_found_by_their_places(home: Home) -> None:
    statement = "SELECT cardinality(units_beside(%s, %s, %s, %s, %s)) AS units"
    depths = [50 * n for n in range(1, LOOKED_AT + 1)]
    params = (home.user, home.user, [home.conversation] * LOOKED_AT, [0] * LOOKED_AT, depths)
    read = await home.entries_read(lambda: home.database.query(home.user, (statement, params)))
    [[row]] = await home.database.query(home.user, (statement, params))
    assert row["units"] == 5 * LOOKED_AT
    assert row["units"] <= read <= 10 * LOOKED_AT


async def test_vectors_are_added_by_a_look_at_what_they_are_of(home: Home) -> None:
    store = VectorStore(home.database)
    of_messages = [NewVector(id_, home.conversation, 1, (0, 13), VECTOR) for id_ in home.messages[:LOOKED_AT]]
    of_chunks = [
        NewVector(chunk_id(home.document, number), home.document, 1, (0, 13), VECTOR, place=number)
        for number in range(LOOKED_AT)
    ]
    for add, vectors in ((store.add, of_messages), (store.add_chunks, of_chunks)):
        read = await home.entries_read(lambda add=add, vectors=vectors: add(home.user, home.space_id, vectors))
        assert LOOKED_AT <= read <= 10 * LOOKED_AT
    [[row]] = await home.database.query(home.user, ("SELECT count(*) FROM embeddings WHERE passage = 1", ()))
    assert row["count"] == 2 * LOOKED_AT
