"""The real client against a server that misbehaves: retries, deadlines, clean sentences, and cancellation."""

import asyncio
import email.utils
import socket
import time

import pytest

from chatrpc.domain import FinishReason
from chatrpc.errors import ModelRejected, Reason, Unavailable
from chatrpc.ports import TextDelta
from tests.models.chat.conftest import BuildModel, run
from tests.support.prompts import model_request
from tests.support.provider import Answer, Fault, Provider

HELLO = "Hello, world."


@pytest.mark.parametrize(
    "failure",
    [
        Answer(status=429, headers={"retry-after": "0"}),
        Answer(status=429),
        Answer(status=500),
        Answer(status=503, headers={"retry-after": "0.01"}),
        Answer(deltas=(), fault=Fault.CUT),
        Answer(deltas=(), fault=Fault.END_EARLY),
        Answer(deltas=(), fault=Fault.MALFORMED_JSON),
        Answer(deltas=(), fault=Fault.ERROR_EVENT),
    ],
    ids=["429-now", "429", "500", "503", "cut", "ended", "malformed", "error-event"],
)
async def test_a_failure_before_the_first_token_is_retried(
    provider: Provider, build_model: BuildModel, failure: Answer
) -> None:
    provider.script(failure, Answer())
    text, finished = await run(build_model(), model_request("Hi"))
    assert (text, finished.reason) == (HELLO, FinishReason.STOP)
    assert len(provider.requests) == 2


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault.CUT, "cut the reply off"),
        (Fault.END_EARLY, "cut the reply off"),
        (Fault.MALFORMED_JSON, "sent what is no reply"),
        (Fault.MALFORMED_SHAPE, "sent what is no reply"),
        (Fault.ERROR_EVENT, "failed while it answered"),
    ],
)
async def test_a_failure_after_the_first_token_is_never_retried(
    provider: Provider, build_model: BuildModel, fault: Fault, sentence: str
) -> None:
    provider.script(Answer(fault=fault))
    stream = build_model().stream(model_request("Hi"))
    events = [await anext(stream) for _ in Answer().deltas]
    assert events == [TextDelta(text) for text in Answer().deltas]
    with pytest.raises(Unavailable, match=sentence) as caught:
        await anext(stream)
    assert caught.value.reason is Reason.MODEL_UNAVAILABLE
    assert "secret-key" not in caught.value.message
    assert len(provider.requests) == 1


async def test_a_thought_counts_as_the_first_token(provider: Provider, build_model: BuildModel) -> None:
    thought = {"choices": [{"index": 0, "delta": {"reasoning_content": "Hmm."}, "finish_reason": None}]}
    provider.script(Answer(first_chunks=(thought,), deltas=(), fault=Fault.CUT))
    with pytest.raises(Unavailable):
        await run(build_model(), model_request("Hi"))
    assert len(provider.requests) == 1


async def test_retries_are_bounded(provider: Provider, build_model: BuildModel) -> None:
    provider.answer = lambda _: Answer(status=500)
    with pytest.raises(Unavailable, match="HTTP 500"):
        await run(build_model(max_retries=2), model_request("Hi"))
    assert len(provider.requests) == 3


async def test_no_retry_if_none_is_allowed(provider: Provider, build_model: BuildModel) -> None:
    provider.script(Answer(status=500))
    with pytest.raises(Unavailable):
        await run(build_model(max_retries=0), model_request("Hi"))
    assert len(provider.requests) == 1


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_a_wait_beyond_the_deadline_is_passed_on_instead_of_waited_for(
    provider: Provider, build_model: BuildModel, form: str
) -> None:
    value = "300" if form == "seconds" else email.utils.formatdate(time.time() + 300, usegmt=True)
    provider.script(Answer(status=429, headers={"retry-after": value}))
    with pytest.raises(Unavailable, match="overloaded") as caught:
        await run(build_model(), model_request("Hi"))
    assert 250 < caught.value.retry_after <= 300
    assert len(provider.requests) == 1


@pytest.mark.parametrize("value", ["nan", "-5", "soon", "inf"])
async def test_a_wait_that_makes_no_sense_is_ignored(provider: Provider, build_model: BuildModel, value: str) -> None:
    provider.script(Answer(status=429, headers={"retry-after": value}), Answer())
    assert (await run(build_model(), model_request("Hi")))[0] == HELLO


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_a_refused_request_is_rejected_once_and_without_the_providers_words(
    provider: Provider, build_model: BuildModel, status: int
) -> None:
    provider.script(Answer(status=status, error={"message": "wrong key secret-key", "code": "bad"}))
    with pytest.raises(ModelRejected, match=f"HTTP {status}") as caught:
        await run(build_model(), model_request("Hi"))
    assert caught.value.reason is Reason.MODEL_REJECTED
    assert "secret-key" not in str(caught.value)
    assert "wrong key" not in str(caught.value)
    assert len(provider.requests) == 1


