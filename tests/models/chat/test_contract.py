"""What every ChatModel keeps, whoever answers."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from chatrpc.domain import FinishReason, Sampling
from chatrpc.models.chat import build_chat_model
from chatrpc.ports import ChatModel, ModelFinished, TextDelta
from chatrpc.settings import ModelSettings
from tests.models.chat.conftest import BuildModel, run
from tests.support.prompts import model_request


@pytest.fixture(params=["offline", "endpoint"])
async def model(request: pytest.FixtureRequest, build_model: BuildModel) -> AsyncIterator[ChatModel]:
    if request.param == "endpoint":
        yield build_model()
    else:
        offline = build_chat_model(ModelSettings())
        yield offline
        await offline.aclose()


async def test_a_reply_is_text_deltas_that_are_never_empty_and_then_one_finish(model: ChatModel) -> None:
    events = [event async for event in model.stream(model_request("Where do I live?"))]
    assert len(events) > 2
    assert all(isinstance(event, TextDelta) and event.text for event in events[:-1])
    assert isinstance(events[-1], ModelFinished)
    assert events[-1].reason is FinishReason.STOP


async def test_the_finish_names_the_model_that_was_announced(model: ChatModel) -> None:
    _, finished = await run(model, model_request("Hello", model="another"))
    assert finished.model == model.model_name("another")
    _, finished = await run(model, model_request("Hello"))
    assert finished.model == model.model_name(None)


async def test_usage_counts_both_sides(model: ChatModel) -> None:
    _, finished = await run(model, model_request("Hello there"))
    assert finished.usage.prompt_tokens > 0
    assert finished.usage.completion_tokens > 0
    assert finished.usage.cached_tokens <= finished.usage.prompt_tokens


async def test_the_same_request_gets_the_same_reply(model: ChatModel) -> None:
    request = model_request("Hello", sampling=Sampling(temperature=0.0))
    assert (await run(model, request))[0] == (await run(model, request))[0]


async def test_replies_stream_side_by_side(model: ChatModel) -> None:
    replies = await asyncio.gather(*(run(model, model_request(f"Question {number}")) for number in range(8)))
    assert all(finished.reason is FinishReason.STOP for _, finished in replies)


async def test_a_stream_can_be_closed_half_way_and_the_model_still_answers(model: ChatModel) -> None:
    stream = model.stream(model_request("Hello"))
    assert isinstance(await anext(stream), TextDelta)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert (await run(model, model_request("Hello")))[1].reason is FinishReason.STOP


async def test_a_task_that_iterates_can_be_cancelled(model: ChatModel) -> None:
    started = asyncio.Event()

    async def read() -> None:
        async for _ in model.stream(model_request("Hello")):
            started.set()
            await asyncio.sleep(0)

    task = asyncio.create_task(read())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
