"""The real client against a real HTTP server: what it sends, and what it makes of a good answer."""

from uuid import UUID

import pytest

from chatrpc.domain import FinishReason, Sampling, Usage
from tests.models.chat.conftest import BuildModel, run
from tests.support.prompts import model_request
from tests.support.provider import Answer, Provider


async def test_the_request_carries_prompt_model_sampling_and_limit(provider: Provider, build_model: BuildModel) -> None:
    sampling = Sampling(temperature=0.3, top_p=0.9)
    await run(build_model(), model_request("Hi", model="other", sampling=sampling, max_output_tokens=77))
    request = await provider.received()
    assert request.body == {
        "model": "other",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 77,
        "temperature": 0.3,
        "top_p": 0.9,
    }
    assert request.headers["authorization"] == "Bearer secret-key"


async def test_neighbours_of_one_role_are_sent_as_one_message(provider: Provider, build_model: BuildModel) -> None:
    said = ((UUID(int=1), "user", "one"), (UUID(int=2), "assistant", "two"), (UUID(int=3), "user", "three"))
    await run(build_model(), model_request("four", system="Be brief.", summary="So far.", verbatim=said))
    assert (await provider.received()).body["messages"] == [
        {"role": "system", "content": "Be brief.\n\nSo far."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three\n\nfour"},
    ]


async def test_sampling_that_nobody_set_is_left_to_the_provider(provider: Provider, build_model: BuildModel) -> None:
    await run(build_model(), model_request("Hi"))
    body = (await provider.received()).body
    assert body["model"] == "scripted"
    assert not {"temperature", "top_p"} & body.keys()


async def test_credentials_of_the_environment_are_not_sent(
    provider: Provider, build_model: BuildModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "from-the-environment")
    await run(build_model(api_key=None), model_request("Hi"))
    assert "from-the-environment" not in (await provider.received()).headers.values()
    assert "Bearer from-the-environment" not in (await provider.received()).headers.values()


async def test_the_providers_usage_is_taken_with_its_cached_tokens(provider: Provider, build_model: BuildModel) -> None:
    usage = {"prompt_tokens": 90, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 64}}
    provider.script(Answer(usage=usage))
    _, finished = await run(build_model(), model_request("Hi"))
    assert finished.usage == Usage(prompt_tokens=90, cached_tokens=64, completion_tokens=7)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1, "completion_tokens": 7},
        {"prompt_tokens": 90, "completion_tokens": 2**63},
        {"prompt_tokens": 10**30, "completion_tokens": 7},
        {"prompt_tokens": 1.5, "completion_tokens": 7},
        {"prompt_tokens": None, "completion_tokens": "some"},
        {"prompt_tokens": 90, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": -64}},
    ],
)
async def test_a_count_that_cannot_be_is_none_and_costs_no_text(
    provider: Provider, build_model: BuildModel, usage: dict[str, object]
) -> None:
    # Some endpoints count in every chunk.
    first = {"choices": [{"index": 0, "delta": {"content": "Well, "}}], "usage": usage}
    provider.script(Answer(deltas=("yes.",), first_chunks=(first,), usage=usage))
    text, finished = await run(build_model(), model_request("Hi"))
    assert text == "Well, yes."
    assert finished.usage.estimated
    assert 0 < finished.usage.prompt_tokens < 100


async def test_usage_is_estimated_where_the_provider_does_not_count(
    provider: Provider, build_model: BuildModel
) -> None:
    provider.script(Answer(deltas=("four words", " of text"), usage=None))
    _, finished = await run(build_model(), model_request("Hi"))
    assert finished.usage.estimated
    assert finished.usage.completion_tokens >= 4
    assert finished.usage.prompt_tokens >= 4


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("eos_token", FinishReason.STOP),
    ],
)
async def test_finish_reasons_are_the_domains(
    provider: Provider, build_model: BuildModel, reason: str, expected: FinishReason
) -> None:
    provider.script(Answer(finish_reason=reason))
    _, finished = await run(build_model(), model_request("Hi"))
    assert finished.reason is expected


async def test_a_refusal_is_shown_and_finishes_as_filtered(provider: Provider, build_model: BuildModel) -> None:
    refusal = {"choices": [{"index": 0, "delta": {"refusal": "I will not."}, "finish_reason": None}]}
    provider.script(Answer(first_chunks=(refusal,), deltas=()))
    text, finished = await run(build_model(), model_request("Hi"))
    assert text == "I will not."
    assert finished.reason is FinishReason.CONTENT_FILTER


async def test_thoughts_of_a_reasoning_model_are_no_part_of_the_reply(
    provider: Provider, build_model: BuildModel
) -> None:
    thought = {"choices": [{"index": 0, "delta": {"reasoning_content": "Hmm."}, "finish_reason": None}]}
    provider.script(Answer(first_chunks=(thought,), deltas=("Yes.",)))
    text, _ = await run(build_model(), model_request("Hi"))
    assert text == "Yes."


async def test_an_answer_without_words_is_still_an_answer(provider: Provider, build_model: BuildModel) -> None:
    provider.script(Answer(deltas=()))
    text, finished = await run(build_model(), model_request("Hi"))
    assert (text, finished.reason) == ("", FinishReason.STOP)


async def test_connections_are_used_again(provider: Provider, build_model: BuildModel) -> None:
    model = build_model()
    await run(model, model_request("one"))
    await run(model, model_request("two"))
    assert (await provider.received(1)).closed is (await provider.received(2)).closed
