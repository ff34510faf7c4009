"""What other conversations find of one, and when a temporary one is gone."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from chatrpc.db.conversations import ConversationChanges
from chatrpc.db.engine import Database
from chatrpc.db.memory import MemoryTasks
from chatrpc.domain import ConversationMemory
from chatrpc.errors import FailedPrecondition, NotFound, Reason
from tests.db.home import Home
from tests.db.test_transcript import append

DAY = timedelta(days=1)


@pytest.fixture
def home(database: Database) -> Home:
    return Home(database)


async def change(home: Home, conversation_id: UUID, memory: ConversationMemory) -> None:
    await home.conversations.update(home.user_id, conversation_id, ConversationChanges(memory=memory))


async def let_pass(home: Home, time: timedelta, *conversation_ids: UUID) -> None:
    """Make conversations older, and their last change."""
    statement = "UPDATE conversations SET created_at = created_at - %s, updated_at = updated_at - %s WHERE id = ANY(%s)"
    await home.database.query(home.user_id, (statement, (time, time, list(conversation_ids))))


async def test_a_turn_knows_its_conversations_memory(home: Home) -> None:
    for memory in ConversationMemory:
        conversation_id = await home.open(memory=memory)
        first = await append(home.database, home.user_id, conversation_id, "k")
        again = await append(home.database, home.user_id, conversation_id, "k")
        assert (first.memory, again.memory) == (memory, memory)
        assert (await home.conversations.get(home.user_id, conversation_id)).memory is memory


async def test_a_branch_of_a_private_conversation_makes_nothing_active(home: Home) -> None:
    conversation_id = await home.open(memory=ConversationMemory.PRIVATE)
    turn = await home.talk(conversation_id, "one", "two")
    await home.embed(turn.message, turn.reply)
    await home.talk(conversation_id, "three", "four")
    await append(home.database, home.user_id, conversation_id, uuid4().hex, "another way", parent=turn.reply.id)
    assert await home.rows("embeddings") == 2
    assert await home.rows("embeddings WHERE active") == 0


async def test_nothing_of_a_temporary_conversation_is_embedded(home: Home) -> None:
    conversation_id = await home.open(memory=ConversationMemory.TEMPORARY)
    turn = await home.talk(conversation_id, "one", "two")
    tasks = MemoryTasks(home.database)
    [task] = await tasks.claim(10, DAY)
    assert await tasks.unembedded(task, 0, 10) == []
    await home.embed(turn.message, turn.reply)
    assert await home.rows("embeddings") == 0


async def test_memory_is_private_and_remembered_by_turns_but_never_temporary(home: Home) -> None:
    conversation_id = await home.open()
    turn = await home.talk(conversation_id, "one", "I see.")
    branch = await append(home.database, home.user_id, conversation_id, "edit", "another way", parent=turn.reply.id)
    await home.finish(branch, "as you like")
    await home.embed(turn.message, turn.reply, branch.message)
    active = "embeddings WHERE active"
    assert await home.rows(active) == 3
    await change(home, conversation_id, ConversationMemory.PRIVATE)
    assert await home.rows(active) == 0
    await home.embed(branch.reply)
    assert await home.rows(active) == 0
    await change(home, conversation_id, ConversationMemory.REMEMBERED)
    assert await home.rows(active) == 4
    with pytest.raises(FailedPrecondition) as caught:
        await change(home, conversation_id, ConversationMemory.TEMPORARY)
    assert caught.value.reason is Reason.MEMORY_FIXED
    temporary = await home.open(memory=ConversationMemory.TEMPORARY)
    with pytest.raises(FailedPrecondition):
        await change(home, temporary, ConversationMemory.PRIVATE)
    # To say again what holds already is no change.
    await change(home, temporary, ConversationMemory.TEMPORARY)


async def test_a_temporary_conversation_expires_after_its_last_change(home: Home) -> None:
    kinds = (ConversationMemory.TEMPORARY, ConversationMemory.TEMPORARY, *ConversationMemory)
    old, used, *others, young = [await home.open(memory=memory) for memory in kinds]
    await let_pass(home, 2 * DAY, old, used, *others)
    await append(home.database, home.user_id, used, "k")
    assert await home.conversations.expired(DAY, 10) == [(home.user_id, old)]
    await home.conversations.delete(home.user_id, old, unchanged_for=DAY)
    assert await home.conversations.expired(DAY, 10) == []
    with pytest.raises(NotFound):
        await home.conversations.delete(home.user_id, young, unchanged_for=DAY)


async def test_the_oldest_expire_first_as_many_as_asked_for(home: Home) -> None:
    made = [await home.open(memory=ConversationMemory.TEMPORARY) for _ in range(4)]
    await let_pass(home, 2 * DAY, *made)
    assert [found for _, found in await home.conversations.expired(DAY, 3)] == made[:3]
