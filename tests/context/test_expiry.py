"""Temporary conversations end by themselves, and nothing else does."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from chatrpc.context import expiry
from chatrpc.context.expiry import Expiry
from chatrpc.db.engine import Database
from chatrpc.domain import ConversationMemory
from tests.db.home import Home
from tests.db.test_conversation_memory import let_pass

DAY = timedelta(days=1)
SECRET = "nobody will ever know"


async def test_what_was_said_in_a_temporary_conversation_is_gone_a_day_later(database: Database) -> None:
    home = Home(database)
    temporary = await home.open(title=SECRET, memory=ConversationMemory.TEMPORARY)
    kept = await home.open(memory=ConversationMemory.PRIVATE)
    for conversation_id in (temporary, kept):
        await home.talk(conversation_id, SECRET if conversation_id == temporary else "good day", "I see.")
    sweeper = Expiry(home.conversations, DAY)
    assert await sweeper.sweep() == 0
    await let_pass(home, DAY, temporary, kept)
    assert await sweeper.sweep() == 1
    assert await home.holds(SECRET) == []
    assert len(await home.messages(kept)) == 2


async def test_two_processes_that_sweep_at_once_share_the_work(database: Database) -> None:
    homes = [Home(database) for _ in range(3)]
    for home in homes:
        made = [await home.open(memory=ConversationMemory.TEMPORARY) for _ in range(5)]
        await let_pass(home, 2 * DAY, *made)
    deleted = await asyncio.gather(*(Expiry(homes[0].conversations, DAY).sweep() for _ in range(2)))
    assert sum(deleted) == 15
    assert await homes[0].conversations.expired(DAY, 100) == []


async def test_it_goes_on_at_once_where_there_is_more_and_ends_only_when_cancelled(database, monkeypatch) -> None:
    monkeypatch.setattr(expiry, "BATCH", 2)
    home = Home(database)
    made = [await home.open(memory=ConversationMemory.TEMPORARY) for _ in range(5)]
    await let_pass(home, 2 * DAY, *made)
    running = asyncio.create_task(Expiry(home.conversations, DAY).run())
    async with asyncio.timeout(20):
        while await home.conversations.expired(DAY, 10):
            await asyncio.sleep(0.01)
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})
