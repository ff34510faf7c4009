"""The command; see `bench.search`."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncConnection

import bench.search
from bench.database import fresh_database
from bench.search.data import CONTAINER, User, add_others, add_user
from bench.search.sentences import sentences
from bench.table import percentile, print_table
from chatrpc.context.retrieval.lexicon import query_terms
from chatrpc.db.indexes import update_indexes
from chatrpc.db.recall import Recall
from chatrpc.db.search import INDEXED_FROM, Pool, Query
from chatrpc.db.vectors import VectorStore
from chatrpc.domain import Path as MessagePath
from chatrpc.domain import Role
from chatrpc.models.embedding import build_embedder
from chatrpc.models.embedding.template import embedding_text
from chatrpc.ports import EmbeddingSpace
from chatrpc.settings import EmbedderSettings

SIZES = (10, 1_000, 50_000)
QUESTIONS = 200
RECALL_BAR, P99_BAR = 0.99, 25.0
SPACE = EmbeddingSpace(name="benchmark", fingerprint="benchmark", dimension=384, floor=0.3, max_tokens=254)
WARM_UP = 20
"""Searches of a scope that come first and are not counted: they make the plans and fill the caches."""
NEAREST = 8


@dataclass(frozen=True)
class Scope:
    """Where to look, and which of the user's passages that is."""

    name: str
    query: dict[str, Any]
    conversation: UUID | None
    through: MessagePath
    inside: NDArray[np.bool_]


def scopes(user: User) -> list[Scope]:
    everything = Scope("all", {"elsewhere": True, "collections": None}, None, (), np.ones(len(user.units), np.bool_))
    if len(user.units) < CONTAINER:
        return [everything]
    here = user.containers[0]
    inside = np.array([container == here for container in user.containers])
    return [
        everything,
        Scope("a collection", {"elsewhere": False, "collections": [user.collection]}, None, (), user.documents),
        Scope("a conversation", {"elsewhere": False, "collections": ()}, here, ((0, CONTAINER),), inside),
    ]


@dataclass
class Measured:
    tiers: set[str]
    millis: list[float]
    recall: list[float]
    missing: int


async def ask(recall: Recall, user: User, scope: Scope, queries: Sequence[Query]) -> Measured:
    row_of = {unit: row for row, unit in enumerate(user.units)}
    measured = Measured(set(), [], [], 0)
    for number, query in enumerate(queries):
        asked = replace(query, **scope.query)
        started = time.perf_counter()
        pool = await recall.pool(user.id, scope.conversation, asked, scope.through)
        millis = 1e3 * (time.perf_counter() - started)
        if number < WARM_UP:
            continue
        exact = np.where(scope.inside, user.vectors @ query.vector, -np.inf)
        wanted = min(NEAREST, int(scope.inside.sum()))
        best = set(np.argsort(-exact)[:wanted].tolist())
        found = [row_of[pool.unit_id(int(row))] for row in _nearest(pool)]
        measured.tiers.add(pool.tier.value)
        measured.millis.append(millis)
        measured.recall.append(len(best & set(found)) / wanted)
        measured.missing += len(found) < wanted or any(not scope.inside[row] for row in found)
    return measured


def _nearest(pool: Pool) -> NDArray[np.intp]:
    return np.argsort(-pool.cosine)[:NEAREST]


async def embedded(texts: Sequence[str], file: Path | None) -> NDArray[np.float16]:
    """Their vectors as the database keeps them; read from the file where it holds them."""
    if file is not None and file.exists():  # noqa: ASYNC240 - nothing else runs.
        kept: NDArray[np.float16] = np.load(file)
        if len(kept) == len(texts):
            return kept
    started = time.perf_counter()
    async with build_embedder(EmbedderSettings()) as embedder:
        said = [embedding_text(Role.USER, text) for text in texts]
        parts = [await embedder.embed(said[start : start + 512]) for start in range(0, len(said), 512)]
    vectors = np.concatenate(parts).astype(np.float16)
    print(f"{len(texts):,} sentences embedded in {time.perf_counter() - started:.0f} s")
    if file is not None:
        np.save(file, vectors)
    return vectors


async def run(rows: int, file: Path | None) -> None:
    texts = sentences(max(SIZES) + QUESTIONS, seed=7)
    vectors = await embedded(texts, file)
    asked = range(max(SIZES), max(SIZES) + QUESTIONS)
    queries = [Query(1, query_terms(texts[n]), elsewhere=True, vector=vectors[n].astype(np.float32)) for n in asked]
    async with (
        fresh_database() as (postgres, database),
        await AsyncConnection.connect(postgres.url, autocommit=True) as owner,
    ):
        space_id = await VectorStore(database).register_space(SPACE)
        queries = [replace(query, space_id=space_id) for query in queries]
        started = time.perf_counter()
        users = [await add_user(owner, space_id, texts[:size], vectors[:size]) for size in SIZES]
        await add_others(owner, space_id, users[-1], rows - sum(SIZES))
        await owner.execute("VACUUM ANALYZE embeddings")
        print(f"{rows:,} passages written in {time.perf_counter() - started:.0f} s")
        await show_bytes(owner)

        recall = Recall(database)
        table, met = [], True
        for user in users:
            large = len(user.units) >= INDEXED_FROM
            for own in (False, True) if large else (False,):
                if own:
                    started = time.perf_counter()
                    await asyncio.to_thread(lambda: list(update_indexes(postgres.url, INDEXED_FROM)))
                    built = time.perf_counter() - started
                for scope in scopes(user):
                    measured = await ask(recall, user, scope, queries)
                    met &= mean(measured.recall) >= RECALL_BAR and not measured.missing
                    met &= percentile(measured.millis, 0.99) <= P99_BAR
                    table.append(
                        [
                            f"{len(user.units):,}" + (", indexed" if own else ""), scope.name,
                            int(scope.inside.sum()), "/".join(sorted(measured.tiers)), mean(measured.recall),
                            measured.missing, percentile(measured.millis, 0.5), percentile(measured.millis, 0.99),
                        ]
                    )  # fmt: skip
        print_table(["user", "scope", "in scope", "tier", "recall@8", "under", "p50 ms", "p99 ms"], table)
        print(f"indexes of the largest user made in {built:.0f} s")
        verdict = "met" if met else "MISSED"
        print(f"bar: recall@8 >= {RECALL_BAR}, nothing under-returned, p99 <= {P99_BAR:.0f} ms: {verdict}")


async def show_bytes(owner: AsyncConnection[Any]) -> None:
    cursor = await owner.execute(
        "SELECT avg(pg_column_size(embedding)), avg(pg_column_size(terms)), avg(pg_column_size(code)), "
        "(SELECT sum(pg_table_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'embeddings'::regclass) / count(*), "
        "(SELECT sum(pg_indexes_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'embeddings'::regclass) / count(*) "
        "FROM embeddings"
    )
    row = await cursor.fetchone()
    assert row is not None
    vector, terms, signs, table, indexes = (float(value) for value in row)
    print(
        f"bytes a passage: table {table:.0f} (vector {vector:.0f}, terms {terms:.0f}, signs {signs:.0f}), "
        f"indexes {indexes:.0f}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=bench.search.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--vectors", type=Path)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.rows, arguments.vectors))


if __name__ == "__main__":
    main()
