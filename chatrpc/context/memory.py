"""The background work behind the contexts: messages are embedded, and the oldest are folded into the summary.

All of it stands off the reply path. A task is claimed in a transaction of its own and no connection is held over a
model call. Whatever fails is tried again later, with growing pauses, while what was there before keeps serving: a
late summary makes the verbatim part of a prompt longer, a late vector is not found yet.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog

from chatrpc.context.fold import Folder
from chatrpc.db.memory import MemoryTask, MemoryTasks
from chatrpc.db.recall import Recall
from chatrpc.db.summaries import Summaries
from chatrpc.db.vectors import NewVector, VectorStore
from chatrpc.domain import Message
from chatrpc.errors import ChatError, SummaryRefused
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
POLL_SECONDS = 1.0
"""Pause between two looks for work that other processes left."""
LONGEST_PAUSE = timedelta(minutes=5)
"""Between two tries of a task, or of a database that is away, the pauses double from a second up to this."""

_MESSAGES_AT_ONCE = 64
_PASSAGES_AT_ONCE = 64
# Splitting reads 1,000 characters in about 0.1 ms, so a longer text would hold up the event loop noticeably.
_LONG_TEXT = 20_000

log = structlog.get_logger(__name__)


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
    def text(self) -> str:
        start, end = self.span
        return embedding_text(self.message.role, self.message.text[start:end])


class MemoryWorker:
    """Embeds and summarises conversations as they become due; several processes may each run one.

    Args:
        space_id: The embedder's space in the database.
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
    ) -> None:
        self._tasks = tasks
        self._vectors = vectors
        self._folder = Folder(summaries, recall, summarizer, context)
        self._embedder = embedder
        self._space_id = space_id
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look for work at once: a turn of this process has finished."""
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled. No error ends it; conversations under way when it is cancelled are given back."""
        running: set[asyncio.Task[None]] = set()
        failures = 0
        try:
            while True:
                self._woken.clear()
                try:
                    claimed = await self._claim(CONCURRENCY - len(running))
                    failures = 0
                except Exception as error:  # noqa: BLE001 - the worker outlives every fault of a look for work.
                    failures += 1
                    _log_failure("memory_claim_failed", error, attempts=failures)
                    claimed = []
                for task in claimed:
                    work = asyncio.create_task(self._work(task), name=f"memory of {task.conversation_id}")
                    running.add(work)
                    work.add_done_callback(running.discard)
                    work.add_done_callback(lambda _: self._woken.set())
                await self._pause(failures)
        finally:
            for work in running:
                work.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def drain(self) -> int:
        """Work until nothing is due and return the number of tasks taken; those that fail are not due for a while."""
        taken = 0
        while claimed := await self._claim(CONCURRENCY):
            await asyncio.gather(*(self._work(task) for task in claimed))
            taken += len(claimed)
        return taken

    async def _claim(self, limit: int) -> list[MemoryTask]:
        return await self._tasks.claim(limit, LEASE) if limit else []

    async def _pause(self, failures: int) -> None:
        """Wait for a reason to look again; a database that is away is not asked sooner because a turn has ended."""
        if failures:
            await asyncio.sleep(_backoff(failures).total_seconds())
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await self._woken.wait()

    async def _work(self, task: MemoryTask) -> None:
        """Do a task and give it back, however it ends."""
        watermark = _Watermark(task.embedded_sequence)
        pause: timedelta | None = _backoff(task.attempts)
        try:
            failures = await self._remember(task, watermark)
            for error in failures:
                _log_failure(
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
            _log_failure("memory_give_back_failed", error, conversation_id=str(task.conversation_id))

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
        room = self._embedder.space.max_tokens - TEMPLATE_TOKENS
        if len(text) <= _LONG_TEXT:
            spans = split_passages(text, room, estimate_tokens)
        else:
            spans = await asyncio.to_thread(split_passages, text, room, estimate_tokens)
        return [_Passage(message, number, span) for number, span in enumerate(spans)]

    async def _store(self, task: MemoryTask, passages: Sequence[_Passage]) -> None:
        if not passages:
            return
        vectors = await self._embedder.embed([passage.text for passage in passages])
        await self._vectors.add(
            task.user_id,
            self._space_id,
            [
                NewVector(passage.message.id, passage.message.conversation_id, passage.number, passage.span, vector)
                for passage, vector in zip(passages, vectors, strict=True)
            ],
        )


def _backoff(attempts: int) -> timedelta:
    """The pause after so many tries in a row: one second, doubling."""
    return min(timedelta(seconds=2 ** min(attempts - 1, 20)), LONGEST_PAUSE)


def _log_failure(event: str, error: BaseException, **details: object) -> None:
    """Log what is expected to happen, such as an outage, in a line, and a fault of ours with its trace."""
    if isinstance(error, ChatError | SummaryRefused | TimeoutError):
        log.warning(event, problem=str(error) or type(error).__name__, **details)
    else:
        log.error(event, exc_info=error, **details)
