"""The background worker on a real database: what it does, and what no failure may do to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from chatrpc.context import background, memory
from chatrpc.context.memory import MemoryWorker
from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database, open_database
from chatrpc.db.memory import MemoryTasks
from chatrpc.dev.postgres import PostgresServer
from chatrpc.domain import Fact, Message, MessageState
from chatrpc.ports import Folding, Vectors
from chatrpc.settings import DatabaseSettings
from tests.context.household import AWAY, REFUSED, Household, ListingSummarizer
from tests.support.embedder import WordEmbedder

GENEROUS = 30.0


class GatedSummarizer(ListingSummarizer):
    """Waits at a gate before each fold."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()

    async def fold(
        self, narrative: str, facts: Sequence[Fact], messages: Sequence[Message], max_tokens: int
    ) -> Folding:
        self.entered.set()
        await self.gate.wait()
        return await super().fold(narrative, facts, messages, max_tokens)


class RecordingEmbedder(WordEmbedder):
    """Remembers what it embedded; is away while `error` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.error: Exception | None = None

    async def embed(self, texts: Sequence[str]) -> Vectors:
        if self.error is not None:
            raise self.error
        self.texts += texts
        return await super().embed(texts)


def household_with(database: Database, space_id: int, **parts: Any) -> Household:
    return Household(database, space_id, keep=4, fold=4, **parts)


@asynccontextmanager
async def running(worker: MemoryWorker) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until_summarised(household: Household, conversation_id: UUID, depth: int) -> None:
    async with asyncio.timeout(GENEROUS):
        while True:
            conversation = await household.recall.conversation(household.user_id, conversation_id)
            hot = await household.recall.hot_path(household.user_id, conversation_id, conversation.path)
            if hot.summary is not None and hot.summary.anchor_depth >= depth:
                return
            await asyncio.sleep(0.01)


async def test_every_finished_message_is_embedded_once_with_its_speaker(database: Database, space_id: int) -> None:
    embedder = RecordingEmbedder()
    household = household_with(database, space_id, embedder=embedder)
    conversation_id = await household.open_conversation()
    for number in range(3):
        await household.finish(await household.send(conversation_id, f"question {number}"), f"answer {number}")
        await household.worker.drain()
    said = [
        f"{role}: {text} {number}"
        for number in range(3)
        for role, text in (("user", "question"), ("assistant", "answer"))
    ]
    assert embedder.texts == said


async def test_messages_of_all_branches_are_embedded(database: Database, space_id: int) -> None:
    embedder = RecordingEmbedder()
    household = household_with(database, space_id, embedder=embedder)
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 2)
    parent = household.turns[0].accepted.reply.id
    await household.finish(await household.send(conversation_id, "edited", parent=parent), "as you wish")
    await household.worker.drain()
    assert len(embedder.texts) == 6


async def test_messages_without_text_have_no_vector(database: Database, space_id: int) -> None:
    embedder = RecordingEmbedder()
    household = household_with(database, space_id, embedder=embedder)
    turn = await household.send(await household.open_conversation(), "hello")
    await household.finish(turn, "", state=MessageState.FAILED)
    await household.worker.drain()
    assert embedder.texts == ["user: hello"]


async def test_messages_behind_a_running_reply_are_embedded_without_it(database: Database, space_id: int) -> None:
    embedder = RecordingEmbedder()
    household = household_with(database, space_id, embedder=embedder)
    conversation_id = await household.open_conversation()
    running_turn = await household.send(conversation_id, "a story please")
    queued = await household.send(conversation_id, "another")
    await household.finish(queued, "later")
    await household.worker.drain()
    assert sorted(embedder.texts) == ["assistant: later", "user: a story please", "user: another"]
    embedder.texts.clear()
    await household.finish(running_turn, "once upon a time")
    await household.worker.drain()
    assert "assistant: once upon a time" in embedder.texts


async def test_a_conversation_that_never_pauses_is_folded_all_the_same(database: Database, space_id: int) -> None:
    embedder = RecordingEmbedder()
    household = household_with(database, space_id, embedder=embedder)
    conversation_id = await household.open_conversation()
    folded_at: list[int] = []

    async def and_another(texts: Sequence[str]) -> Vectors:
        folded_at.append(len(household.summarizer.folded))
        if len(folded_at) < 40:
            await household.finish(await household.send(conversation_id, "and another"), "told")
        return await WordEmbedder.embed(embedder, texts)

    embedder.embed = and_another  # type: ignore[method-assign]
    await household.finish(await household.send(conversation_id, "a story please"), "told")
    await household.worker.drain()
    assert folded_at[30] > 0


async def test_every_part_of_a_long_message_can_be_found(household: Household) -> None:
    conversation_id = await household.open_conversation()
    filler = "The weather was as it always is. " * 1_500
    text = f"{filler}{'The treasure lies under the old oak. ' * 40}{filler}"
    await household.finish(await household.send(conversation_id, text), "Noted.")
    await household.worker.drain()
    assert await vector_count(household) > 50
    context = await household.preview(await household.open_conversation(), "the treasure lies under the old oak")
    assert [hit.text for hit in context.report.hits][1:] == ["Noted."]
    assert "treasure" in context.report.hits[0].text
    assert len(context.report.hits[0].text) < len(text) / 20


async def vector_count(household: Household) -> int:
    statement = "SELECT count(*) AS n FROM embeddings WHERE user_id = %s"
    [rows] = await household.database.query(household.user_id, (statement, (household.user_id,)))
    return int(rows[0]["n"])


async def test_a_backlog_is_folded_batch_by_batch(household: Household) -> None:
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 10)
    assert await household.worker.drain() == 1
    context = await household.preview(conversation_id, "and now?")
    assert context.report.summary_version == 4
    assert context.report.summarized_through_depth == 16
    assert [message.depth for message in household.summarizer.folded] == list(range(1, 17))
    assert await household.worker.drain() == 0


async def test_two_workers_fold_and_embed_nothing_twice(database: Database, space_id: int) -> None:
    household = household_with(database, space_id)
    conversations = [await household.open_conversation() for _ in range(6)]
    for conversation_id in conversations:
        await household.talk(conversation_id, 7)
    other = household_with(database, space_id, summarizer=household.summarizer)
    done = await asyncio.gather(household.worker.drain(), other.worker.drain())
    assert sum(done) == 6
    assert len(household.summarizer.folded) == 6 * 8
    assert await vector_count(household) == 6 * 14


async def test_a_worker_that_lost_its_claim_does_not_overwrite_the_summary(database: Database, space_id: int) -> None:
    slow = household_with(database, space_id, summarizer=GatedSummarizer())
    conversation_id = await slow.open_conversation()
    await slow.talk(conversation_id, 4)
    late = asyncio.create_task(slow.worker.drain())
    await asyncio.wait_for(slow.summarizer.entered.wait(), GENEROUS)
    await slow.let_time_pass()
    fast = household_with(database, space_id, user_id=slow.user_id)
    await fast.worker.drain()
    before = await slow.recall.hot_path(slow.user_id, conversation_id, ((0, 8),))
    slow.summarizer.gate.set()
    await asyncio.wait_for(late, GENEROUS)
    assert before.summary is not None
    assert await slow.recall.hot_path(slow.user_id, conversation_id, ((0, 8),)) == before


async def test_no_send_waits_for_a_summary(database: Database, space_id: int) -> None:
    household = household_with(database, space_id, summarizer=GatedSummarizer())
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 4)
    folding = asyncio.create_task(household.worker.drain())
    await asyncio.wait_for(household.summarizer.entered.wait(), GENEROUS)
    await asyncio.wait_for(household.talk(conversation_id, 1), GENEROUS)
    assert not folding.done()
    household.summarizer.gate.set()
    await asyncio.wait_for(folding, GENEROUS)


@pytest.mark.parametrize("error", [REFUSED, AWAY, RuntimeError("a fault")], ids=["refused", "away", "fault"])
async def test_a_failing_fold_is_tried_again_later_and_keeps_what_was(household: Household, error: Exception) -> None:
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 4)
    await household.worker.drain()
    await household.talk(conversation_id, 2)
    household.summarizer.failing = error
    assert await household.worker.drain() == 1
    assert await household.worker.drain() == 0
    context = await household.preview(conversation_id, "and now?")
    assert context.report.summary_version == 1
    assert await vector_count(household) == 12
    household.summarizer.failing = None
    await household.let_time_pass()
    assert await household.worker.drain() == 1
    context = await household.preview(conversation_id, "and now?")
    assert context.report.summary_version == 2


async def test_pauses_grow_from_a_second_to_five_minutes(household: Household) -> None:
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 4)
    household.summarizer.failing = AWAY
    pauses = []
    for _ in range(12):
        await household.worker.drain()
        statement = "SELECT extract(epoch FROM claimed_until - now()) AS pause FROM memory_tasks WHERE user_id = %s"
        [rows] = await household.database.query(household.user_id, (statement, (household.user_id,)))
        pauses.append(float(rows[0]["pause"]))
        await household.let_time_pass()
    assert pauses[0] <= 1 < pauses[1] <= 2 < pauses[2] <= 4
    assert all(256 < pause <= 300 for pause in pauses[9:])


async def test_an_embedder_that_is_away_does_not_keep_a_conversation_from_being_folded(
    database: Database, space_id: int
) -> None:
    embedder = RecordingEmbedder()
    embedder.error = AWAY
    household = household_with(database, space_id, embedder=embedder)
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 4)
    await household.worker.drain()
    assert len(household.summarizer.folded) == 4
    embedder.error = None
    await household.let_time_pass()
    await household.worker.drain()
    assert await vector_count(household) == 8


async def test_one_poisonous_conversation_does_not_stop_the_others(household: Household) -> None:
    class Picky(ListingSummarizer):
        async def fold(
            self, narrative: str, facts: Sequence[Fact], messages: Sequence[Message], max_tokens: int
        ) -> Folding:
            if "poison" in messages[0].text:
                raise RuntimeError("a fault")
            return await super().fold(narrative, facts, messages, max_tokens)

    household.summarizer = Picky()
    household.configure(4, 4)
    conversations = [await household.open_conversation() for _ in range(6)]
    for number, conversation_id in enumerate(conversations):
        await household.talk(conversation_id, 4, "honey" if number % 3 else "poison")
    await household.worker.drain()
    assert len(household.summarizer.folded) == 4 * 4


async def test_a_batch_without_any_text_moves_the_anchor_and_keeps_the_summary(household: Household) -> None:
    conversation_id = await household.open_conversation()
    for number in range(8):
        await household.finish(
            await household.send(conversation_id, " " if number > 1 else "hi"), "", state=MessageState.FAILED
        )
    await household.worker.drain()
    path = ((0, 16),)
    hot = await household.recall.hot_path(household.user_id, conversation_id, path)
    assert hot.summary is not None
    assert hot.summary.anchor_depth == 12
    assert [message.depth for message in household.summarizer.folded] == [1, 2, 3, 4]
    assert "#1#" in hot.summary.text


async def test_a_conversation_that_is_deleted_during_a_fold_is_let_go(database: Database, space_id: int) -> None:
    household = household_with(database, space_id, summarizer=GatedSummarizer())
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 4)
    folding = asyncio.create_task(household.worker.drain())
    await asyncio.wait_for(household.summarizer.entered.wait(), GENEROUS)
    await Conversations(database).delete(household.user_id, conversation_id)
    household.summarizer.gate.set()
    assert await asyncio.wait_for(folding, GENEROUS) == 1
    assert await vector_count(household) == 0


async def test_work_that_outlasts_its_claim_is_broken_off_and_comes_again(
    database: Database, space_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "LEASE", memory.LEASE / 1_000)
    household = household_with(database, space_id, summarizer=GatedSummarizer())
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 4)
    assert await asyncio.wait_for(household.worker.drain(), GENEROUS) >= 1
    household.summarizer.gate.set()
    await household.let_time_pass()
    assert await household.worker.drain() >= 1
    assert len(household.summarizer.folded) == 4


async def test_a_running_worker_does_what_it_is_woken_for(
    household: Household, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 1_000.0)
    conversation_id = await household.open_conversation()
    async with running(household.worker):
        for depth in (4, 8, 12):
            await household.talk(conversation_id, 4 if depth == 4 else 2)
            household.worker.wake()
            await until_summarised(household, conversation_id, depth)


async def test_a_running_worker_finds_what_other_processes_left(household: Household) -> None:
    conversations = [await household.open_conversation() for _ in range(memory.CONCURRENCY + 2)]
    for conversation_id in conversations:
        await household.talk(conversation_id, 4)
    async with running(household.worker):
        for conversation_id in conversations:
            await until_summarised(household, conversation_id, 4)


async def test_a_worker_that_is_stopped_gives_its_conversations_back(database: Database, space_id: int) -> None:
    household = household_with(database, space_id, summarizer=GatedSummarizer())
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 4)
    async with running(household.worker):
        await asyncio.wait_for(household.summarizer.entered.wait(), GENEROUS)
    household.summarizer.gate.set()
    assert await household.worker.drain() == 1
    assert len(household.summarizer.folded) == 4


async def test_a_worker_outlives_its_database(
    postgres: PostgresServer, database_url: str, space_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    name = database_url.rsplit("/", 1)[1].split("?")[0]
    async with open_database(DatabaseSettings(url=database_url, connect_timeout=0.2)) as database:
        household = household_with(database, space_id)
        conversation_id = await household.open_conversation()
        failed = asyncio.Event()
        tasks = household.worker._tasks
        claim = tasks.claim

        async def watched(limit: int, lease: timedelta) -> Any:
            try:
                return await claim(limit, lease)
            except Exception:
                failed.set()
                raise

        monkeypatch.setattr(tasks, "claim", watched)
        async with (
            running(household.worker) as task,
            await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as administrator,
        ):
            await administrator.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            await administrator.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
            )
            await asyncio.wait_for(failed.wait(), GENEROUS)
            await administrator.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
            async with asyncio.timeout(GENEROUS):
                while True:
                    with suppress(Exception):
                        await household.talk(conversation_id, 4)
                        break
            await until_summarised(household, conversation_id, 4)
            assert not task.done()


async def test_what_the_worker_embedded_is_found_again(household: Household) -> None:
    first = await household.open_conversation()
    await household.finish(await household.send(first, "my sister lives in Lisbon"), "Good to know.")
    await household.worker.drain()
    second = await household.open_conversation()
    context = await household.preview(second, "where lives my sister")
    assert [hit.text for hit in context.report.hits] == ["my sister lives in Lisbon", "Good to know."]


async def test_a_task_that_is_done_is_taken_again_only_for_new_work(household: Household) -> None:
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 1)
    assert await household.worker.drain() == 1
    assert await MemoryTasks(household.database).claim(10, memory.LEASE) == []
    await household.talk(conversation_id, 1)
    assert await household.worker.drain() == 1
