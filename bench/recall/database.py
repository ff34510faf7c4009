"""The same questions to PostgreSQL: messages as the server stores them, and the search that it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar
from uuid import UUID

from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from bench.recall.offline import Index
from bench.recall.rankers import Search, delivered, shortlisted
from chatrpc.context.retrieval.lexicon import terms
from chatrpc.db import search
from chatrpc.db.codec import parts_to_json
from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.recall import Recall
from chatrpc.db.vectors import NewVector, VectorStore
from chatrpc.domain import TextPart, TurnSettings
from chatrpc.ports import EmbeddingSpace, Vectors

T = TypeVar("T")

# Messages are appended by the clock; these were said long ago.
INSERT = """
INSERT INTO messages (user_id, conversation_id, branch, depth, id, sequence, role, state, parts, tokens, created_at)
VALUES (%s, %s, 0, %s, %s, %s, %s, 'complete', %s, 0, %s)
"""
ADVANCE = "UPDATE conversations SET head_id = %s, head_depth = %s, last_sequence = %s WHERE user_id = %s AND id = %s"


async def through_database(
    index: Index, searches: Sequence[Search], vectors: Vectors, database: Database, space: EmbeddingSpace
) -> list[list[int]]:
    """Rows of the messages that the policy delivers from what PostgreSQL finds, for each question."""
    user_id = uuid7()
    space_id = await VectorStore(database).register_space(space)
    await store(user_id, index, database, space_id)
    recall = Recall(database)
    rows: list[list[int]] = []
    for each, vector in zip(searches, vectors, strict=True):
        query = search.Query(space_id, each.terms, elsewhere=True, vector=vector)
        pool = await recall.pool(user_id, None, query, ())
        ranked = shortlisted(pool, each.terms, each.question, each.floor)
        passages = await recall.passages(user_id, query, pool, [found.row for found in ranked])
        rows.append(delivered(ranked, passages, each.question, each.floor))
    return rows


async def store(user_id: UUID, index: Index, database: Database, space_id: int) -> None:
    """A message's id is the number of its row."""
    conversations = [
        await Conversations(database).create(user_id, title=name, settings=TurnSettings(), labels={}, request_id=None)
        for name in dict.fromkeys(message.conversation for message in index.memory.messages)
    ]
    homes = [conversations[number].id for number in index.container.tolist()]
    for part in _parts(list(enumerate(index.memory.messages))):
        messages, heads = [], []
        for row, message in part:
            place, id_ = int(index.place[row]), UUID(int=row)
            parts = Jsonb(parts_to_json((TextPart(message.text),)))
            messages.append((user_id, homes[row], place, id_, place, message.role.value, parts, message.created_at))
            heads.append((id_, place, place, user_id, homes[row]))
        async with database.transaction(user_id) as connection, connection.cursor() as cursor:
            await cursor.executemany(INSERT, messages)
            await cursor.executemany(ADVANCE, heads)
    ends = [*index.first.tolist(), len(index.spans)]
    passages = [
        NewVector(
            UUID(int=row), homes[row], number - first, span, index.vectors[number], terms(message.text[slice(*span)])
        )
        for row, (message, (first, end)) in enumerate(zip(index.memory.messages, pairwise(ends), strict=True))
        for number, span in zip(range(first, end), index.spans[first:end], strict=True)
    ]
    for stored in _parts(passages):
        await VectorStore(database).add(user_id, space_id, stored)


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """So that no statement takes as long as the server lets a call take, on a busy machine either."""
    return (items[start : start + 500] for start in range(0, len(items), 500))
