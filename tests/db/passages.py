"""Made-up passages of several users, written straight into the table, and what a search of them must find."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
from pgvector import HalfVector
from pgvector.psycopg import register_vector_async
from psycopg import AsyncConnection

from chatrpc.db.search import Pool, Query, Source
from chatrpc.db.terms import term_vector
from chatrpc.domain import Path
from chatrpc.ports import Vector

DIMENSION = 24
WORDS = [f"word{n}" for n in range(40)]
COLUMNS = (
    "user_id, space_id, message_id, passage, conversation_id, branch, depth, active, source, collection_id, "
    "created_at, length, span_start, span_end, embedding, terms"
)


def unit_vector(random_: np.random.Generator, dimension: int = DIMENSION) -> Vector:
    drawn = random_.normal(size=dimension).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


def halved(vector: Vector) -> Vector:
    """As the database keeps it."""
    return vector.astype(np.float16).astype(np.float32)


@dataclass(frozen=True)
class Row:
    """One passage."""

    user: UUID
    unit: UUID
    passage: int
    container: UUID
    branch: int
    depth: int
    active: bool
    source: Source
    collection: UUID | None
    created: datetime
    terms: Counter[str]
    vector: Vector

    def values(self, space_id: int) -> tuple[Any, ...]:
        return (
            self.user, space_id, self.unit, self.passage, self.container, self.branch, self.depth, self.active,
            int(self.source), self.collection, self.created, self.terms.total(), 0, 1, HalfVector(self.vector),
            term_vector(self.terms),
        )  # fmt: skip


class Maker:
    """Draws passages by a seed.

    Args:
        topics: Vectors lie about so many directions, as those of texts do; 0 scatters them evenly.
    """

    def __init__(self, seed: int, *, dimension: int = DIMENSION, topics: int = 0) -> None:
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self._dimension = dimension
        self._topics = [unit_vector(self.numbers, dimension) for _ in range(topics)]

    def vector(self) -> Vector:
        drawn = unit_vector(self.numbers, self._dimension)
        if not self._topics:
            return drawn
        near = drawn + self.random.choice(self._topics)
        return near / np.linalg.norm(near)

    def uuid(self) -> UUID:
        return UUID(int=self.random.getrandbits(128), version=4)

    def query(self, space_id: int, **scope: Any) -> Query:
        words = self.random.sample([*WORDS, "unheard"], self.random.choice([0, 1, 3, 10, 20]))
        return Query(space_id, words, **scope, vector=self.vector())

    def unit(
        self,
        user: UUID,
        container: UUID,
        source: Source,
        branch: int,
        depth: int,
        active: bool,
        collection: UUID | None,
    ) -> Iterator[Row]:
        unit = self.uuid()
        created = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=self.random.randrange(10**7))
        for passage in range(self.random.choice([1, 1, 1, 3])):
            # The first words are common, the last rare.
            words = [WORDS[int(len(WORDS) * self.random.random() ** 3)] for _ in range(self.random.randrange(9))]
            yield Row(
                user, unit, passage, container, branch, depth, active, source, collection, created, Counter(words),
                self.vector(),
            )  # fmt: skip

    def conversation(self, user: UUID, container: UUID, size: int) -> Iterator[Row]:
        for _ in range(size):
            branch, depth = self.random.randrange(3), self.random.randrange(1, 30)
            yield from self.unit(user, container, Source.MESSAGE, branch, depth, self.random.random() < 0.7, None)

    def document(self, user: UUID, collection: UUID | None, size: int) -> Iterator[Row]:
        container = self.uuid()
        for number in range(size):
            yield from self.unit(user, container, Source.CHUNK, 0, number, True, collection)


async def store(connection: AsyncConnection[Any], space_id: int, rows: Sequence[Row]) -> None:
    await register_vector_async(connection)
    await connection.cursor().executemany(
        f"INSERT INTO embeddings ({COLUMNS}) VALUES ({', '.join(['%s'] * 16)})", [row.values(space_id) for row in rows]
    )


def in_scope(row: Row, user: UUID, conversation: UUID | None, query: Query, through: Path) -> bool:
    if row.source is Source.CHUNK:
        of_all = query.collections is None or row.collection in query.collections
        return of_all and row.user in (user, query.shared_id)
    if row.user != user:
        return False
    if row.container == conversation:
        return any(branch == row.branch and row.depth <= depth for branch, depth in through)
    return query.elsewhere and row.active


@dataclass
class Expected:
    """All of a scope, by unit."""

    cosine: dict[UUID, float]
    length: dict[UUID, int]
    terms: dict[UUID, Counter[str]]
    row: dict[UUID, Row]

    @classmethod
    def of(cls, rows: Sequence[Row], query: Query) -> Expected:
        wanted = halved(query.vector)
        cosines: dict[UUID, list[float]] = defaultdict(list)
        expected = cls({}, Counter(), defaultdict(Counter), {})
        for row in rows:
            cosines[row.unit].append(float(halved(row.vector) @ wanted))
            expected.length[row.unit] += row.terms.total()
            expected.terms[row.unit].update(row.terms)
            expected.row[row.unit] = row
        expected.cosine = {unit: max(values) for unit, values in cosines.items()}
        return expected

    def document_frequency(self, words: Sequence[str]) -> list[int]:
        return [sum(terms[word] > 0 for terms in self.terms.values()) for word in words]

    def nearest(self, count: int) -> list[UUID]:
        return sorted(self.cosine, key=lambda unit: -self.cosine[unit])[:count]


def found_terms(pool: Pool, words: Sequence[str]) -> dict[UUID, Counter[str]]:
    found: dict[UUID, Counter[str]] = defaultdict(Counter)
    for row, term, frequency in zip(pool.match_row, pool.match_term, pool.match_frequency, strict=True):
        found[pool.unit_id(int(row))][words[int(term)]] = int(frequency)
    return found
