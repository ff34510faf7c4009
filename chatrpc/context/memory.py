"""The background work behind the contexts: messages are embedded, and the oldest are folded into the summary.

All of it stands off the reply path. A task is claimed in a transaction of its own and no connection is held over a
model call. Whatever fails is tried again later, with growing pauses, while what was there before keeps serving: a
late summary makes the verbatim part of a prompt longer, a late vector is not found yet.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from chatrpc.context.background import WorkLoop, backoff, log_failure
from chatrpc.context.fold import BudgetOf, Folder
from chatrpc.context.retrieval.lexicon import terms
from chatrpc.db.memory import MemoryTask, MemoryTasks
from chatrpc.db.recall import Recall
from chatrpc.db.summaries import Summaries
from chatrpc.db.vectors import NewVector, VectorStore
from chatrpc.domain import Message
from chatrpc.models.embedding.metered import embed_metered
from chatrpc.models.embedding.passages import split_passages
from chatrpc.models.embedding.template import TEMPLATE_TOKENS, embedding_text
from chatrpc.ports import Embedder, Summarizer
from chatrpc.settings import ContextSettings
from chatrpc.tokens import estimate_tokens

LEASE = timedelta(minutes=5)
"""How long a claim lasts; work that takes longer is broken off and tried again. If a process dies, its conversations
wait so long for another to take them over."""
CONCURRENCY = 4
"""Conversations that one process works on at a time."""

_MESSAGES_AT_ONCE = 64
_PASSAGES_AT_ONCE = 64
# Of a longer text a vector tells less of each sentence, and no index entry holds the terms of a longer one.
_PASSAGE_TOKENS = 512
# Splitting reads 1,000 characters in about 0.1 ms, so a longer text would hold up the event loop noticeably.
_LONG_TEXT = 20_000


@dataclass(slots=True)
class _Watermark:
    """The sequence through which a conversation's messages are embedded."""

    sequence: int


@dataclass(frozen=True, slots=True)
class _Passage:
    """A piece of a message that is embedded as one text."""

    message: Message
    number: int
    span: tuple[int, int]

    @property
    def said(self) -> str:
        start, end = self.span
        return self.message.text[start:end]

    @property
    def text(self) -> str:
        return embedding_text(self.message.role, self.said)


class MemoryWorker:
    """Embeds and summarises conversations as they become due; several processes may each run one.

    Args:
        space_id: The embedder's space in the database.
        budget_of: Tokens that a prompt may cost for the model of a conversation.
    """

    def __init__(
        self,
        tasks: MemoryTasks,
        vectors: VectorStore,
        summaries: Summaries,
        recall: Recall,
        embedder: Embedder,
        summarizer: Summarizer,
        space_id: int,
        context: ContextSettings,
        budget_of: BudgetOf,
    ) -> None:
        self._tasks = tasks
        self._vectors = vectors
        self._folder = Folder(summaries, recall, summarizer, context, budget_of)
        self._embedder = embedder
        self._space_id = space_id
        self._loop = WorkLoop("memory", self._claim, self._work, CONCURRENCY)

    def wake(self) -> None:
        """Look for work at once: a turn of this process has finished."""
        self._loop.wake()

    async def run(self) -> None:
        """Work until cancelled. No error ends it; conversations under way when it is cancelled are given back."""
        await self._loop.run()

    async def drain(self) -> int:
        """Work until nothing is due and return the number of tasks taken; those that fail are not due for a while."""
        return await self._loop.drain()

    async def _claim(self, limit: int) -> list[MemoryTask]:
        return await self._tasks.claim(limit, LEASE)

    async def _work(self, task: MemoryTask) -> None:
        """Do a task and give it back, however it ends."""
        watermark = _Watermark(task.embedded_sequence)
        pause: timedelta | None = backoff(task.attempts)
        try:
            failures = await self._remember(task, watermark)
            for error in failures:
                log_failure(
                    "memory_task_failed", error, conversation_id=str(task.conversation_id), attempts=task.attempts
                )
            if not failures:
                pause = None
        except asyncio.CancelledError:
            pause = timedelta(0)
            raise
        finally:
            await self._give_back(task, watermark, pause)

    async def _remember(self, task: MemoryTask, watermark: _Watermark) -> list[BaseException]:
        """Embed and fold, neither waiting for the other: prompts must not grow for want of vectors. What failed."""
        try:
            async with asyncio.timeout(LEASE.total_seconds()):
                outcomes = await asyncio.gather(
                    self._embed(task, watermark), self._folder.fold(task), return_exceptions=True
                )
        except TimeoutError as error:
            return [error]
        return [outcome for outcome in outcomes if outcome is not None]

    async def _give_back(self, task: MemoryTask, watermark: _Watermark, pause: timedelta | None) -> None:
        try:
            if pause is None:
                await self._tasks.complete(task, watermark.sequence)
            else:
                await self._tasks.retry(task, watermark.sequence, pause)
        except Exception as error:  # noqa: BLE001 - the task comes back by itself when its lease is over.
            log_failure("memory_give_back_failed", error, conversation_id=str(task.conversation_id))

    async def _embed(self, task: MemoryTask, watermark: _Watermark) -> None:
        """Embed the finished messages behind the watermark, in groups, and move it past each group.

        It ends with the last whole group and what then follows: messages that come meanwhile have made the task due
        again, and a conversation that never pauses would otherwise never be folded again.
        """
        whole = True
        while whole:
            messages = await self._tasks.unembedded(task, watermark.sequence, _MESSAGES_AT_ONCE)
            whole = len(messages) == _MESSAGES_AT_ONCE
            passages: list[_Passage] = []
            for message in messages:
                passages += await self._split(message)
                if len(passages) >= _PASSAGES_AT_ONCE or message is messages[-1]:
                    await self._store(task, passages)
                    watermark.sequence = message.sequence
                    passages = []

    async def _split(self, message: Message) -> list[_Passage]:
        text = message.text
        if not text.strip():
            return []
        room = min(self._embedder.space.max_tokens, _PASSAGE_TOKENS) - TEMPLATE_TOKENS
        if len(text) <= _LONG_TEXT:
            spans = split_passages(text, room, estimate_tokens)
        else:
            spans = await asyncio.to_thread(split_passages, text, room, estimate_tokens)
        return [_Passage(message, number, span) for number, span in enumerate(spans)]

    async def _store(self, task: MemoryTask, passages: Sequence[_Passage]) -> None:
        if not passages:
            return
        texts = [passage.text for passage in passages]
        vectors, cost = await embed_metered(self._embedder, texts)
        if sum(len(passage.said) for passage in passages) <= _LONG_TEXT:
            counted = _count_terms(passages)
        else:
            counted = await asyncio.to_thread(_count_terms, passages)
        await self._vectors.add(
            task.user_id,
            self._space_id,
            [
                NewVector(p.message.id, p.message.conversation_id, p.number, p.span, vector, held)
                for p, vector, held in zip(passages, vectors, counted, strict=True)
            ],
            cost,
        )


def _count_terms(passages: Sequence[_Passage]) -> list[Counter[str]]:
    return [terms(passage.said) for passage in passages]
