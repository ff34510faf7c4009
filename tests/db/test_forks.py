"""Forks: what is copied, that either can be erased without the other, and what a search makes of copies."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from chatrpc.db.conversations import ConversationChanges
from chatrpc.db.engine import Database
from chatrpc.db.memory import MemoryTasks
from chatrpc.db.recall import Recall
from chatrpc.domain import (
    Conversation,
    ConversationMemory,
    MessageState,
    OutgoingMessage,
    Regeneration,
    TextPart,
    ToolCallPart,
    TurnSettings,
)
from chatrpc.errors import AlreadyExists, FailedPrecondition, NotFound, Reason
from tests.db.home import Home
from tests.db.test_summaries import fact_of, fold
from tests.db.test_transcript import OWNER, append

LEASE = timedelta(minutes=1)


@pytest.fixture
def home(database: Database) -> Home:
    return Home(database)


async def fork(home: Home, message_id: UUID, request_id: str | None = None) -> Conversation:
    return await home.conversations.branches.fork(home.user_id, message_id, request_id=request_id)


async def holding(home: Home, conversation_id: UUID, text: str) -> list[str]:
    """The tables with a row of a conversation that holds a text, in whatever column."""
    tables = {"conversations": "id"} | dict.fromkeys(
        ("messages", "summaries", "context_reports", "embeddings", "memory_tasks", "branches"), "conversation_id"
    )
    found = await home.database.query(
        home.user_id,
        *(
            (f"SELECT 1 AS found FROM {table} t WHERE {key} = %s AND strpos(t::text, %s) > 0", (conversation_id, text))
            for table, key in tables.items()
        ),
    )
    return [table for table, rows in zip(tables, found, strict=True) if rows]


async def test_a_fork_holds_copies_of_the_path_on_one_branch(home: Home) -> None:
    settings = TurnSettings(model="m", system_instruction="Be brief.")
    source = await home.open(title="A talk", settings=settings, labels={"a": "b"})
    first = await home.talk(source, "one", "two")
    await home.talk(source, "left behind", "and its reply")
    message = OutgoingMessage(
        source, "three", (TextPart("three"),), parent_id=first.reply.id, settings=TurnSettings(model="other")
    )
    third = await home.transcript.append(home.user_id, message, tokens=5, actor="service", owner=OWNER)
    await home.finish(third, "four")
    asked = Regeneration(source, third.reply.id, "again")
    again = await home.transcript.regenerate(home.user_id, asked, owner=OWNER)
    await home.database.query(
        home.user_id,
        ("UPDATE conversations SET pending_replies = 0", ()),
        ("UPDATE messages SET state = 'cancelled', finish_reason = 'cancelled' WHERE id = %s", (again.reply.id,)),
    )
    await home.erase(first.reply.id)
    await home.talk(source, "five", "six")

    made = await fork(home, again.reply.id)
    assert (made.title, made.settings, made.labels) == ("A talk", settings, {"a": "b"})
    assert (made.path, made.message_count, made.revision) == (((0, 4),), 4, 1)
    originals = [m for m in await home.messages(source) if m.depth <= 4]
    copies = await home.messages(made.id)
    assert [m.id for m in copies][-1] == made.head_id
    assert {m.id for m in copies}.isdisjoint(m.id for m in originals)
    assert all(m.id.version == 7 and m.id.variant == first.message.id.variant for m in copies)
    assert [m.parent_id for m in copies] == [None, *(m.id for m in copies[:-1])]
    assert [m.sequence for m in copies] == [m.depth for m in copies] == [1, 2, 3, 4]
    for name in ("role", "state", "parts", "tokens", "created_at", "finished_at", "actor", "model", "finish_reason"):
        assert [getattr(m, name) for m in copies] == [getattr(m, name) for m in originals], name
    assert [m.state for m in copies] == [
        MessageState.COMPLETE,
        MessageState.ERASED,
        MessageState.COMPLETE,
        MessageState.CANCELLED,
    ]
    assert {m.client_message_id for m in copies} == {None}
    assert {m.usage for m in copies} == {None}
    # The turn keeps its settings, and the conversation goes on.
    assert (await home.transcript.turn(home.user_id, copies[-1].id)).turn_settings == TurnSettings(model="other")
    onward = await append(home.database, home.user_id, made.id, "three")
    assert (onward.duplicate, onward.path) == (False, ((0, 5),))


async def test_tool_calls_come_along(home: Home) -> None:
    source = await home.open()
    turn = await home.talk(source, "one", "two")
    statement = "UPDATE messages SET parts = %s::jsonb WHERE id = %s"
    call = '[{"tool_call": {"id": "c", "name": "look", "arguments": "{}", "problem": ""}}, {"text": "two"}]'
    await home.database.query(home.user_id, (statement, (call, turn.reply.id)))
    copies = await home.messages((await fork(home, turn.reply.id)).id)
    assert copies[1].parts == (ToolCallPart("c", "look", "{}"), TextPart("two"))


async def test_what_is_erased_in_one_stays_in_the_other(home: Home) -> None:
    source = await home.open(title="secret words")
    turn = await home.talk(source, "secret words of mine", "an answer")
    await home.embed(turn.message, turn.reply)
    hot = await Recall(home.database).hot_path(home.user_id, source, ((0, 2),))
    fact = fact_of(hot.messages[0], text="secret words in a fact")
    await fold(home.database, home.user_id, hot, hot.messages[1], (fact,), "told of secret words")
    everywhere = ["conversations", "messages", "summaries"]
    made = [await fork(home, turn.reply.id) for _ in range(2)]
    for each in (source, made[0].id, made[1].id):
        assert await holding(home, each, "secret words") == everywhere

    erased = await home.erase(turn.message.id)
    assert (erased.conversation_id, erased.messages, erased.vectors, erased.title) == (source, 1, 1, True)
    assert await holding(home, source, "secret words") == []
    [copy, _] = await home.messages(made[0].id)
    await home.erase(copy.id)
    assert await holding(home, made[0].id, "secret words") == []
    assert await holding(home, made[1].id, "secret words") == everywhere
    await home.conversations.delete(home.user_id, source)
    assert await holding(home, made[1].id, "secret words") == everywhere
    assert await home.rows(f"embeddings WHERE conversation_id = '{made[1].id}'") == 2


async def test_what_is_said_behind_a_copy_without_a_reply_is_no_reply_to_it(home: Home) -> None:
    source = await home.open()
    turn = await home.talk(source, "one", "two")
    made = await fork(home, turn.message.id)
    [copy] = await home.messages(made.id)
    asked = [Regeneration(made.id, copy.id, key) for key in ("first", "second")]
    behind = await home.talk(made.id, "three", "four")
    again = [await home.transcript.regenerate(home.user_id, each, owner=OWNER) for each in asked]
    assert await home.transcript.replies_to(home.user_id, copy.id) == [each.reply.id for each in again]
    assert (await home.erase(copy.id, include_reply=True)).messages == 3
    await home.conversations.branches.switch(home.user_id, behind.reply.id)
    assert [message.text for message in await home.messages(made.id)] == ["", "three", "four"]


async def test_a_title_that_is_the_beginning_of_a_message_left_behind_is_left_behind(home: Home) -> None:
    source = await home.open(title="My secret")
    await home.talk(source, "My secret is this.", "I see.")
    message = OutgoingMessage(source, "edit", (TextPart("Something else."),), at_root=True)
    edited = await home.transcript.append(home.user_id, message, tokens=5, actor=None, owner=OWNER)
    await home.finish(edited, "Yes.")
    made = await fork(home, edited.reply.id)
    assert made.title == ""
    assert await holding(home, made.id, "My secret") == []


async def test_the_summaries_of_the_path_come_along_and_name_the_copies(home: Home) -> None:
    source, recall = await home.open(), Recall(home.database)
    turns = [await home.talk(source, f"question {number}", f"answer {number}") for number in range(5)]
    path = ((0, 10),)
    hot = await recall.hot_path(home.user_id, source, path)
    for depth in (2, 4, 6):
        facts = (fact_of(hot.messages[1], text=f"known since {depth}"),)
        assert await fold(home.database, home.user_id, hot, hot.messages[depth - 1], facts) is not None

    made = await fork(home, turns[2].message.id)
    copies = await home.messages(made.id)
    forked = await recall.hot_path(home.user_id, made.id, ((0, 5),), keep=1)
    assert forked.summary is not None
    assert (forked.summary.anchor_depth, forked.summary.text) == (4, "to 4")
    assert forked.summary.anchor_id == copies[3].id
    assert (forked.summary.facts, forked.summary.version) == ((fact_of(copies[1], text="known since 4"),), 2)
    assert [m.id for m in forked.messages] == [copies[4].id]
    # What is replied to anew, or edited, needs one that leaves it as many messages as ever.
    earlier = await recall.hot_path(home.user_id, made.id, ((0, 4),), keep=2)
    assert (earlier.summary.anchor_depth, earlier.summary.facts) == (2, (fact_of(copies[1], text="known since 2"),))


async def test_vectors_are_copied_and_those_that_lack_are_made_later(home: Home) -> None:
    source, tasks = await home.open(), MemoryTasks(home.database)
    first = await home.talk(source, "one", "two")
    await home.embed(first.message, first.reply)
    [task] = await tasks.claim(10, LEASE)
    await tasks.complete(task, 2)
    second = await home.talk(source, "three", "four")
    made = await fork(home, second.reply.id)
    assert await home.rows(f"embeddings WHERE conversation_id = '{made.id}' AND active") == 2
    assert await home.rows("embedding_counts WHERE passages = 4") == 1
    claimed = {task.conversation_id: task for task in await tasks.claim(10, LEASE)}
    assert [m.text for m in await tasks.unembedded(claimed[made.id], claimed[made.id].embedded_sequence, 10)] == [
        "three",
        "four",
    ]
    await home.conversations.update(home.user_id, source, ConversationChanges(memory=ConversationMemory.PRIVATE))
    private = await fork(home, second.reply.id)
    assert private.memory is ConversationMemory.PRIVATE
    assert await home.rows(f"embeddings WHERE conversation_id = '{private.id}' AND active") == 0


async def test_a_fork_of_a_temporary_conversation_is_temporary(home: Home) -> None:
    source = await home.open(memory=ConversationMemory.TEMPORARY)
    turn = await home.talk(source, "one", "two")
    assert (await fork(home, turn.message.id)).memory is ConversationMemory.TEMPORARY


async def test_a_repeated_fork_is_the_same_conversation(home: Home) -> None:
    source = await home.open(request_id="taken")
    turn = await home.talk(source, "one", "two")
    racing = await asyncio.gather(*(fork(home, turn.reply.id, "once") for _ in range(6)))
    assert len({each.id for each in racing}) == 1
    assert await home.rows("conversations") == 2
    assert await home.rows("messages") == 4
    await home.conversations.delete(home.user_id, source)
    assert (await fork(home, turn.reply.id, "once")).id == racing[0].id
    beside = await home.talk(await home.open(), "three", "four")
    with pytest.raises(AlreadyExists, match="'once' was used"):
        await fork(home, beside.reply.id, "once")


async def test_what_cannot_be_forked_is_refused(home: Home) -> None:
    source = await home.open(request_id="taken")
    turn = await home.talk(source, "one", "two")
    running = await append(home.database, home.user_id, source, "b")
    queued = await append(home.database, home.user_id, source, "c")
    assert (await fork(home, running.message.id)).message_count == 3
    for message in (running.reply, queued.message):
        with pytest.raises(FailedPrecondition) as error:
            await fork(home, message.id)
        assert (error.value.reason, error.value.metadata) == (
            Reason.REPLY_UNFINISHED,
            {"id": str(running.reply.id)},
        )
    with pytest.raises(AlreadyExists):
        await fork(home, turn.reply.id, "taken")
    with pytest.raises(NotFound):
        await fork(home, uuid4())
    with pytest.raises(NotFound):
        await fork(Home(home.database), turn.reply.id)


async def test_a_path_that_is_too_long_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    turn = await home.talk(await home.open(), "one", "two")
    monkeypatch.setattr("chatrpc.db.branches.LONGEST_FORK", 1)
    assert (await fork(home, turn.message.id)).message_count == 1
    with pytest.raises(FailedPrecondition, match="More than 1 messages"):
        await fork(home, turn.reply.id)
