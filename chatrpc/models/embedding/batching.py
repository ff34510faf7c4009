"""The Embedder of every model that runs in this process: threads by urgency, micro-batches, and fair queues."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from chatrpc.errors import Reason, Unavailable
from chatrpc.ports import EmbeddingSpace, Vectors

# About 256 tokens of English. Larger inferences of all-MiniLM-L6-v2 embed no more texts a second (1,024 tokens were
# tried), but whatever shares the thread waits longer: 40 ms with this, 160 ms with four times as much.
_CHUNK_CHARACTERS = 1_024
_CHARACTERS_PER_TOKEN = 4

# How many of Linux's 19 steps work steps back behind all other threads of the machine: what is said is remembered after
# the reply, and should still be found soon; documents have time. A thread that competes for a core gets about a quarter
# of it at 5, and a tenth at 10. Beside turns that are remembered, the event loop waits for a core half as long so.
_REMEMBERING, _BULK = 5, 10

# Priorities do not keep bulk work from filling the processors' caches, which makes a turn take longer. So it stands
# aside for a turn, too: from its question on, so many seconds, but at most so many times as long as it has just
# worked, so that it goes on however many turns there are. With ten turns a second beside an ingest, on two cores, the
# p99 of a reply falls by a quarter, and what is embedded in a second hardly at all; with twice as much, it is half.
_TURN, _ASIDE = 0.04, 2.0


class SentenceEncoder(Protocol):
    """A loaded model. Its methods are called in one thread only, unless told otherwise; never on the event loop."""

    @property
    def space(self) -> EmbeddingSpace: ...

    @property
    def queries(self) -> SentenceEncoder | None:
        """The same model, quicker and as near as questions need it, or None where there is none."""
        ...

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of shape `(len(texts), dimension)`, float32; texts beyond the model's length are cut."""
        ...


@dataclass(slots=True, eq=False)
class _Job:
    """One call of `embed`.

    Attributes:
        order: Rows still to be given to the model, longest text first, so that the next one is popped off the end
            and texts of like length meet in an inference.
        missing: Rows without a vector.
    """

    texts: Sequence[str]
    order: list[int]
    vectors: Vectors
    missing: int
    done: asyncio.Future[Vectors]


