"""What assembling a context costs over the vector search that it needs anyway: `python -m bench.assembly [--rounds N]`.

A user has 1,000 messages in five conversations, all embedded, among 100 users with as many. One of the conversations
has a summary and 20 messages after it. In each round, in random order and with the same query vector:

- the vector query: one prepared statement that finds the nearest passages of the user, exactly, and their texts;
- the search: `Recall.pool`, the same as chatrpc does it, by the user's paths, behind row-level security;
- the assembly: `Recall.hot_path_and_pool`, summary, recent messages and search, where no cache holds the first two;
- the assembler: `ContextAssembler.assemble` over it, with a vector at hand, through policy, budget and prompt.

Medians, and medians of the paired differences, first on the new database as it has grown within this run, where kept
plans are those made for empty tables, then after an ANALYZE as autovacuum does it. Statements and round trips are
counted in libpq's trace of the connection.

Bars: two statements, and the assembly at most 200 us over the search.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import median
from typing import Any
from uuid import UUID

import numpy as np
import uvloop
from numpy.typing import NDArray
from pgvector import HalfVector
from psycopg import AsyncConnection
from uuid_utils.compat import uuid7

from bench.accept import Writer
from bench.database import fresh_database, on_the_wire
from bench.table import percentile, print_table
from chatrpc.context.assembler import ContextAssembler
from chatrpc.context.retrieval.lexicon import query_terms, terms
from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.recall import Recall
from chatrpc.db.search import Query
from chatrpc.db.summaries import Summaries
from chatrpc.db.transcript import Transcript
from chatrpc.db.vectors import NewVector, VectorStore
from chatrpc.domain import Accepted, Page
from chatrpc.models.profiles import load_profiles
from chatrpc.ports import EmbeddingSpace
from chatrpc.settings import ContextSettings, ModelSettings

BAR_MICROS = 200.0
CONVERSATIONS, LENGTH, AFTER_SUMMARY = 5, 200, 20
OTHER_USERS = 100
DIMENSION = 384
# Twice the default number of hits, as the assembler asks for.
LIMIT = 16
SUMMARY = "The user moved a meeting with Anna to Thursday and plans a garden with her. " * 20

NEIGHBOURS = """
WITH others AS (SELECT gen_random_uuid() AS user_id FROM generate_series(1, {users})),
said AS (
    INSERT INTO messages (user_id, conversation_id, branch, depth, id, parent_id, sequence, role, state, parts, tokens)
    SELECT o.user_id, conversation_id, branch, depth, id, parent_id, sequence, role, state, parts, tokens
    FROM others o CROSS JOIN messages m)
INSERT INTO embeddings (user_id, space_id, message_id, passage, conversation_id, branch, depth, active, length,
                        span_start, span_end, embedding, terms)
SELECT o.user_id, space_id, message_id, passage, conversation_id, branch, depth, active, length,
       span_start, span_end, embedding, terms
FROM others o CROSS JOIN embeddings e
"""
VECTOR_QUERY = """
SELECT e.message_id, e.cosine, m.role, m.parts, m.created_at
FROM (SELECT message_id, 1 - (embedding <=> %(vector)s) AS cosine FROM embeddings
      WHERE user_id = %(user)s AND space_id = %(space)s ORDER BY embedding <=> %(vector)s LIMIT %(limit)s) e
JOIN messages m ON m.user_id = %(user)s AND m.id = e.message_id
ORDER BY e.cosine DESC
"""

Work = Callable[[NDArray[np.float32]], Awaitable[object]]


class FixedEmbedder:
    """Implements `chatrpc.ports.Embedder` with a vector that is at hand."""

    space = EmbeddingSpace(name="fixed", fingerprint="fixed", dimension=DIMENSION, floor=-1.0, max_tokens=256)

    def __init__(self) -> None:
        self.vector = np.zeros(DIMENSION, np.float32)

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.vector[None, :]

    async def aclose(self) -> None:
        return None


class Scene:
    """A user's conversation to be assembled, and the ways to read it."""

    def __init__(self, database: Database, user_id: UUID, space_id: int, accepted: Accepted) -> None:
        self._database = database
        self._recall = Recall(database)
        self._user_id = user_id
        self._space_id = space_id
        self._accepted = accepted
        self._embedder = FixedEmbedder()
        self._context = ContextSettings()
        self._profiles = load_profiles(ModelSettings())

    def on(self, database: Database) -> Scene:
        return Scene(database, self._user_id, self._space_id, self._accepted)

    async def vector_query(self, vector: NDArray[np.float32]) -> None:
        params = {"vector": HalfVector(vector), "user": self._user_id, "space": self._space_id, "limit": LIMIT}
        await self._database.query(self._user_id, (VECTOR_QUERY, params))

    async def search(self, vector: NDArray[np.float32]) -> None:
        covered = ((0, LENGTH - AFTER_SUMMARY),)
        await self._recall.pool(self._user_id, self._conversation, self._query(vector), covered)

    async def assembly(self, vector: NDArray[np.float32]) -> None:
        keep = self._context.hot_path
        path, query = self._accepted.path, self._query(vector)
        await self._recall.hot_path_and_pool(self._user_id, self._conversation, path, query, keep=keep)

    async def assembler(self, vector: NDArray[np.float32]) -> None:
        self._embedder.vector = vector
        cold = ContextAssembler(
            self._recall, self._embedder, self._space_id, self._context, self._profiles, lambda _: "none"
        )
        built = await cold.assemble(self._user_id, self._accepted)
        assert len(built.report.verbatim) == AFTER_SUMMARY - 1, "the window is not what the benchmark made"
        assert len(built.report.hits) == self._context.hits, "passages are missing"

    @property
    def _conversation(self) -> UUID:
        return self._accepted.message.conversation_id

    def _query(self, vector: NDArray[np.float32]) -> Query:
        return Query(self._space_id, query_terms(self._accepted.message.text), elsewhere=True, vector=vector)


