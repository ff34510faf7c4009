"""Watches over several processes, with and without a Redis that they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.transcript import Transcript
from chatrpc.db.watched import Watched
from chatrpc.domain import Message, MessageState, OutgoingMessage, TextPart, TurnSettings
from chatrpc.errors import ChatError, Reason, Unavailable
from chatrpc.turns.events import Completed, ReplyEvent
from chatrpc.turns.reply_log import ReplyReader
from chatrpc.turns.watch import (
    ConversationChanged,
    ConversationDeleted,
    Ended,
    MessageChanged,
    Watches,
    WatchEvent,
    WatchReader,
)
from tests.support.provider import Answer, Provider
from tests.support.redis_server import RedisServer
from tests.turns.conftest import Process, running

PATIENCE = 20.0


class Tab:
    """Somebody who watches through a process, and all that was told."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[WatchEvent | ReplyEvent] = asyncio.Queue()
        self.reading: set[asyncio.Task[None]] = set()

    async def tell(self, event: WatchEvent) -> None:
        self.heard.put_nowait(event)

    def follow(self, events: ReplyReader, ended: Ended) -> None:
        async def read() -> None:
            try:
                async for event in events:
                    self.heard.put_nowait(event)
            except ChatError as error:
                ended(error)
            else:
                ended(None)

        task = asyncio.create_task(read())
        self.reading.add(task)
        task.add_done_callback(self.reading.discard)

    async def until(self, kind: type) -> list[WatchEvent | ReplyEvent]:
        """What is told up to an event of a kind, of a watch or of a reply."""
        told: list[WatchEvent | ReplyEvent] = []
        async with asyncio.timeout(PATIENCE):
            while True:
                told.append(await self.heard.get())
                last = told[-1].event if isinstance(told[-1], ReplyEvent) else told[-1]
                if isinstance(last, kind):
                    return told


def ids_of(told: list[WatchEvent | ReplyEvent]) -> list[UUID]:
    return [event.message.id for event in told if isinstance(event, MessageChanged)]


@asynccontextmanager
async def watching(process: Process, after_revision: int = 1, watched: type[Watched] = Watched) -> AsyncIterator[Tab]:
    tab, watches = Tab(), Watches(process.turns, watched(process.database), 1)
    reader = WatchReader(tab.tell, tab.follow, lambda error: None)
    watch = await watches.open(process.caller, process.conversation_id, after_revision, reader)
    # It looks once more after it has begun.
    assert watch._looking is not None
    await asyncio.wait({watch._looking})
    try:
        yield tab
    finally:
        await watches.close(watch)
        for task in tab.reading:
            task.cancel()


@pytest_asyncio.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path) as server:
        yield server


@asynccontextmanager
async def two(
    database: Database, provider: Provider, user_id: UUID, conversation_id: UUID, redis_url: str | None
) -> AsyncIterator[tuple[Process, Process]]:
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(running(database, provider, user_id, conversation_id, redis_url=redis_url))
            for _ in range(2)
        ]
        for each in opened if redis_url else ():
            while each.turns._logs._streams._listening is None:
                await asyncio.sleep(0.001)
        yield opened[0], opened[1]