async def test_the_log_says_what_the_provider_said_but_not_the_key(
    provider: Provider, build_model: BuildModel, capsys: pytest.CaptureFixture[str]
) -> None:
    provider.script(Answer(status=401, error={"message": "wrong key secret-key"}))
    with pytest.raises(ModelRejected):
        await run(build_model(), model_request("Hi"))
    printed = capsys.readouterr().out
    assert "wrong key [key]" in printed
    assert "secret-key" not in printed


async def test_an_unknown_model_is_named(provider: Provider, build_model: BuildModel) -> None:
    provider.script(Answer(status=404))
    with pytest.raises(ModelRejected, match="has no model 'gpt-0'"):
        await run(build_model(), model_request("Hi", model="gpt-0"))


async def test_an_endpoint_that_is_not_there_is_unavailable(build_model: BuildModel) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        model = build_model(base_url=f"http://127.0.0.1:{unused.getsockname()[1]}/v1", max_retries=1)
        with pytest.raises(Unavailable, match="cannot be reached"):
            await run(model, model_request("Hi"))


async def test_silence_before_the_first_token_ends_at_its_own_deadline(
    provider: Provider, build_model: BuildModel
) -> None:
    provider.script(Answer(fault=Fault.HANG))
    with pytest.raises(Unavailable, match=r"no token within 0\.2 seconds"):
        await run(build_model(first_token_timeout=0.2), model_request("Hi"))
    await (await provider.received()).wait_closed()
    assert len(provider.requests) == 1


async def test_a_bare_role_is_no_first_token(provider: Provider, build_model: BuildModel) -> None:
    provider.script(Answer(deltas=(), fault=Fault.STALL))
    with pytest.raises(Unavailable, match=r"no token within 0\.2 seconds"):
        await run(build_model(first_token_timeout=0.2, token_timeout=60), model_request("Hi"))


async def test_silence_between_tokens_ends_at_the_other_deadline(provider: Provider, build_model: BuildModel) -> None:
    provider.script(Answer(fault=Fault.STALL))
    with pytest.raises(Unavailable, match=r"silent for 0\.2 seconds"):
        await run(build_model(first_token_timeout=60, token_timeout=0.2), model_request("Hi"))
    await (await provider.received()).wait_closed()


async def test_a_reader_that_takes_its_time_does_not_use_up_the_models(
    provider: Provider, build_model: BuildModel
) -> None:
    provider.script(Answer(deltas=("one ", "two")))
    stream = build_model(token_timeout=0.5).stream(model_request("Hi"))
    assert await anext(stream) == TextDelta("one ")
    await asyncio.sleep(0.6)
    assert await anext(stream) == TextDelta("two")
    await stream.aclose()


async def test_a_server_that_keeps_the_response_open_after_its_end_does_not_keep_the_reply(
    provider: Provider, build_model: BuildModel
) -> None:
    provider.script(Answer(fault=Fault.LINGER))
    text, finished = await run(build_model(token_timeout=3600), model_request("Hi"))
    assert (text, finished.usage.estimated) == (HELLO, False)
    await (await provider.received()).wait_closed()


async def test_only_the_usage_is_lost_when_the_stream_breaks_after_its_finish_reason(
    provider: Provider, build_model: BuildModel
) -> None:
    finish = {"choices": [{"index": 0, "delta": {"content": "Yes."}, "finish_reason": "stop"}]}
    for fault in (Fault.CUT, Fault.STALL, Fault.MALFORMED_JSON):
        provider.script(Answer(first_chunks=(finish,), deltas=(), fault=fault))
        text, finished = await run(build_model(token_timeout=0.2), model_request("Hi"))
        assert (text, finished.reason, finished.usage.estimated) == ("Yes.", FinishReason.STOP, True)


async def test_closing_the_stream_closes_the_providers_connection(provider: Provider, build_model: BuildModel) -> None:
    provider.script(Answer(deltas=("again ",), fault=Fault.ENDLESS))
    stream = build_model().stream(model_request("Hi"))
    assert await anext(stream) == TextDelta("again ")
    await stream.aclose()
    request = await provider.received()
    await request.wait_closed()
    assert not request.done


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.STALL], ids=["before-the-first-token", "between-tokens"])
async def test_cancelling_the_reader_closes_the_providers_connection(
    provider: Provider, build_model: BuildModel, fault: Fault
) -> None:
    provider.script(Answer(fault=fault))
    task = asyncio.create_task(run(build_model(), model_request("Hi")))
    request = await provider.received()
    while fault is Fault.STALL and request.sent < 4:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await request.wait_closed()


async def test_cancelling_during_the_wait_for_a_retry_sends_nothing_more(
    provider: Provider, build_model: BuildModel
) -> None:
    provider.script(Answer(status=429, headers={"retry-after": "30"}))
    task = asyncio.create_task(run(build_model(), model_request("Hi")))
    await provider.received()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(provider.requests) == 1