class BatchingEmbedder:
    """Implements `chatrpc.ports.Embedder` over a model in this process.

    When its thread becomes free it takes all that waits, up to a limit of texts and of characters. A call that does
    not fit whole gets inferences of its own and goes to the end of the queue after each, so that short calls pass
    between the parts of a bulk job, and none of them starves the other. Calls whose tasks were cancelled are dropped.
    Belongs to the event loop that it was started on.

    Attributes:
        queries: The same model for questions, at full priority in a thread of its own, where the encoder has a quicker
            way for these; itself where it has not. Calls of one do not wait for calls of the other.
        bulk: The same model for work that has time, in threads of low priority, where there are any; else itself.
    """

    def __init__(
        self,
        encoder: SentenceEncoder,
        threads: ThreadPoolExecutor,
        max_batch: int,
        *,
        lanes: int = 1,
        queries: BatchingEmbedder | None = None,
        bulk: BatchingEmbedder | None = None,
        aside_for: BatchingEmbedder | None = None,
    ) -> None:
        self.queries = queries or self
        self.bulk = bulk or self
        self._aside_for = aside_for
        self._asked_at = -math.inf
        self._encoder = encoder
        self._threads = threads
        self._max_batch = max_batch
        self._lanes = lanes
        self._jobs: deque[_Job] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    async def start(
        cls, load: Callable[[], SentenceEncoder], max_batch: int, *, bulk_threads: int = 0
    ) -> BatchingEmbedder:
        """Load the model in the thread that will run it; whatever `load` raises is raised here.

        Args:
            bulk_threads: Threads of low priority for `bulk`, where the encoder can be called in several at once.
        """
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, "chatrpc-embedder")
        queries = bulk = None
        try:
            encoder = await loop.run_in_executor(thread, load)
            if encoder.queries is not None:
                await loop.run_in_executor(thread, _step_back, _REMEMBERING)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        if encoder.queries is not None:
            queries = cls(encoder.queries, ThreadPoolExecutor(1, "chatrpc-query-embedder"), max_batch)
        if bulk_threads:
            threads = ThreadPoolExecutor(bulk_threads, "chatrpc-bulk-embedder", _step_back, (_BULK,))
            bulk = cls(encoder, threads, max_batch, lanes=bulk_threads, aside_for=queries)
        return cls(encoder, thread, max_batch, queries=queries, bulk=bulk)

    @property
    def space(self) -> EmbeddingSpace:
        return self._encoder.space

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """As `Embedder.embed`; Unavailable only once the embedder is closed."""
        if self._closed:
            raise _closed()
        self._asked_at = time.monotonic()
        vectors = np.empty((len(texts), self.space.dimension), np.float32)
        if not texts:
            return vectors
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]), reverse=True)
        job = _Job(texts, order, vectors, len(texts), asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        while len(self._running) < self._lanes:
            self._running.add(asyncio.create_task(self._run()))
        return await job.done

    async def aclose(self) -> None:
        """Let the running inferences end, refuse what waits behind them, and end the threads."""
        every = {self, self.queries, self.bulk}
        for each in every:
            each._refuse()
        for each in every:
            await asyncio.to_thread(each._threads.shutdown)
            await asyncio.gather(*each._running)

    def _refuse(self) -> None:
        self._closed = True
        for job in self._jobs:
            if not job.done.done():
                job.done.set_exception(_closed())
        self._jobs.clear()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while chunk := self._next_chunk():
            if self._lanes > 1:
                # The other lanes go on with the job meanwhile.
                self._requeue(chunk[-1][0])
            texts = [job.texts[row] for job, row in chunk]
            began = time.monotonic()
            try:
                vectors = await loop.run_in_executor(self._threads, self._encoder.encode, texts)
            except Exception as error:  # noqa: BLE001 - each caller of the chunk gets it
                for job in {job for job, _ in chunk}:
                    if not job.done.done():
                        job.done.set_exception(error)
                continue
            for (job, row), vector in zip(chunk, vectors, strict=True):
                job.vectors[row] = vector
                job.missing -= 1
                if not job.missing and not job.done.done():
                    job.done.set_result(job.vectors)
            if self._lanes == 1:
                self._requeue(chunk[-1][0])
            await self._stand_aside(time.monotonic() - began)
        self._running.discard(asyncio.current_task())

    async def _stand_aside(self, worked: float) -> None:
        """Leave the cores to a turn that has just asked a question."""
        if self._aside_for is not None:
            left = self._aside_for._asked_at + _TURN - time.monotonic()
            await asyncio.sleep(min(left, _ASIDE * worked))

    def _requeue(self, job: _Job) -> None:
        """Send what is left of a job behind the calls that came while its part was running."""
        if job.done.done() or not job.order:
            return
        if self._closed:
            job.done.set_exception(_closed())
        else:
            self._jobs.append(job)

    def _next_chunk(self) -> list[tuple[_Job, int]]:
        """The texts of the next inference, taken off the queue; only the last job can have texts left."""
        chunk: list[tuple[_Job, int]] = []
        characters = 0
        while self._jobs and len(chunk) < self._max_batch:
            job = self._jobs[0]
            if job.done.done():
                self._jobs.popleft()
                continue
            fitting, size = self._fitting(job, self._max_batch - len(chunk), _CHUNK_CHARACTERS - characters)
            if chunk and fitting < len(job.order):
                break
            chunk += [(job, job.order.pop()) for _ in range(max(fitting, 1))]
            characters += size
            self._jobs.popleft()
            if job.order or not fitting:
                break
        return chunk

    def _fitting(self, job: _Job, texts: int, characters: int) -> tuple[int, int]:
        """How many of the job's next texts fit, and their characters as far as the model reads them."""
        longest = self.space.max_tokens * _CHARACTERS_PER_TOKEN
        size = 0
        for count, row in enumerate(reversed(job.order[-texts:])):
            grown = size + min(len(job.texts[row]), longest)
            if grown > characters:
                return count, size
            size = grown
        return min(texts, len(job.order)), size


def _step_back(steps: int) -> None:
    """Lower the priority of this thread alone, where the system can."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), steps)


def _closed() -> Unavailable:
    return Unavailable(Reason.SERVER_DRAINING, "The server is shutting down; send the request again.")
