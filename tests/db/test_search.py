"""Hybrid search against a plain reference: what is in scope, and what is said of it, whatever the tier."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatrpc.db.engine import Database
from chatrpc.db.recall import Recall
from chatrpc.db.search import Pool, Query, Tier
from chatrpc.db.vectors import VectorStore
from chatrpc.domain import Path
from chatrpc.ports import EmbeddingSpace
from tests.db.passages import DIMENSION, Expected, Maker, Row, found_terms, in_scope, store

SPACE = EmbeddingSpace(name="test", fingerprint="f", dimension=DIMENSION, floor=0.3, max_tokens=64)
PATHS: list[Path] = [(), ((0, 12),), ((0, 5), (2, 20)), ((1, 29),)]


@pytest_asyncio.fixture
async def owner(database_url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection that row-level security does not bind."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        yield connection


def assert_is_all(pool: Pool, expected: Expected, query: Query, user: UUID) -> None:
    """The pool of the exact tier: everything in scope, and true figures."""
    ids = [pool.unit_id(row) for row in range(len(pool))]
    assert sorted(ids) == sorted(expected.cosine)
    assert pool.population == len(ids)
    assert pool.tier is Tier.EXACT
    assert pool.cosine == pytest.approx([expected.cosine[unit] for unit in ids], abs=2e-3)
    assert pool.length.tolist() == [expected.length[unit] for unit in ids]
    assert pool.document_frequency.tolist() == expected.document_frequency(query.terms)
    found = found_terms(pool, query.terms)
    for row, unit in enumerate(ids):
        said = expected.row[unit]
        assert found[unit] == {word: held for word in query.terms if (held := expected.terms[unit][word])}
        assert (pool.place[row], pool.branch[row], pool.owner[row]) == (said.depth, said.branch, said.user != user)
        container = pool.containers[int(pool.container[row])]
        assert (container.id, container.source) == (said.container, said.source)
        assert pool.created[row] == pytest.approx(said.created.timestamp(), abs=1e-5)
    if ids:
        assert pool.dense_mean == pytest.approx(np.mean(list(expected.cosine.values())), abs=2e-3)
        assert pool.dense_std == pytest.approx(np.std(list(expected.cosine.values())), abs=2e-3)
        assert pool.mean_length == pytest.approx(np.mean(list(expected.length.values())))


def assert_is_the_best(pool: Pool, expected: Expected) -> None:
    """The pool of a further tier: nothing out of scope, exact figures of what is there, and the nearest are there."""
    ids = [pool.unit_id(row) for row in range(len(pool))]
    assert len(set(ids)) == len(ids)
    assert set(ids) <= set(expected.cosine)
    assert pool.cosine == pytest.approx([expected.cosine[unit] for unit in ids], abs=2e-3)
    assert pool.length.tolist() == [expected.length[unit] for unit in ids]
    nearest = expected.nearest(8)
    assert len(set(ids) & set(nearest)) >= 0.99 * len(nearest)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    through=st.sampled_from(PATHS),
    elsewhere=st.booleans(),
    documents=st.sampled_from(["none", "all", "some"]),
    shared=st.booleans(),
    inside=st.booleans(),
)
async def test_a_search_finds_what_is_in_scope_and_nothing_else(
    database: Database,
    owner: psycopg.AsyncConnection[Any],
    seed: int,
    sizes: list[int],
    through: Path,
    elsewhere: bool,
    documents: str,
    shared: bool,
    inside: bool,
) -> None:
    space_id = await VectorStore(database).register_space(SPACE)
    maker = Maker(seed)
    user, stranger, everyones = uuid4(), uuid4(), uuid4()
    conversations = [maker.uuid() for _ in sizes]
    collections = [maker.uuid(), maker.uuid()]
    rows: list[Row] = []
    for who in (user, stranger):
        # A stranger's conversation of the same id is a stranger's all the same.
        for conversation, size in zip(conversations, sizes, strict=True):
            rows += maker.conversation(who, conversation, size)
        rows += maker.document(who, None, 4)
    for who, collection in ((user, collections[0]), (everyones, collections[0]), (everyones, collections[1])):
        rows += maker.document(who, collection, 5)
    await store(owner, space_id, rows)

    query = maker.query(
        space_id,
        elsewhere=elsewhere,
        collections={"none": (), "all": None, "some": collections[:1]}[documents],
        shared_id=everyones if shared else None,
    )
    conversation = conversations[0] if inside else None
    if conversation is None:
        through = ()
    expected = Expected.of([row for row in rows if in_scope(row, user, conversation, query, through)], query)
    recall = Recall(database)
    assert_is_all(await recall.pool(user, conversation, query, through), expected, query, user)
    coarse = await recall.pool(user, conversation, replace(query, exact_to=-1), through)
    assert coarse.tier is Tier.TWO_STAGE
    assert_is_the_best(coarse, expected)
