"""Versions of summaries: compare-and-set, and the erasure of all that cover a message."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.memory import MemoryTasks
from chatrpc.db.recall import Recall
from chatrpc.db.summaries import Summaries
from chatrpc.domain import Accepted, Fact, FactKind, HotPath, Message, Page, Summary
from tests.db.test_recall import turns
from tests.db.test_transcript import append, new_conversation

LEASE = timedelta(minutes=1)


def fact_of(message: Message, key: str = "user.name", text: str = "Ada") -> Fact:
    return Fact(key, FactKind.NAME, text, message.id, message.sequence, message.id, message.sequence)


async def fold(
    database: Database, user_id: UUID, hot: HotPath, anchor: Message, facts: tuple[Fact, ...] = (), text: str = ""
) -> Summary | None:
    return await Summaries(database).add(
        user_id,
        hot.conversation_id,
        previous=hot.summary,
        anchor=anchor,
        erasures=hot.erasures,
        text=text or f"to {anchor.depth}",
        facts=facts,
        tokens=3,
        model="m",
    )


async def invalidate(database: Database, user_id: UUID, conversation_id: UUID, message_id: UUID) -> int:
    async with database.transaction(user_id) as connection:
        return await Summaries.invalidate(connection, user_id, conversation_id, message_id)


async def scene(database: Database, user_id: UUID, count: int = 6) -> tuple[UUID, list[Accepted], HotPath]:
    conversation_id = await new_conversation(database, user_id)
    made = await turns(database, user_id, conversation_id, count)
    return conversation_id, made, await Recall(database).hot_path(user_id, conversation_id, made[-1].path)


async def versions_with(database: Database, user_id: UUID, text: str) -> int:
    statement = "SELECT count(*) AS n FROM summaries WHERE user_id = %s AND (text LIKE %s OR facts::text LIKE %s)"
    [rows] = await database.query(user_id, (statement, (user_id, f"%{text}%", f"%{text}%")))
    return int(rows[0]["n"])


async def test_facts_are_read_as_they_were_written(database: Database, user_id: UUID) -> None:
    conversation_id, made, hot = await scene(database, user_id)
    facts = (fact_of(hot.messages[0]), fact_of(hot.messages[2], "user.city", 'Turin, 漢字 "quoted"'))
    written = await fold(database, user_id, hot, hot.messages[3], facts)
    read = await Recall(database).hot_path(user_id, conversation_id, made[-1].path)
    assert written is not None
    assert read.summary == written
    assert written.facts == facts
    assert not read.rebuilding


async def test_erasing_leaves_the_last_version_before_the_message_and_no_word_of_the_others(
    database: Database, user_id: UUID
) -> None:
    conversation_id, made, hot = await scene(database, user_id)
    recall, path, everything = Recall(database), made[-1].path, hot.messages
    for depth in (2, 4, 6):
        await fold(database, user_id, hot, everything[depth - 1], (fact_of(everything[0], text=f"secret {depth}"),))
        hot = await recall.hot_path(user_id, conversation_id, path)
    before = hot.revision
    assert await invalidate(database, user_id, conversation_id, everything[2].id) == 2
    hot = await recall.hot_path(user_id, conversation_id, path)
    assert hot.summary is not None
    assert (hot.summary.version, hot.summary.text, hot.rebuilding) == (1, "to 2", True)
    assert [message.depth for message in hot.messages] == list(range(3, 12))
    assert hot.revision > before
    assert await versions_with(database, user_id, "secret") == 1
    assert await versions_with(database, user_id, "to ") == 1

    # Half of the way is not all of it, and an erased version's number serves no other text.
    half = await fold(database, user_id, hot, everything[3])
    hot = await recall.hot_path(user_id, conversation_id, path)
    assert half is not None
    assert (half.version, hot.rebuilding) == (4, True)
    await fold(database, user_id, hot, everything[5])
    assert not (await recall.hot_path(user_id, conversation_id, path)).rebuilding


async def test_erasing_makes_folding_due_and_throws_away_folds_under_way(database: Database, user_id: UUID) -> None:
    conversation_id, made, hot = await scene(database, user_id)
    tasks = MemoryTasks(database)
    [task] = await tasks.claim(1, LEASE)
    await invalidate(database, user_id, conversation_id, hot.messages[0].id)
    assert await fold(database, user_id, hot, hot.messages[3]) is None
    await tasks.complete(task, task.embedded_sequence)
    assert len(await tasks.claim(1, LEASE)) == 1
    fresh = await Recall(database).hot_path(user_id, conversation_id, made[-1].path)
    assert await fold(database, user_id, fresh, fresh.messages[3]) is not None


async def test_erasing_reaches_the_branches_that_hold_the_message_and_no_others(
    database: Database, user_id: UUID
) -> None:
    conversation_id, made, hot = await scene(database, user_id, 4)
    await fold(database, user_id, hot, hot.messages[3], text="trunk")
    recall = Recall(database)
    edited = await append(database, user_id, conversation_id, "edit", parent=made[0].reply.id)
    branch = await recall.hot_path(user_id, conversation_id, edited.path)
    assert branch.summary is None
    await fold(database, user_id, branch, edited.message, text="branch")
    # The third message lies on the trunk alone.
    assert await invalidate(database, user_id, conversation_id, hot.messages[2].id) == 1
    assert (await recall.hot_path(user_id, conversation_id, edited.path)).summary is not None
    assert not (await recall.hot_path(user_id, conversation_id, edited.path)).rebuilding
    # The first lies on both.
    assert await invalidate(database, user_id, conversation_id, hot.messages[0].id) == 1
    assert (await recall.hot_path(user_id, conversation_id, edited.path)).rebuilding


async def test_erasing_nothing_of_the_user_erases_no_summary(database: Database, user_id: UUID) -> None:
    conversation_id, made, hot = await scene(database, user_id)
    await fold(database, user_id, hot, hot.messages[3])
    assert await invalidate(database, user_id, conversation_id, uuid4()) == 0
    stranger = uuid4()
    assert await invalidate(database, stranger, conversation_id, hot.messages[0].id) == 0
    assert await invalidate(database, user_id, conversation_id, hot.messages[6].id) == 0
    kept = await Recall(database).hot_path(user_id, conversation_id, made[-1].path)
    assert kept.summary is not None
    assert not kept.rebuilding


async def test_refusals_in_a_row_are_counted_until_a_version_is_accepted(database: Database, user_id: UUID) -> None:
    conversation_id, _, hot = await scene(database, user_id)
    summaries = Summaries(database)
    assert [await summaries.refused(user_id, conversation_id) for _ in range(3)] == [1, 2, 3]
    await fold(database, user_id, hot, hot.messages[1])
    assert await summaries.refused(user_id, conversation_id) == 1
    await invalidate(database, user_id, conversation_id, hot.messages[0].id)
    assert await summaries.refused(user_id, conversation_id) == 1
    assert await summaries.refused(user_id, uuid4()) == 0


async def test_a_conversation_with_erased_versions_can_be_deleted(database: Database, user_id: UUID) -> None:
    conversation_id, _, hot = await scene(database, user_id)
    await fold(database, user_id, hot, hot.messages[3])
    await invalidate(database, user_id, conversation_id, hot.messages[0].id)
    await Conversations(database).delete(user_id, conversation_id)
    listed, _ = await Conversations(database).list(user_id, Page(10), title_contains="", labels={})
    assert listed == []