async def test_what_one_process_does_is_told_by_another_at_once(
    database: Database,
    provider: Provider,
    user_id: UUID,
    conversation_id: UUID,
    redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Hints alone.
    monkeypatch.setattr("chatrpc.turns.watch.INTERVAL", 3_600.0)
    gate = asyncio.Event()
    provider.script(Answer(deltas=("Hel", "lo"), gate=gate, gate_at=1))
    common = (database, provider, user_id, conversation_id)
    async with two(*common, redis.url) as (one, other), watching(other) as tab:
        accepted, events = await one.send("Hi.")
        first = await tab.until(ConversationChanged)
        changed = first[-1]
        assert ids_of(first) == [accepted.message.id, accepted.reply.id]
        assert changed.conversation.head_id == accepted.reply.id
        gate.set()
        told = [event for event in [*first, *await tab.until(Completed)] if isinstance(event, ReplyEvent)]
        assert told == [event async for event in events]
        finished = (await tab.until(ConversationChanged))[-1]
        assert finished.conversation.revision == changed.conversation.revision + 1


async def test_a_hint_that_is_lost_is_made_good_by_a_look(
    database: Database,
    provider: Provider,
    user_id: UUID,
    conversation_id: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatrpc.turns.watch.INTERVAL", 0.05)
    gate = asyncio.Event()
    provider.script(Answer(deltas=("Hel", "lo"), gate=gate, gate_at=1))
    async with two(database, provider, user_id, conversation_id, None) as (one, other), watching(other) as tab:
        accepted, events = await one.send("Hi.")
        assert ids_of(await tab.until(ConversationChanged)) == [accepted.message.id, accepted.reply.id]
        gate.set()
        await anext(events)
        # Its events cannot be read from there while it runs, so it is told whole, before the change.
        *_, finished, _ = await tab.until(ConversationChanged)
        message = finished.message if isinstance(finished, MessageChanged) else finished.event.message
        assert (message.id, message.text, message.state) == (accepted.reply.id, "Hello", MessageState.COMPLETE)


async def test_a_reply_of_a_dead_process_is_told_by_the_next(
    database: Database,
    provider: Provider,
    user_id: UUID,
    conversation_id: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatrpc.turns.watch.INTERVAL", 0.05)
    provider.script(Answer(deltas=("a", "b"), gate=asyncio.Event(), gate_at=1), Answer(deltas=("late",)))
    async with two(database, provider, user_id, conversation_id, None) as (one, other), watching(other) as tab:
        accepted, _ = await one.send("Hi.")
        await tab.until(ConversationChanged)
        await provider.received()
        ending = list(one.turns._running._tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        one.turns._left._left.clear()
        async with database.unbound() as connection:
            await connection.execute("DELETE FROM server_processes WHERE id = %s", (one.process_id,))
        [*_, last] = await tab.until(Completed)
        assert (last.attempt, last.event.message.id, last.event.message.text) == (2, accepted.reply.id, "late")


async def test_many_changes_at_once_are_to_be_read_anew(
    database: Database,
    provider: Provider,
    user_id: UUID,
    conversation_id: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatrpc.turns.watch.INTERVAL", 3_600.0)
    monkeypatch.setattr("chatrpc.turns.watch.MOST", 3)
    async with running(database, provider, user_id, conversation_id) as process, watching(process) as tab:
        behind = Transcript(database)
        for number in range(2):
            message = OutgoingMessage(conversation_id, f"{number}", (TextPart("Hi."),))
            await behind.append(user_id, message, tokens=1, actor=None, owner=process.process_id)
        process.turns.changed(conversation_id)
        told = await tab.until(ConversationChanged)
        changed = told[-1]
        assert ids_of(told) == []
        assert (changed.reload, changed.conversation.message_count) == (True, 4)


class AwayOnce(Watched):
    """A way to the database that is lost once, amid a look."""

    lost = False

    async def messages(self, user_id: UUID, message_ids: Collection[UUID]) -> list[Message]:
        if not AwayOnce.lost:
            AwayOnce.lost = True
            raise Unavailable(Reason.DATABASE_UNAVAILABLE, "The database cannot be reached; try again.")
        return await super().messages(user_id, message_ids)


async def test_what_a_look_did_not_come_to_tell_the_next_one_tells(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatrpc.turns.watch.INTERVAL", 3_600.0)
    monkeypatch.setattr("chatrpc.turns.watch.MOST", 3)
    user_id, conversation_id = process.caller.user_id, process.conversation_id
    accepted, _ = await process.said("Hi.")
    async with watching(process, watched=AwayOnce) as tab:
        await tab.until(ConversationChanged)
        await Conversations(process.database).erase_message(user_id, accepted.message.id, include_reply=False)
        behind = Transcript(process.database)
        for number in range(2):
            message = OutgoingMessage(conversation_id, f"{number}", (TextPart("Hi."),))
            await behind.append(user_id, message, tokens=1, actor=None, owner=process.process_id)
        process.turns.changed(conversation_id)
        while not AwayOnce.lost:
            await asyncio.sleep(0.001)
        process.turns.changed(conversation_id)
        told = await tab.until(ConversationChanged)
        assert ids_of(told) == [accepted.message.id]
        assert told[-1].reload


class Counting(Watched):
    """Counts the looks at all revisions."""

    looks = 0

    async def changed(self, told: Sequence[tuple[UUID, UUID, int]]) -> list[int]:
        Counting.looks += 1
        return await super().changed(told)


async def test_the_end_of_a_conversation_is_told_once(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatrpc.turns.watch.INTERVAL", 0.001)
    async with watching(process, watched=Counting) as tab:
        await Conversations(process.database).delete(process.caller.user_id, process.conversation_id)
        await tab.until(ConversationDeleted)
        # Each of these finds it gone.
        seen = Counting.looks
        while Counting.looks < seen + 5:
            await asyncio.sleep(0.001)
        assert tab.heard.empty()


async def test_conversations_of_many_users_are_looked_at_in_one_statement(database: Database) -> None:
    conversations, watched = Conversations(database), Watched(database)
    told = []
    for _ in range(4):
        user_id = uuid4()
        made = await conversations.create(user_id, title="", settings=TurnSettings(), labels={}, request_id=None)
        told.append((user_id, made.id, made.revision))
    assert await watched.changed(told) == []
    await conversations.delete(told[1][0], told[1][1])
    user_id, conversation_id, revision = told[2]
    stale = (user_id, conversation_id, revision - 1)
    foreign = (uuid4(), told[3][1], told[3][2])
    assert sorted(await watched.changed([told[0], told[1], stale, foreign])) == [1, 2, 3]
