"""Several endpoints over real HTTP: who answers when one fails, and that a reply is of one endpoint alone."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatrpc.errors import ModelRejected, Reason, Unavailable
from chatrpc.models.chat import build_chat_model
from chatrpc.ports import ChatModel, TextDelta
from chatrpc.settings import ModelSettings
from tests.models.chat.conftest import run
from tests.support.prompts import model_request
from tests.support.provider import Answer, Fault, Provider

Build = Callable[..., ChatModel]
BUSY = Answer(status=429, headers={"retry-after": "20"})


@pytest.fixture
async def second() -> AsyncIterator[Provider]:
    async with Provider() as running:
        yield running


@pytest.fixture
async def build(provider: Provider, second: Provider) -> AsyncIterator[Build]:
    """Builds a model at `provider`, with `second` as its fallback unless others are given."""
    async with AsyncExitStack() as stack:

        def build(**values: Any) -> ChatModel:
            fallback = {"base_url": second.base_url, "api_key": "second-key", "name": "spare", "label": "second"}
            settings = {"base_url": provider.base_url, "api_key": "secret-key", "name": "scripted", "max_retries": 0}
            model = build_chat_model(ModelSettings.model_validate({**settings, "fallbacks": [fallback], **values}))
            stack.push_async_callback(model.aclose)
            return model

        yield build


@pytest.mark.parametrize(
    "failure",
    [
        BUSY,
        Answer(status=500),
        Answer(status=401),
        Answer(deltas=(), fault=Fault.CUT),
        Answer(deltas=(), fault=Fault.MALFORMED_JSON),
        Answer(deltas=(), fault=Fault.ERROR_EVENT),
    ],
    ids=["429", "500", "wrong-key", "cut", "malformed", "error-event"],
)
async def test_the_next_endpoint_answers_and_is_named(
    provider: Provider, second: Provider, build: Build, failure: Answer
) -> None:
    provider.script(failure)
    text, finished = await run(build(), model_request("Hi"))
    assert (text, finished.model) == ("You said: Hi", "spare")
    request = await second.received()
    assert request.headers["authorization"] == "Bearer second-key"
    assert request.body["model"] == "spare"


async def test_an_endpoint_that_is_not_there_is_passed_over(build: Build) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        model = build(base_url=f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
        assert (await run(model, model_request("Hi")))[1].model == "spare"


async def test_an_endpoint_that_hangs_leaves_half_the_time_to_the_next(
    provider: Provider, second: Provider, build: Build
) -> None:
    provider.script(Answer(fault=Fault.HANG))
    second.script(Answer(fault=Fault.HANG))
    with pytest.raises(Unavailable, match="no token within"):
        await run(build(first_token_timeout=0.4), model_request("Hi"))
    await (await provider.received()).wait_closed()
    await (await second.received()).wait_closed()


async def test_a_healthy_endpoint_is_not_left(provider: Provider, second: Provider, build: Build) -> None:
    _, finished = await run(build(), model_request("Hi"))
    assert finished.model == "scripted"
    assert not second.requests


async def test_a_retry_comes_before_the_fallback_but_no_long_wait_does(
    provider: Provider, second: Provider, build: Build
) -> None:
    provider.script(Answer(status=500), Answer())
    assert (await run(build(max_retries=1), model_request("Hi")))[1].model == "scripted"
    provider.script(BUSY)
    assert (await run(build(max_retries=1), model_request("Hi")))[1].model == "spare"


async def test_after_the_first_token_no_other_endpoint_is_asked(
    provider: Provider, second: Provider, build: Build
) -> None:
    provider.script(Answer(fault=Fault.CUT))
    with pytest.raises(Unavailable, match="cut the reply off"):
        await run(build(), model_request("Hi"))
    assert not second.requests


async def test_a_refused_request_is_not_asked_elsewhere(provider: Provider, second: Provider, build: Build) -> None:
    provider.script(Answer(status=400))
    with pytest.raises(ModelRejected):
        await run(build(), model_request("Hi"))
    assert not second.requests


async def test_the_endpoint_is_named_where_the_model_does_not_tell(
    provider: Provider, second: Provider, build: Build
) -> None:
    provider.script(BUSY, BUSY)
    fallback = {"base_url": second.base_url, "name": "scripted"}
    _, finished = await run(build(fallbacks=[{**fallback, "label": "Zurich"}]), model_request("Hi"))
    assert finished.model == "scripted@Zurich"
    _, finished = await run(build(fallbacks=[fallback]), model_request("Hi"))
    assert finished.model == f"scripted@{second.base_url.removeprefix('http://').removesuffix('/v1')}"


async def test_a_requested_model_has_a_fallback_of_its_own(provider: Provider, second: Provider, build: Build) -> None:
    provider.answer = lambda _: BUSY
    model = build(fallbacks=[{"base_url": second.base_url, "name": "small", "models": {"big": "large"}}])
    assert (await run(model, model_request("Hi", model="big")))[1].model == "large"
    assert (await run(model, model_request("Hi", model="other")))[1].model == "small"


async def test_another_model_of_the_same_endpoint_can_be_the_fallback(provider: Provider, build: Build) -> None:
    provider.script(Answer(status=500), Answer())
    _, finished = await run(build(fallbacks=[{"name": "spare"}]), model_request("Hi"))
    assert finished.model == "spare"
    assert [request.body["model"] for request in provider.requests] == ["scripted", "spare"]
    assert provider.requests[1].headers["authorization"] == "Bearer secret-key"


async def test_the_main_key_is_never_sent_to_another_endpoint(
    provider: Provider, second: Provider, build: Build
) -> None:
    provider.script(BUSY)
    await run(build(fallbacks=[{"base_url": second.base_url, "name": "spare"}]), model_request("Hi"))
    assert "secret-key" not in (await second.received()).headers["authorization"]


async def test_a_fallback_with_too_small_a_window_is_left_out(
    provider: Provider, second: Provider, build: Build
) -> None:
    provider.answer = lambda _: BUSY
    profiles = {"spare": {"context_window": 1_024, "output_reserve": 100}}
    model = build(profiles=profiles, context_window=100_000)
    with pytest.raises(Unavailable, match="HTTP 429"):
        await run(model, model_request("word " * 2_000))
    assert not second.requests
    await run(model, model_request("word " * 20))
    assert (await second.received()).body["max_tokens"] == 100


async def test_an_endpoint_that_keeps_failing_is_left_alone_and_then_probed(
    provider: Provider, second: Provider, build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build(breaker_failures=2, breaker_pause=0.05)
    provider.script(Answer(status=500), Answer(status=500))
    for _ in range(3):
        assert (await run(model, model_request("Hi")))[1].model == "spare"
    async with asyncio.timeout(20):
        while (await run(model, model_request("Hi")))[1].model != "scripted":
            pass
    printed = capsys.readouterr().out
    assert printed.count("model_endpoint_unhealthy") == 1
    assert printed.count("model_endpoint_healthy") == 1


async def test_requests_that_are_refused_do_not_make_an_endpoint_unhealthy(provider: Provider, build: Build) -> None:
    model = build(breaker_failures=1, fallbacks=[])
    provider.script(Answer(status=400), Answer(status=404))
    for _ in range(2):
        with pytest.raises(ModelRejected):
            await run(model, model_request("Hi"))
    await run(model, model_request("Hi"))


async def test_readers_that_leave_do_not_make_an_endpoint_unhealthy(provider: Provider, build: Build) -> None:
    model = build(breaker_failures=1, fallbacks=[])
    for _ in range(3):
        stream = model.stream(model_request("one two three"))
        await anext(stream)
        await stream.aclose()
    await run(model, model_request("Hi"))


async def test_with_every_circuit_open_nobody_is_asked_and_the_wait_is_told(
    provider: Provider, second: Provider, build: Build
) -> None:
    provider.script(Answer(status=500))
    second.script(Answer(status=500))
    model = build(breaker_failures=1, breaker_pause=60)
    for sentence in ("HTTP 500", "has been failing"):
        with pytest.raises(Unavailable, match=sentence) as caught:
            await run(model, model_request("Hi"))
    assert caught.value.reason is Reason.MODEL_UNAVAILABLE
    assert 50 < caught.value.retry_after <= 60
    assert (len(provider.requests), len(second.requests)) == (1, 1)


FAILURES = st.sampled_from(
    [
        Answer(status=500),
        BUSY,
        Answer(deltas=(), fault=Fault.CUT),
        Answer(deltas=(), fault=Fault.MALFORMED_SHAPE),
        Answer(fault=Fault.CUT),
        Answer(fault=Fault.END_EARLY),
        Answer(fault=Fault.MALFORMED_JSON),
        Answer(fault=Fault.ERROR_EVENT),
        Answer(),
    ]
)


@settings(max_examples=30, deadline=None)
@given(scripts=st.lists(st.lists(FAILURES, min_size=4, max_size=4), min_size=3, max_size=3), retries=st.integers(0, 1))
async def test_a_reply_never_holds_the_text_of_two_attempts(scripts: Sequence[Sequence[Answer]], retries: int) -> None:
    async with AsyncExitStack() as stack:
        providers = [await stack.enter_async_context(Provider()) for _ in scripts]
        served = 0

        def answers(failures: Sequence[Answer], place: int) -> Callable[[dict[str, Any]], Answer]:
            left = iter(failures)

            def answer(_: dict[str, Any]) -> Answer:
                nonlocal served
                served += 1
                failure = next(left, Answer())
                label = f"{place}.{served} "
                return Answer(
                    deltas=tuple(label for _ in failure.deltas),
                    fault=failure.fault,
                    status=failure.status,
                    headers=failure.headers,
                )

            return answer

        for place, (provider, script) in enumerate(zip(providers, scripts, strict=True)):
            provider.answer = answers(script, place)
        model = build_chat_model(
            ModelSettings(
                base_url=providers[0].base_url,
                name="model-0",
                max_retries=retries,
                breaker_failures=2,
                breaker_pause=0.01,
                fallbacks=tuple({"base_url": providers[i].base_url, "name": f"model-{i}"} for i in (1, 2)),  # type: ignore[misc]
            )
        )
        stack.push_async_callback(model.aclose)
        for _ in range(4):
            before, labels, name = served, set(), None
            try:
                async for event in model.stream(model_request("Hi")):
                    if isinstance(event, TextDelta):
                        labels |= set(event.text.split())
                    else:
                        name = event.model
            except Unavailable:
                pass
            assert len(labels) <= 1
            # What was told came from the last endpoint that was asked, and it is the one that is named.
            for label in labels:
                endpoint, _, number = label.partition(".")
                assert int(number) == served > before
                assert name in (None, f"model-{endpoint}")


async def test_of_two_failures_the_one_that_passes_is_told(provider: Provider, second: Provider, build: Build) -> None:
    provider.script(Answer(status=500))
    second.script(Answer(status=401))
    with pytest.raises(Unavailable, match="HTTP 500"):
        await run(build(), model_request("Hi"))


@pytest.mark.parametrize(
    ("status", "given", "named"),
    [
        (401, {"api_key": "second-key"}, "the api_key of 'second' in CHATRPC_MODEL_FALLBACKS"),
        (403, {"api_key_variable": "SECOND_KEY"}, "SECOND_KEY"),
        (404, {"api_key": "second-key"}, "the base_url of 'second' in CHATRPC_MODEL_FALLBACKS"),
    ],
)
async def test_what_a_fallback_refuses_is_told_with_its_own_setting(
    provider: Provider,
    second: Provider,
    build: Build,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    given: dict[str, str],
    named: str,
) -> None:
    monkeypatch.setenv("SECOND_KEY", "second-key")
    provider.script(Answer(status=401))
    second.script(Answer(status=status))
    fallback = {"base_url": second.base_url, "name": "spare", "label": "second", **given}
    with pytest.raises(ModelRejected, match=f"check {named} ") as caught:
        await run(build(fallbacks=[fallback]), model_request("Hi"))
    assert "CHATRPC_MODEL_API_KEY" not in str(caught.value)
    assert "CHATRPC_MODEL_BASE_URL" not in str(caught.value)


async def test_a_fallback_of_the_main_endpoint_is_told_with_the_main_setting(provider: Provider, build: Build) -> None:
    provider.script(Answer(status=401), Answer(status=401))
    with pytest.raises(ModelRejected, match="check CHATRPC_MODEL_API_KEY "):
        await run(build(fallbacks=[{"name": "spare"}]), model_request("Hi"))
