"""The queue in front of a model: what shares an inference, who goes first, and what closing does.

The model here lets each inference wait for the test, so that what waits meanwhile is known.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from chatrpc.errors import Reason, Unavailable
from chatrpc.models.embedding import batching
from chatrpc.models.embedding.batching import BatchingEmbedder
from chatrpc.ports import EmbeddingSpace, Vectors
from tests.support.embedder import word_vector

DIMENSION = 32
PATIENCE = 20
LINUX = sys.platform == "linux"


class GatedEncoder:
    """Reports each chunk that reaches it, and encodes it once it is released."""

    def __init__(self) -> None:
        self.queries: GatedEncoder | None = None
        self.space = EmbeddingSpace("gated", "gated", DIMENSION, floor=0.3, max_tokens=64)
        self.chunks: list[list[str]] = []
        self.threads: set[str] = set()
        self.priorities: list[int] = []
        self.began: list[float] = []
        self.open = threading.Event()
        self._steps: queue.Queue[None] = queue.Queue()
        self._arrived = threading.Semaphore(0)

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.threads.add(threading.current_thread().name)
        self.began.append(time.monotonic())
        if LINUX:
            self.priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        self.chunks.append(list(texts))
        self._arrived.release()
        if not self.open.is_set():
            self._steps.get(timeout=PATIENCE)
        if "poison" in texts:
            raise ArithmeticError("poisoned")
        return np.stack([word_vector(text, DIMENSION) for text in texts])

    async def arrived(self) -> list[str]:
        """The next chunk, once it is in the model."""
        assert await asyncio.to_thread(self._arrived.acquire, timeout=PATIENCE)
        return self.chunks[-1]

    def step(self) -> None:
        self._steps.put(None)

    def release(self) -> None:
        self.open.set()
        self.step()


@pytest.fixture
async def encoder() -> AsyncIterator[GatedEncoder]:
    encoder = GatedEncoder()
    yield encoder
    encoder.release()


@pytest.fixture
async def embedder(encoder: GatedEncoder) -> AsyncIterator[BatchingEmbedder]:
    embedder = await BatchingEmbedder.start(lambda: encoder, max_batch=8)
    yield embedder
    encoder.release()
    await embedder.aclose()


async def submitted(embedder: BatchingEmbedder, *texts: str) -> asyncio.Task[Vectors]:
    """A call of embed that is in the queue."""
    task = asyncio.create_task(embedder.embed(texts))
    await asyncio.sleep(0)
    return task


async def test_all_that_waits_shares_the_next_inference(encoder: GatedEncoder, embedder: BatchingEmbedder) -> None:
    first = await submitted(embedder, "first")
    assert await encoder.arrived() == ["first"]
    waiting = [await submitted(embedder, f"number {n}") for n in range(5)]
    encoder.release()
    assert await encoder.arrived() == [f"number {n}" for n in range(5)]
    for n, call in enumerate(waiting):
        np.testing.assert_array_equal(await call, [word_vector(f"number {n}", DIMENSION)])
    await first


async def test_no_inference_takes_more_texts_than_the_limit(encoder: GatedEncoder, embedder: BatchingEmbedder) -> None:
    encoder.release()
    texts = [f"number {n}" for n in range(100)]
    vectors = await embedder.embed(texts)
    np.testing.assert_array_equal(vectors, [word_vector(text, DIMENSION) for text in texts])
    assert max(len(chunk) for chunk in encoder.chunks) == 8


async def test_long_texts_are_split_into_smaller_inferences(encoder: GatedEncoder, embedder: BatchingEmbedder) -> None:
    encoder.release()
    # Of each, the model reads 64 tokens, which are about 256 characters.
    await embedder.embed([f"{n}" * 100_000 for n in range(8)])
    assert [len(chunk) for chunk in encoder.chunks] == [4, 4]


async def test_a_text_larger_than_an_inference_goes_alone(encoder: GatedEncoder, embedder: BatchingEmbedder) -> None:
    encoder.release()
    encoder.space = EmbeddingSpace("gated", "gated", DIMENSION, floor=0.3, max_tokens=8_192)
    await embedder.embed(["x" * 30_000, "y" * 30_000])
    assert [len(chunk) for chunk in encoder.chunks] == [1, 1]


async def test_texts_of_a_bulk_job_meet_their_like(encoder: GatedEncoder, embedder: BatchingEmbedder) -> None:
    encoder.release()
    texts = ["x" * length for length in (90, 5, 80, 3, 70, 2, 60, 1, 50, 4, 40, 6, 30, 7, 20, 8)]
    await embedder.embed(texts)
    assert [sorted(map(len, chunk)) for chunk in encoder.chunks] == [
        [1, 2, 3, 4, 5, 6, 7, 8],
        [20, 30, 40, 50, 60, 70, 80, 90],
    ]


async def test_questions_pass_between_the_parts_of_a_bulk_job(
    encoder: GatedEncoder, embedder: BatchingEmbedder
) -> None:
    bulk = await submitted(embedder, *(f"bulk {n}" for n in range(10_000)))
    await encoder.arrived()
    first = await submitted(embedder, "first question")
    second = await submitted(embedder, "second question")
    encoder.step()
    assert await encoder.arrived() == ["first question", "second question"]
    third = await submitted(embedder, "third question")
    encoder.step()
    assert all(text.startswith("bulk") for text in await encoder.arrived())
    encoder.release()
    await asyncio.gather(first, second, third)
    assert not bulk.done()
    assert encoder.chunks[3] == ["third question"]
    assert (await bulk).shape == (10_000, DIMENSION)


async def test_bulk_jobs_take_turns(encoder: GatedEncoder, embedder: BatchingEmbedder) -> None:
    one = await submitted(embedder, *("one" for _ in range(24)))
    other = await submitted(embedder, *("other" for _ in range(24)))
    encoder.release()
    await asyncio.gather(one, other)
    assert [chunk[0] for chunk in encoder.chunks] == ["one", "other"] * 3


async def test_a_cancelled_call_is_dropped_and_the_others_go_on(
    encoder: GatedEncoder, embedder: BatchingEmbedder
) -> None:
    bulk = await submitted(embedder, *(f"bulk {n}" for n in range(100)))
    await encoder.arrived()
    unwanted = await submitted(embedder, "unwanted")
    wanted = await submitted(embedder, "wanted")
    for call in (bulk, unwanted):
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    encoder.release()
    np.testing.assert_array_equal(await wanted, [word_vector("wanted", DIMENSION)])
    assert [len(chunk) for chunk in encoder.chunks] == [8, 1]
    assert encoder.chunks[1] == ["wanted"]


async def test_a_failed_inference_fails_its_own_callers_only(encoder: GatedEncoder, embedder: BatchingEmbedder) -> None:
    failing = await submitted(embedder, *("poison" for _ in range(20)))
    await encoder.arrived()
    healthy = await submitted(embedder, "healthy")
    encoder.release()
    with pytest.raises(ArithmeticError):
        await failing
    np.testing.assert_array_equal(await healthy, [word_vector("healthy", DIMENSION)])
    assert len(encoder.chunks) == 2


async def test_closing_ends_the_running_inference_refuses_the_rest_and_ends_the_thread(
    encoder: GatedEncoder, embedder: BatchingEmbedder
) -> None:
    running = await submitted(embedder, "running")
    await encoder.arrived()
    waiting = await submitted(embedder, "waiting")
    closing = asyncio.create_task(embedder.aclose())
    with pytest.raises(Unavailable) as refusal:
        await waiting
    assert refusal.value.reason is Reason.SERVER_DRAINING
    encoder.release()
    np.testing.assert_array_equal(await running, [word_vector("running", DIMENSION)])
    await closing
    with pytest.raises(Unavailable):
        await embedder.embed(["late"])
    assert not encoder.threads & {thread.name for thread in threading.enumerate()}


async def test_closing_refuses_the_rest_of_a_bulk_job(encoder: GatedEncoder, embedder: BatchingEmbedder) -> None:
    bulk = await submitted(embedder, *(f"bulk {n}" for n in range(1_000)))
    await encoder.arrived()
    closing = asyncio.create_task(embedder.aclose())
    encoder.release()
    await closing
    with pytest.raises(Unavailable):
        await bulk
    assert len(encoder.chunks) == 1


async def test_all_inference_is_in_one_thread_of_its_own(encoder: GatedEncoder, embedder: BatchingEmbedder) -> None:
    encoder.release()
    await asyncio.gather(*(embedder.embed([f"number {n}"]) for n in range(50)))
    assert len(encoder.threads) == 1
    assert threading.current_thread().name not in encoder.threads


async def test_a_model_that_cannot_be_loaded_leaves_no_thread() -> None:
    def load() -> GatedEncoder:
        raise ArithmeticError(threading.current_thread().name)

    with pytest.raises(ArithmeticError) as failure:
        await BatchingEmbedder.start(load, max_batch=8)
    for thread in threading.enumerate():
        if thread.name == str(failure.value):
            await asyncio.to_thread(thread.join, PATIENCE)
            assert not thread.is_alive()


async def test_bulk_work_neither_waits_for_questions_nor_lets_them_wait(encoder: GatedEncoder) -> None:
    embedder = await BatchingEmbedder.start(lambda: encoder, max_batch=8, bulk_threads=2)
    bulk = await submitted(embedder.bulk, *(f"bulk {n}" for n in range(100)))
    for _ in range(2):
        assert (await encoder.arrived())[0].startswith("bulk")
    # Both threads of the bulk work are busy, and the question is in the model all the same.
    question = await submitted(embedder, "question")
    await encoder.arrived()
    assert encoder.chunks[2] == ["question"]
    assert len(encoder.chunks) == len(encoder.threads) == 3
    encoder.release()
    for _ in range(2):
        encoder.step()
    np.testing.assert_array_equal(await question, [word_vector("question", DIMENSION)])
    np.testing.assert_array_equal(await bulk, [word_vector(f"bulk {n}", DIMENSION) for n in range(100)])
    # Threads that have nothing to do take up again when something comes.
    assert (await embedder.bulk.embed(["later"])).shape == (1, DIMENSION)
    closed = embedder.bulk
    await embedder.aclose()
    with pytest.raises(Unavailable):
        await closed.embed(["too late"])
    assert not encoder.threads & {thread.name for thread in threading.enumerate()}


async def test_questions_do_not_wait_for_what_is_to_be_remembered(encoder: GatedEncoder) -> None:
    encoder.queries = GatedEncoder()
    embedder = await BatchingEmbedder.start(lambda: encoder, max_batch=8)
    text = await submitted(embedder, "text")
    assert await encoder.arrived() == ["text"]
    # The text is still in its model when the question is in its own.
    question = await submitted(embedder.queries, "question")
    assert await encoder.queries.arrived() == ["question"]
    waiting = await submitted(embedder.queries, "waiting")
    closing = asyncio.create_task(embedder.aclose())
    await asyncio.sleep(0)
    encoder.queries.release()
    encoder.release()
    await closing
    np.testing.assert_array_equal(await question, [word_vector("question", DIMENSION)])
    np.testing.assert_array_equal(await text, [word_vector("text", DIMENSION)])
    with pytest.raises(Unavailable):
        await waiting
    threads = encoder.threads | encoder.queries.threads
    assert len(threads) == 2
    assert not threads & {thread.name for thread in threading.enumerate()}


@pytest.mark.skipif(not LINUX, reason="elsewhere a thread has no priority of its own")
async def test_the_less_urgent_the_work_the_lower_its_priority(encoder: GatedEncoder) -> None:
    encoder.queries = GatedEncoder()
    for each in (encoder, encoder.queries):
        each.release()
    embedder = await BatchingEmbedder.start(lambda: encoder, max_batch=8, bulk_threads=2)
    for each in (embedder.queries, embedder, embedder.bulk):
        await each.embed(["text"])
    await embedder.aclose()
    own = os.getpriority(os.PRIO_PROCESS, 0)
    remembering, bulk = encoder.priorities
    assert encoder.queries.priorities == [own]
    assert own < remembering < bulk


async def test_bulk_work_stands_aside_for_a_turn(encoder: GatedEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder.queries = GatedEncoder()
    encoder.queries.release()
    embedder = await BatchingEmbedder.start(lambda: encoder, max_batch=1, bulk_threads=1)
    bulk = await submitted(embedder.bulk, "first", "second")
    await encoder.arrived()
    asked_at = time.monotonic()
    await embedder.queries.embed(["question"])
    # However short the work was that it has just done.
    monkeypatch.setattr(batching, "_TURN", 0.2)
    monkeypatch.setattr(batching, "_ASIDE", 1e9)
    encoder.release()
    await bulk
    assert encoder.began[1] - asked_at >= 0.2
    # But by less than that where it has hardly worked.
    monkeypatch.setattr(batching, "_TURN", 1e9)
    monkeypatch.setattr(batching, "_ASIDE", 0.0)
    await embedder.bulk.embed(["third", "fourth"])
    await embedder.aclose()


async def test_a_model_that_answers_questions_too_keeps_its_priority(
    encoder: GatedEncoder, embedder: BatchingEmbedder
) -> None:
    encoder.release()
    await embedder.queries.embed(["question"])
    assert embedder.queries is embedder
    assert encoder.priorities == [os.getpriority(os.PRIO_PROCESS, 0)] * LINUX


async def test_a_model_for_one_thread_does_bulk_work_in_it(encoder: GatedEncoder, embedder: BatchingEmbedder) -> None:
    assert embedder.bulk is embedder
