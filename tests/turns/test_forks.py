"""How many forks a user may make, and what becomes of one whose caller has gone."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from chatrpc.db.branches import Branches
from chatrpc.db.conversations import Conversations
from chatrpc.domain import Conversation, Page
from chatrpc.errors import AlreadyExists, NotFound, Reason, ResourceExhausted
from chatrpc.turns.forks import HOUR, Forks
from tests.turns.conftest import Process

PATIENCE = 20.0


class Clock:
    """Stands still until it is put forward."""

    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        return self.now


async def test_messages_that_forks_copy_come_back_within_an_hour(process: Process) -> None:
    accepted, _ = await process.said("Hi.")
    clock = Clock()
    forks = Forks(process.turns, Branches(process.database), 4, clock)

    async def fork(message_id: UUID, request_id: str | None = None) -> Conversation:
        return await forks.fork(process.caller, message_id, request_id=request_id)

    # Three messages are copied, and then two more for the one that is left.
    first = await fork(accepted.message.id, "first")
    await fork(accepted.reply.id)
    await fork(accepted.reply.id)
    with pytest.raises(ResourceExhausted) as refused:
        await fork(accepted.reply.id)
    assert (refused.value.reason, refused.value.subject) == (Reason.TOO_MANY_FORKS, "user")
    assert refused.value.retry_after == pytest.approx(HOUR / 2)

    # A repeated request asks for nothing more; one of another user's knows nothing of these.
    assert (await fork(accepted.message.id, "first")).id == first.id
    with pytest.raises(ResourceExhausted):
        await fork(accepted.reply.id, "first")
    with pytest.raises(NotFound):
        await forks.fork(replace(process.caller, user_id=uuid4()), accepted.reply.id, request_id="first")

    clock.now += refused.value.retry_after
    with pytest.raises(AlreadyExists):
        await fork(accepted.reply.id, "first")
    await fork(accepted.reply.id)
    with pytest.raises(ResourceExhausted):
        await fork(accepted.reply.id)
    clock.now += 2 * HOUR
    await fork(accepted.reply.id)
    assert list(forks._full_at.values()) == [clock.now + HOUR / 2]


async def test_a_user_forks_one_thing_at_a_time_even_if_nobody_waits_for_it(process: Process) -> None:
    accepted, _ = await process.said("Hi.")
    forks = Forks(process.turns, Branches(process.database), 100)
    conversations = Conversations(process.database)
    async with process.database.transaction(process.caller.user_id) as connection:
        # Whoever changes a conversation holds up its forks.
        await connection.execute("SELECT FROM conversations WHERE id = %s FOR UPDATE", (process.conversation_id,))
        left = asyncio.create_task(forks.fork(process.caller, accepted.reply.id, request_id="left"))
        async with asyncio.timeout(PATIENCE):
            while not forks._busy:
                await asyncio.sleep(0.001)
        left.cancel()
        with suppress(asyncio.CancelledError):
            await left
        with pytest.raises(ResourceExhausted) as refused:
            await forks.fork(process.caller, accepted.reply.id, request_id=None)
        assert refused.value.retry_after == 1
        with pytest.raises(NotFound):
            await forks.fork(replace(process.caller, user_id=uuid4()), accepted.reply.id, request_id=None)
    async with asyncio.timeout(PATIENCE):
        while forks._busy:
            await asyncio.sleep(0.001)
    made = await forks.fork(process.caller, accepted.reply.id, request_id="left")
    listed, _ = await conversations.list(process.caller.user_id, Page(10))
    assert {each.id for each in listed} == {process.conversation_id, made.id}