def unit_vectors(number: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng().standard_normal((number, DIMENSION)).astype(np.float32)
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


async def make_scene(database: Database, superuser: AsyncConnection[Any]) -> Scene:
    user_id = uuid7()
    writer = Writer(database, user_id)
    store = VectorStore(database)
    space_id = await store.register_space(FixedEmbedder.space)
    for _ in range(CONVERSATIONS):
        conversation_id = await writer.new_conversation(LENGTH)
        messages, _ = await Conversations(database).messages(
            user_id, conversation_id, Page(LENGTH), newest_first=False, all_branches=False
        )
        vectors = zip(messages, unit_vectors(LENGTH), strict=True)
        new = [NewVector(m.id, conversation_id, 0, (0, len(m.text)), vector, terms(m.text)) for m, vector in vectors]
        await store.add(user_id, space_id, new)
    anchor = messages[LENGTH - AFTER_SUMMARY - 1]
    added = await Summaries(database).add(
        user_id, conversation_id, previous=None, erasures=0, anchor=anchor, text=SUMMARY, tokens=400, model="none"
    )
    assert added is not None, "nobody else writes summaries"
    await superuser.execute(NEIGHBOURS.format(users=OTHER_USERS))
    # The last turn that was said is the one whose context is assembled.
    accepted = await Transcript(database).turn(user_id, messages[-1].id)
    return Scene(database, user_id, space_id, accepted)


async def compare(ways: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_number, vector in enumerate(unit_vectors(rounds + 5)):
        for name in random.sample(list(ways), len(ways)):
            started = time.perf_counter()
            await ways[name](vector)
            if round_number >= 5:
                times[name].append(1e6 * (time.perf_counter() - started))
    return times


def show(title: str, times: Mapping[str, list[float]]) -> None:
    rows = []
    for name, micros in times.items():
        over = [mine - other for mine, other in zip(micros, times["search"], strict=True)]
        figures = (median(micros), percentile(micros, 0.95), median(over))
        rows.append([name, *(f"{figure:.0f}" for figure in figures)])
    print(f"{title}; microseconds")
    print_table(["", "median", "p95", "over the search"], rows)
    extra = median(a - b for a, b in zip(times["assembly"], times["search"], strict=True))
    print(f"bar: assembly at most {BAR_MICROS:.0f} us over the search: {'met' if extra <= BAR_MICROS else 'MISSED'}\n")


async def run(rounds: int) -> None:
    async with (
        fresh_database() as (postgres, database),
        await AsyncConnection.connect(postgres.url, autocommit=True) as superuser,
    ):
        scene = await make_scene(database, superuser)
        ways: dict[str, Work] = {
            "vector query": scene.vector_query,
            "search": scene.search,
            "assembly": scene.assembly,
            "assembler": scene.assembler,
        }
        print(f"{rounds} rounds, {CONVERSATIONS * LENGTH:,} messages of the user, {OTHER_USERS} users beside it\n")
        show("a database that has just grown", await compare(ways, rounds))
        await superuser.execute("ANALYZE")
        show("the same after ANALYZE", await compare(ways, rounds))
        [vector] = unit_vectors(1)
        trips, statements = await on_the_wire(postgres.url, lambda own: scene.on(own).assembly(vector))
    print(f"assembly: {trips} round trip(s), {statements} statements")
    print(f"bar: two statements: {'met' if statements <= 2 else 'MISSED'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    uvloop.run(run(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
