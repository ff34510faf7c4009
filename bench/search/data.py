"""The table that is searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector
from pgvector.psycopg import register_vector_async
from psycopg import AsyncConnection
from uuid_utils.compat import uuid7

from chatrpc.context.retrieval.lexicon import terms
from chatrpc.db.search import Source
from chatrpc.db.terms import term_vector

CONTAINER = 50
"""Passages of a conversation or a document."""
COPY = """
COPY embeddings (user_id, space_id, message_id, passage, conversation_id, branch, depth, active, source, collection_id,
                 created_at, length, span_start, span_end, embedding, terms) FROM STDIN (FORMAT BINARY)
"""
TYPES = [
    "uuid", "int2", "uuid", "int2", "uuid", "int4", "int4", "bool", "int2", "uuid", "timestamptz", "int4", "int4",
    "int4", "halfvec", "sparsevec",
]  # fmt: skip
# Users of a thousand passages each.
OTHERS = """
INSERT INTO embeddings (user_id, space_id, message_id, passage, conversation_id, branch, depth, active, created_at,
                        length, span_start, span_end, embedding, terms)
SELECT md5('user ' || n / 1000)::uuid, {space}, gen_random_uuid(), 0, md5('conversation ' || n / {container})::uuid, 0,
       n % {container} + 1, true, now(), a.length, 0, 1, l2_normalize(a.embedding + b.embedding), a.terms
FROM generate_series({start}::bigint, {stop} - 1) AS n
JOIN sampled a ON a.number = n * 7919 % {sampled} JOIN sampled b ON b.number = n * 104729 % {sampled}
"""


@dataclass(frozen=True)
class User:
    """A user whose passages are known; the arrays are parallel.

    Attributes:
        vectors: As the database keeps them.
        collection: Of every fiftieth container, which is a document.
    """

    id: UUID
    units: list[UUID]
    containers: list[UUID]
    documents: NDArray[np.bool_]
    vectors: NDArray[np.float32]
    collection: UUID


async def add_user(
    connection: AsyncConnection[Any], space_id: int, texts: Sequence[str], vectors: NDArray[np.float16]
) -> User:
    """Write a user's passages, in conversations and documents of `CONTAINER` each, one after the other."""
    user, collection, now = uuid7(), uuid7(), datetime.now(UTC)
    count = len(texts)
    user_ = User(
        id=user,
        units=[uuid7() for _ in range(count)],
        containers=[each for _ in range(0, count, CONTAINER) for each in [uuid7()] * CONTAINER][:count],
        documents=np.arange(count) // CONTAINER % 50 == 1,
        vectors=vectors.astype(np.float32),
        collection=collection,
    )
    await register_vector_async(connection)
    async with connection.cursor().copy(COPY) as copy:
        copy.set_types(TYPES)
        for number, text in enumerate(texts):
            held = terms(text)
            document = bool(user_.documents[number])
            await copy.write_row(
                (
                    user, space_id, user_.units[number], 0, user_.containers[number], 0, number % CONTAINER + 1, True,
                    int(Source.CHUNK if document else Source.MESSAGE), collection if document else None,
                    now - timedelta(minutes=count - number), held.total(), 0, len(text), HalfVector(vectors[number]),
                    term_vector(held),
                )
            )  # fmt: skip
    return user_


async def add_others(connection: AsyncConnection[Any], space_id: int, user: User, rows: int) -> None:
    """Write passages of other users, made of those of one."""
    sampled = 2_000
    await connection.execute(
        "CREATE TEMPORARY TABLE sampled AS SELECT row_number() OVER () - 1 AS number, embedding, terms, length "
        f"FROM (SELECT * FROM embeddings WHERE user_id = %s LIMIT {sampled}) e",
        (user.id,),
    )
    await connection.execute("ANALYZE sampled")
    step = 50_000
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        await connection.execute(
            OTHERS.format(space=space_id, container=CONTAINER, start=start, stop=stop, sampled=sampled)
        )
