"""Hot path and search: what a context is built from, against a plain model of the conversation."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import numpy as np
import pytest

from chatrpc.db.engine import Database
from chatrpc.db.memory import MemoryTasks
from chatrpc.db.recall import Recall
from chatrpc.db.search import Pool, Query
from chatrpc.db.summaries import Summaries
from chatrpc.db.transcript import Transcript
from chatrpc.db.vectors import NewVector, VectorStore
from chatrpc.domain import Accepted, Message
from chatrpc.errors import SettingsError
from chatrpc.ports import EmbeddingSpace, Vector
from tests.db.helpers import finish
from tests.db.test_transcript import append, new_conversation

SPACE = EmbeddingSpace(name="test", fingerprint="f", dimension=8, floor=0.3, max_tokens=64)


def vector(seed: int) -> Vector:
    drawn = np.random.default_rng(seed).normal(size=8).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


async def turns(database: Database, user_id: UUID, conversation_id: UUID, count: int) -> list[Accepted]:
    made = []
    for n in range(count):
        turn = await append(database, user_id, conversation_id, str(n), f"question {n}")
        await finish(Transcript(database), user_id, turn, f"answer {n}")
        made.append(turn)
    return made


async def embed(database: Database, user_id: UUID, space_id: int, messages: list[Message], seed: int) -> None:
    await VectorStore(database).add(
        user_id,
        space_id,
        [NewVector(m.id, m.conversation_id, 0, (0, len(m.text)), vector(seed + n)) for n, m in enumerate(messages)],
    )


async def texts(recall: Recall, user_id: UUID, query: Query, pool: Pool) -> set[str]:
    read = await recall.passages(user_id, query, pool, range(len(pool)))
    return {passage.text for passage in read.values()}


async def test_the_hot_path_is_the_summary_and_what_follows(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    made = await turns(database, user_id, conversation_id, 4)
    recall, summaries = Recall(database), Summaries(database)
    path = made[-1].path
    before = await recall.hot_path(user_id, conversation_id, path)
    assert before.summary is None
    assert [m.text for m in before.messages] == [
        "question 0", "answer 0", "question 1", "answer 1", "question 2", "answer 2", "question 3"
    ]  # fmt: skip

    written = await summaries.add(
        user_id,
        conversation_id,
        previous=None,
        erasures=0,
        anchor=before.messages[3],
        text="So far.",
        tokens=3,
        model="m",
    )
    again = await summaries.add(
        user_id,
        conversation_id,
        previous=None,
        erasures=0,
        anchor=before.messages[3],
        text="Raced.",
        tokens=3,
        model="m",
    )
    assert again is None
    after = await recall.hot_path(user_id, conversation_id, path)
    assert after.summary == written
    assert after.messages == before.messages[4:]
    assert after.revision == before.revision + 1


async def test_a_summary_serves_only_paths_that_hold_its_anchor(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    made = await turns(database, user_id, conversation_id, 4)
    recall, summaries = Recall(database), Summaries(database)
    messages = (await recall.hot_path(user_id, conversation_id, made[-1].path)).messages
    for anchor in (messages[1], messages[3]):
        await summaries.add(
            user_id,
            conversation_id,
            previous=None,
            erasures=0,
            anchor=anchor,
            text=f"to {anchor.depth}",
            tokens=3,
            model="m",
        )
    edited = await append(database, user_id, conversation_id, "edit", parent=made[0].reply.id)
    await finish(Transcript(database), user_id, edited, "answer")
    # Long enough for the deeper anchor, which lies on the branch that was left.
    longer = await append(database, user_id, conversation_id, "longer")
    hot = await recall.hot_path(user_id, conversation_id, longer.path)
    assert hot.summary is not None
    assert hot.summary.text == "to 2"
    assert [m.depth for m in hot.messages] == [3, 4, 5]


async def test_one_round_trip_searches_up_to_the_summary(database: Database, user_id: UUID) -> None:
    store, recall = VectorStore(database), Recall(database)
    space_id = await store.register_space(SPACE)
    conversation_id = await new_conversation(database, user_id)
    made = await turns(database, user_id, conversation_id, 6)
    await embed(database, user_id, space_id, [t.message for t in made], 0)
    query = Query(space_id, (), elsewhere=False, vector=vector(1))
    path = made[-1].path
    _, nothing = await recall.hot_path_and_pool(user_id, conversation_id, path, query)
    assert len(nothing) == 0
    anchor = (await recall.hot_path(user_id, conversation_id, path)).messages[3]
    await Summaries(database).add(
        user_id, conversation_id, previous=None, erasures=0, anchor=anchor, text="s", tokens=1, model="m"
    )
    hot, found = await recall.hot_path_and_pool(user_id, conversation_id, path, query)
    assert hot.messages[0].depth == 5
    assert await texts(recall, user_id, query, found) == {"question 0", "question 1"}


async def test_another_branch_is_not_found_from_elsewhere(database: Database, user_id: UUID) -> None:
    store, recall = VectorStore(database), Recall(database)
    space_id = await store.register_space(SPACE)
    branched, elsewhere = await new_conversation(database, user_id), await new_conversation(database, user_id)
    made = await turns(database, user_id, branched, 3)
    await embed(database, user_id, space_id, [t.message for t in made], 0)
    edited = await append(database, user_id, branched, "edit", "edited", parent=made[0].reply.id)
    await embed(database, user_id, space_id, [edited.message, made[1].message], 50)
    query = Query(space_id, (), elsewhere=True, vector=vector(1))
    found = await recall.pool(user_id, elsewhere, query, ())
    assert await texts(recall, user_id, query, found) == {"question 0", "edited"}


async def test_a_vector_written_while_its_branch_is_left_is_not_found_from_elsewhere(
    database: Database, user_id: UUID
) -> None:
    conversation_id = await new_conversation(database, user_id)
    first, second = await turns(database, user_id, conversation_id, 2)
    space_id = await VectorStore(database).register_space(SPACE)
    async with asyncio.TaskGroup() as group, database.transaction(user_id) as connection:
        # An edit that is about to commit, as append_message makes it.
        await connection.execute(
            "SELECT append_message(%s, %s, gen_random_uuid(), gen_random_uuid(), 'edit', '', %s, '[]', 0, NULL, "
            "NULL, gen_random_uuid(), false, 99, 99)",
            (user_id, conversation_id, first.reply.id),
        )
        embedding = group.create_task(embed(database, user_id, space_id, [second.message], 1))
        await asyncio.wait({embedding}, timeout=0.3)
    elsewhere = await new_conversation(database, user_id)
    query = Query(space_id, (), elsewhere=True, vector=vector(1))
    assert len(await Recall(database).pool(user_id, elsewhere, query, ())) == 0


async def test_a_database_holds_one_embedding_space(database: Database) -> None:
    store = VectorStore(database)
    space_id = await store.register_space(SPACE)
    assert await store.register_space(SPACE) == space_id
    with pytest.raises(SettingsError, match=r"holds vectors of test \(dimension 8\)"):
        await store.register_space(EmbeddingSpace("other", "g", 4, 0.3, 64))


async def test_a_vector_is_not_written_for_a_message_that_is_gone(database: Database, user_id: UUID) -> None:
    store = VectorStore(database)
    space_id = await store.register_space(SPACE)
    await store.add(user_id, space_id, [NewVector(uuid4(), uuid4(), 0, (0, 1), vector(1))])
    [rows] = await database.query(user_id, ("SELECT count(*) AS n FROM embeddings", ()))
    assert rows == [{"n": 0}]


async def test_memory_work_is_claimed_once_and_stays_due_for_newer_work(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    [turn] = await turns(database, user_id, conversation_id, 1)
    tasks, lease = MemoryTasks(database), timedelta(minutes=1)
    [task] = await tasks.claim(10, lease)
    assert (task.user_id, task.conversation_id, task.attempts) == (user_id, conversation_id, 1)
    assert await tasks.claim(10, lease) == []
    waiting = await append(database, user_id, conversation_id, "later")
    unembedded = await tasks.unembedded(task, 0, 100)
    assert [m.id for m in unembedded] == [turn.message.id, turn.reply.id, waiting.message.id]

    await finish(Transcript(database), user_id, waiting, "done")
    await tasks.complete(task, 2)
    [newer] = await tasks.claim(10, lease)
    assert newer.embedded_sequence == 2
    await tasks.complete(newer, 4)
    assert await tasks.claim(10, lease) == []


async def test_a_reply_that_comes_late_is_embedded_at_its_place(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    late = await append(database, user_id, conversation_id, "late")
    [_] = await turns(database, user_id, conversation_id, 1)
    tasks, lease = MemoryTasks(database), timedelta(minutes=1)
    [task] = await tasks.claim(10, lease)
    waiting = await tasks.unembedded(task, 0, 100)
    assert [m.sequence for m in waiting] == [1, 3, 4]
    await tasks.complete(task, 4)
    await finish(Transcript(database), user_id, late, "at last")
    [again] = await tasks.claim(10, lease)
    assert again.embedded_sequence == 1
    assert [m.sequence for m in await tasks.unembedded(again, 1, 100)] == [2, 3, 4]


async def test_a_reply_that_comes_during_the_work_is_not_overtaken(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    late = await append(database, user_id, conversation_id, "late")
    [_] = await turns(database, user_id, conversation_id, 1)
    tasks, lease = MemoryTasks(database), timedelta(minutes=1)
    [task] = await tasks.claim(10, lease)
    await finish(Transcript(database), user_id, late, "meanwhile")
    await tasks.complete(task, 4)
    [again] = await tasks.claim(10, lease)
    assert [m.sequence for m in await tasks.unembedded(again, again.embedded_sequence, 100)] == [2, 3, 4]
