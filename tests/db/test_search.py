"""Hybrid search against a plain reference: what is in scope, and what is said of it, whatever the tier."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pgvector import HalfVector

from chatrpc.db.engine import Database
from chatrpc.db.indexes import update_indexes
from chatrpc.db.recall import Recall
from chatrpc.db.search import Pool, Query, Source, Tier, array_text, pool_call
from chatrpc.db.terms import query_places
from chatrpc.db.vectors import NewVector, VectorStore
from chatrpc.domain import Citation, Path, Role
from chatrpc.ports import EmbeddingSpace
from tests.db.passages import DIMENSION, Expected, Maker, Row, found_terms, in_scope, store, unit_vector
from tests.db.test_transcript import append, new_conversation

SPACE = EmbeddingSpace(name="test", fingerprint="f", dimension=DIMENSION, floor=0.3, max_tokens=64)
ENTRIES = """
SELECT sum(pg_stat_get_xact_tuples_returned(i.indexrelid)) FROM pg_index i JOIN pg_inherits h ON h.inhrelid = i.indrelid
WHERE h.inhparent = 'embeddings'::regclass
"""
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
        assert (pool.place[row], pool.owner[row]) == (said.depth, said.user != user)
        assert pool.container[row].tobytes() == said.container.bytes
        assert pool.created[row] == pytest.approx(said.created.timestamp(), abs=1e-5)
    if ids:
        assert pool.dense_mean == pytest.approx(np.mean(list(expected.cosine.values())), abs=2e-3)
        assert pool.dense_std == pytest.approx(np.std(list(expected.cosine.values())), abs=2e-3)
        assert pool.mean_length == pytest.approx(np.mean(list(expected.length.values())))


def assert_are_exact(pool: Pool, expected: Expected) -> None:
    """Whatever the tier: nothing out of scope, nothing twice, and exact figures of what is there."""
    ids = [pool.unit_id(row) for row in range(len(pool))]
    assert len(set(ids)) == len(ids)
    assert set(ids) <= set(expected.cosine)
    assert pool.cosine == pytest.approx([expected.cosine[unit] for unit in ids], abs=2e-3)
    assert pool.length.tolist() == [expected.length[unit] for unit in ids]


def assert_same(pool: Pool, other: Pool) -> None:
    said = []
    for each in (pool, other):
        units = sorted(zip([each.unit_id(row) for row in range(len(each))], each.cosine.tolist(), strict=True))
        of_all = (each.tier, each.population, each.mean_length, each.dense_mean, each.dense_std)
        said.append((units, of_all, each.document_frequency.tolist()))
    assert said[0] == said[1]


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
    found = [row for row in rows if in_scope(row, user, conversation, query, through)]
    expected = Expected.of(found, query)
    recall = Recall(database)
    assert_is_all(await recall.pool(user, conversation, query, through), expected, query, user)
    if not elsewhere:
        # As if the user had far more passages than the conversation and the documents have.
        documents = sum(row.source is Source.CHUNK for row in found)
        covered = through[-1][1] if through else 0
        narrow = replace(query, exact_to=covered + documents)
        assert_is_all(await recall.pool(user, conversation, narrow, through), expected, query, user)
    many = replace(query, exact_to=-1)
    coarse = await recall.pool(user, conversation, many, through)
    assert coarse.tier is Tier.TWO_STAGE
    assert_are_exact(coarse, expected)
    for asked in (query, many):
        look = await recall.look(user, conversation, asked, through)
        assert_same(
            await recall.pool(user, conversation, asked, through, look),
            await recall.pool(user, conversation, asked, through),
        )
    # Whatever somebody else's words have found, only the user's own comes in.
    foreign = await recall.look(stranger, conversation, many, through)
    assert_are_exact(await recall.pool(user, conversation, many, through, foreign), expected)
    # So few passages are all among the nearest.
    assert len(coarse) == len(expected.cosine)


async def test_an_exact_search_of_one_long_conversation_reads_it_alone(
    database: Database, owner: psycopg.AsyncConnection[Any], user_id: UUID
) -> None:
    space_id = await VectorStore(database).register_space(SPACE)
    maker = Maker(1)
    here, there = uuid4(), uuid4()
    rows = [*maker.conversation(user_id, here, 10), *maker.conversation(user_id, there, 50)]
    await store(owner, space_id, rows)
    # The path is shorter than what an exact search takes, though all of the user's passages are more.
    query = maker.query(space_id, elsewhere=False, exact_to=29)
    through: Path = ((0, 29),)
    pool = await Recall(database).pool(user_id, here, query, through)
    inside = [row for row in rows if in_scope(row, user_id, here, query, through)]
    assert_is_all(pool, Expected.of(inside, query), query, user_id)


async def test_what_is_said_is_found_by_its_words_and_read_back(database: Database, user_id: UUID) -> None:
    store_, recall = VectorStore(database), Recall(database)
    space_id = await store_.register_space(SPACE)
    conversation_id = await new_conversation(database, user_id)
    turn = await append(
        database, user_id, conversation_id, "a", "The harbour. The lighthouse and the lighthouse keeper."
    )
    direction = unit_vector(np.random.default_rng(3))
    passages = [((0, 13), {"harbour": 1}, -direction), ((13, 54), {"lighthouse": 2, "keeper": 1}, direction)]
    await store_.add(
        user_id,
        space_id,
        [
            NewVector(turn.message.id, conversation_id, number, span, vector, terms)
            for number, (span, terms, vector) in enumerate(passages)
        ],
    )
    query = Query(space_id, ("lighthouse", "harbour", "ship"), elsewhere=True, vector=direction)
    pool = await recall.pool(user_id, None, query, ())
    assert (len(pool), pool.unit_id(0), pool.passage[0], pool.length[0]) == (1, turn.message.id, 1, 4)
    assert found_terms(pool, query.terms) == {turn.message.id: {"lighthouse": 2, "harbour": 1}}
    read = await recall.passages(user_id, query, pool, [0])
    assert read[0].text == "The lighthouse and the lighthouse keeper."
    assert (read[0].container, read[0].role, read[0].citation) == (conversation_id, Role.USER, None)
    assert await recall.passages(uuid4(), query, pool, [0]) == {}


async def test_chunks_of_shared_documents_are_read_with_their_citation(database: Database, user_id: UUID) -> None:
    store_, recall = VectorStore(database), Recall(database)
    space_id = await store_.register_space(SPACE)
    everyones, collection, document, chunk = uuid4(), uuid4(), uuid4(), uuid4()
    async with database.transaction(everyones) as connection:
        await connection.execute(
            "INSERT INTO collections (user_id, id, title) VALUES (%s, %s, 'Manuals')", (everyones, collection)
        )
        await connection.execute(
            "INSERT INTO documents (user_id, id, collection_id, title, media_type, uri, labels, size, sha256, state) "
            "VALUES (%s, %s, %s, 'Pumps', 'text/plain', '', '{}', 1, '', 'ready')",
            (everyones, document, collection),
        )
        await connection.execute(
            "INSERT INTO document_chunks (user_id, document_id, id, number, span_start, span_end, page, headings, text)"
            " VALUES (%s, %s, %s, 0, 100, 120, 7, '{Care,Oil}', 'Oil the pump weekly.')",
            (everyones, document, chunk),
        )
    direction = unit_vector(np.random.default_rng(3))
    there = NewVector(chunk, document, 0, (0, 20), direction, {"pump": 1}, place=0)
    gone = NewVector(uuid4(), document, 0, (0, 1), direction, place=1)
    await store_.add_chunks(everyones, space_id, [there, gone])
    query = Query(space_id, ("pump",), elsewhere=True, collections=None, vector=direction)
    assert len(await recall.pool(user_id, None, query, ())) == 0
    shared = replace(query, shared_id=everyones)
    pool = await recall.pool(user_id, None, shared, ())
    assert [pool.unit_id(row) for row in range(len(pool))] == [chunk]
    read = await recall.passages(user_id, shared, pool, [0])
    assert read[0].text == "Oil the pump weekly."
    assert read[0].citation == Citation(document, collection, "Pumps", ("Care", "Oil"), 100, 120, 7, shared=True)
    assert read[0].role is None


async def test_a_search_that_is_given_up_ends_in_the_server_too(
    database: Database, owner: psycopg.AsyncConnection[Any], user_id: UUID
) -> None:
    space_id = await VectorStore(database).register_space(SPACE)
    # A search first asks how many passages there are, and waits for this lock.
    async with owner.transaction():
        await owner.execute("LOCK TABLE embedding_counts")
        query = Query(space_id, (), elsewhere=True, vector=unit_vector(np.random.default_rng(3)))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await Recall(database).hot_path_and_pool(user_id, uuid4(), ((0, 1),), query)
        # The lock is still held, so only a cancelled statement can have ended.
        waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'embedding_counts'::regclass AND NOT granted"
        async with asyncio.timeout(30):
            while await (await owner.execute(waiting)).fetchone() != (0,):
                await asyncio.sleep(0.01)


async def test_a_search_by_a_users_own_indexes_finds_the_best(
    database: Database, owner: psycopg.AsyncConnection[Any], database_url: str, user_id: UUID
) -> None:
    space_id = await VectorStore(database).register_space(SPACE)
    maker = Maker(11)
    collection, everyones = maker.uuid(), maker.uuid()
    rows = [row for _ in range(40) for row in maker.conversation(user_id, maker.uuid(), 30)]
    rows += maker.document(user_id, collection, 5)
    rows += maker.document(everyones, collection, 5)
    rows += maker.conversation(maker.uuid(), rows[0].container, 30)
    await store(owner, space_id, rows)
    made = await asyncio.to_thread(lambda: list(update_indexes(database_url, 1_000)))
    assert [change.made for change in made] == [True]
    assert await asyncio.to_thread(lambda: list(update_indexes(database_url, 1_000))) == []

    recall, found, wanted = Recall(database), 0, 0
    scope = {"exact_to": 100, "indexed_from": 1_000, "shared_id": everyones}
    for _ in range(25):
        query = maker.query(space_id, elsewhere=True, collections=None, **scope)
        expected = Expected.of([row for row in rows if in_scope(row, user_id, None, query, ())], query)
        pool = await recall.pool(user_id, None, query, ())
        assert pool.tier is Tier.INDEXED
        assert_are_exact(pool, expected)
        ids = {pool.unit_id(row) for row in range(len(pool))}
        nearest = expected.nearest(8)
        found, wanted = found + len(ids & set(nearest)), wanted + len(nearest)
        for word, frequency in zip(query.terms, expected.document_frequency(query.terms), strict=True):
            if 0 < frequency <= 5:
                assert any(expected.terms[unit][word] for unit in ids)
    assert found >= 0.99 * wanted

    # Hardly anything that the index gives is in this scope; nothing of the scope may be missing all the same.
    narrow = maker.query(space_id, elsewhere=False, collections=[collection], **scope)
    expected = Expected.of([row for row in rows if in_scope(row, user_id, None, narrow, ())], narrow)
    pool = await recall.pool(user_id, None, replace(narrow, exact_to=5), ())
    assert pool.tier is Tier.TWO_STAGE
    assert {pool.unit_id(row) for row in range(len(pool))} == set(expected.cosine)
    assert_is_all(await recall.pool(user_id, None, narrow, ()), expected, narrow, user_id)

    # A user who has become small needs none.
    gone = await asyncio.to_thread(lambda: list(update_indexes(database_url, 100_000)))
    assert [change.made for change in gone] == [False]
    without = await recall.pool(user_id, None, query, ())
    assert without.tier is Tier.TWO_STAGE


async def test_many_passages_are_searched_in_two_stages_without_missing_the_best(
    database: Database, owner: psycopg.AsyncConnection[Any], user_id: UUID
) -> None:
    space_id = await VectorStore(database).register_space(SPACE)
    maker = Maker(5, dimension=384, topics=60)
    rows = [row for _ in range(50) for row in maker.conversation(user_id, maker.uuid(), 50)]
    await store(owner, space_id, rows)
    found, wanted = 0, 0
    for _ in range(25):
        query = maker.query(space_id, elsewhere=True, exact_to=100)
        inside = [row for row in rows if row.active]
        expected = Expected.of(inside, query)
        pool = await Recall(database).pool(user_id, None, query, ())
        assert pool.tier is Tier.TWO_STAGE
        assert_are_exact(pool, expected)
        # It is a choice, and estimates what it did not look at.
        assert len(pool) < 0.7 * len(expected.cosine)
        assert pool.population == pytest.approx(len(expected.cosine), rel=0.25)
        assert pool.dense_mean == pytest.approx(np.mean(list(expected.cosine.values())), abs=0.12)
        ids = {pool.unit_id(row) for row in range(len(pool))}
        nearest = expected.nearest(8)
        found, wanted = found + len(ids & set(nearest)), wanted + len(nearest)
    assert found >= 0.99 * wanted


async def test_what_is_said_of_many_passages_is_not_swayed_by_a_unit_of_hundreds(
    database: Database, owner: psycopg.AsyncConnection[Any], user_id: UUID
) -> None:
    space_id = await VectorStore(database).register_space(SPACE)
    maker = Maker(31)
    query = maker.query(space_id, elsewhere=True, exact_to=100)
    single = [replace(row, active=True) for row in maker.conversation(user_id, maker.uuid(), 2_000) if row.passage == 0]
    # A sample begins with the first id.
    long = [replace(single[0], unit=UUID(int=1, version=4), passage=n, vector=query.vector) for n in range(400)]
    await store(owner, space_id, [*single, *long])
    cosines = [float(row.vector @ query.vector) for row in (*single, *long)]
    pool = await Recall(database).pool(user_id, None, query, ())
    assert pool.tier is Tier.TWO_STAGE
    assert pool.dense_mean == pytest.approx(np.mean(cosines), abs=0.15)
    assert pool.dense_std == pytest.approx(np.std(cosines), rel=0.3)


async def test_a_search_of_many_passages_takes_few_passes_among_many_small_users(
    database: Database, owner: psycopg.AsyncConnection[Any], user_id: UUID
) -> None:
    """The planner reckons with a user of average size, for whom many indexes seem equally good."""
    space_id = await VectorStore(database).register_space(SPACE)
    maker = Maker(13)
    rows = [row for _ in range(60) for row in maker.conversation(user_id, maker.uuid(), 50)]
    others = [row for _ in range(6_000) for row in maker.conversation(maker.uuid(), maker.uuid(), 1)]
    await store(owner, space_id, rows + others)
    await owner.execute("VACUUM ANALYZE embeddings")
    read = await entries_read(owner, user_id, maker.query(space_id, elsewhere=True, exact_to=100))
    # A pass for each of the hits whose neighbours are looked at would be dozens.
    assert len(rows) <= read <= 6 * len(rows)


async def test_a_search_of_few_documents_of_a_user_of_many_passages_reads_these_alone(
    database: Database, owner: psycopg.AsyncConnection[Any], user_id: UUID
) -> None:
    space_id = await VectorStore(database).register_space(SPACE)
    maker = Maker(17)
    collection = maker.uuid()
    rows = [row for _ in range(30) for row in maker.conversation(user_id, maker.uuid(), 50)]
    documents = [*maker.document(user_id, collection, 5), *maker.document(user_id, None, 5)]
    others = [row for _ in range(2_000) for row in maker.conversation(maker.uuid(), maker.uuid(), 1)]
    await store(owner, space_id, rows + documents + others)
    await owner.execute("VACUUM ANALYZE embeddings")
    for collections in ([collection], None):
        query = maker.query(space_id, elsewhere=False, collections=collections, exact_to=100)
        inside = [row for row in documents if in_scope(row, user_id, None, query, ())]
        assert_is_all(await Recall(database).pool(user_id, None, query, ()), Expected.of(inside, query), query, user_id)
        # Counted, and then read; each scan may look at the entry behind its last.
        assert await entries_read(owner, user_id, query) <= 2 * len(inside) + 2


async def test_a_first_look_passes_over_all_passages_once(
    database: Database, owner: psycopg.AsyncConnection[Any], user_id: UUID
) -> None:
    space_id = await VectorStore(database).register_space(SPACE)
    maker = Maker(29)
    rows = [row for _ in range(80) for row in maker.conversation(user_id, maker.uuid(), 50)]
    await store(owner, space_id, rows)
    await owner.execute("VACUUM ANALYZE embeddings")
    query = maker.query(space_id, elsewhere=True, exact_to=100)
    pool = await Recall(database).pool(user_id, None, query, ())
    assert pool.tier is Tier.TWO_STAGE
    # Besides the pass: the sample, neighbours, those with the query's words, and the pool itself.
    assert len(rows) <= await entries_read(owner, user_id, query) <= 1.5 * len(rows)


async def entries_read(owner: psycopg.AsyncConnection[Any], user_id: UUID, query: Query) -> int:
    """Of the indexes of passages, by one search."""
    async with owner.transaction():
        await owner.execute("SET LOCAL ROLE chatrpc_server")
        # The statistics are those of the connection, until it hands them over.
        read = []
        for statement, arguments in ((ENTRIES, ()), pool_call(user_id, None, query, "{}", 0), (ENTRIES, ())):
            read.append(await (await owner.execute(statement, arguments)).fetchone() or (0,))
    return int(read[-1][0] - read[0][0])


async def test_words_that_each_stand_in_very_many_passages_find_those_that_hold_several(
    database: Database, owner: psycopg.AsyncConnection[Any], user_id: UUID
) -> None:
    space_id = await VectorStore(database).register_space(SPACE)
    maker = Maker(19)
    conversation, query = maker.uuid(), maker.query(space_id, elsewhere=True, exact_to=100)
    query = replace(query, terms=("apple", "pear"))
    drawn = [row for row in maker.conversation(user_id, conversation, 3_000) if row.passage == 0]
    rows = [
        replace(row, active=True, terms=Counter(["apple"] if number % 2 else ["pear"]))
        for number, row in enumerate(drawn)
    ]
    # As far away as can be, no neighbours of each other, and the last that an index of either word leads to.
    both = [
        replace(row, unit=uuid4(), terms=Counter(["apple", "pear"]), depth=1_000 * number, vector=-query.vector)
        for number, row in enumerate(rows[:6], 1)
    ]
    await store(owner, space_id, rows + both)
    pool = await Recall(database).pool(user_id, None, query, ())
    assert pool.tier is Tier.TWO_STAGE
    assert {row.unit for row in both} <= {pool.unit_id(row) for row in range(len(pool))}
    assert pool.document_frequency.tolist() == pytest.approx([1_500, 1_500], rel=0.3)


@pytest.mark.parametrize("bound_to", ["nobody", "another"])
async def test_functions_that_pass_by_row_level_security_search_only_the_user_that_the_session_is_bound_to(
    database: Database, owner: psycopg.AsyncConnection[Any], user_id: UUID, bound_to: str
) -> None:
    space_id = await VectorStore(database).register_space(SPACE)
    maker = Maker(23)
    rows = list(maker.conversation(user_id, maker.uuid(), 5))
    await store(owner, space_id, rows)
    places = array_text(query_places(tuple({word for row in rows for word in row.terms})))
    words = (
        "SELECT * FROM search_by_words(%s, %s, NULL, '{}', 0, %s::smallint, %s::integer[], NULL, "
        "term_digits(%s::integer[]), true, NULL, 100)"
    )
    vectors = "SELECT * FROM search_by_vectors(%s, %s, NULL, '{}', 0, %s, %s::smallint, true, NULL, 100, 100)"
    vector = HalfVector(rows[0].vector)
    calls: list[tuple[str, Callable[[UUID], tuple[Any, ...]]]] = [
        (words, lambda shared: (user_id, shared, space_id, places, places)),
        (vectors, lambda shared: (user_id, shared, vector, space_id)),
    ]
    for statement, arguments in calls:
        # The one whom it is bound to may not see another's documents either, unless these are shared with it.
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await database.query(user_id, (statement, arguments(uuid4())))
        assert (await database.query(user_id, (statement, arguments(user_id))))[0]
        for shared in (user_id, uuid4()):
            asked = statement, arguments(shared)
            search = database.rows(*asked) if bound_to == "nobody" else database.query(uuid4(), asked)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await search


async def test_the_number_of_passages_is_kept_by_the_database(
    database: Database, owner: psycopg.AsyncConnection[Any], user_id: UUID
) -> None:
    space_id = await VectorStore(database).register_space(SPACE)
    maker = Maker(2)
    here, there = maker.uuid(), maker.uuid()
    rows = [*maker.conversation(user_id, here, 10), *maker.conversation(user_id, there, 10)]
    await store(owner, space_id, rows)
    statement = ("SELECT coalesce(sum(passages), 0) AS n FROM embedding_counts", ())
    assert (await database.query(user_id, statement))[0] == [{"n": len(rows)}]
    await owner.execute("DELETE FROM embeddings WHERE conversation_id = %s", (here,))
    left = sum(row.container == there for row in rows)
    assert (await database.query(user_id, statement))[0] == [{"n": left}]
    assert (await database.query(uuid4(), statement))[0] == [{"n": 0}]
    await owner.execute("DELETE FROM embeddings WHERE user_id = %s", (user_id,))
    assert (await database.query(user_id, statement))[0] == [{"n": 0}]


async def test_a_passage_of_very_many_terms_and_the_longest_vector_is_stored_and_found(
    database: Database, user_id: UUID
) -> None:
    store_ = VectorStore(database)
    space_id = await store_.register_space(SPACE)
    conversation_id = await new_conversation(database, user_id)
    turn = await append(database, user_id, conversation_id, "a", "Hello.")
    vector = unit_vector(np.random.default_rng(3), 4_000)
    terms = {f"term {n}": 1 for n in range(3_000)} | {"frequent": 90}
    await store_.add(user_id, space_id, [NewVector(turn.message.id, conversation_id, 0, (0, 6), vector, terms)])
    query = Query(space_id, ("frequent",), elsewhere=True, exact_to=-1, vector=vector)
    pool = await Recall(database).pool(user_id, None, query, ())
    assert (len(pool), pool.length[0], pool.cosine[0]) == (1, 3_090, pytest.approx(1, abs=1e-2))
    assert found_terms(pool, query.terms) == {turn.message.id: {"frequent": 7}}
