"""Tool calls over the wire: what is declared, how the pieces of calls are put together, and how results go back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import TypeAdapter

from chatrpc.context.exchange import reply_prompts
from chatrpc.domain import (
    FinishReason,
    PromptMessage,
    Section,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolMode,
    ToolResultPart,
)
from chatrpc.errors import Unavailable
from chatrpc.models.chat.openai_body import joined
from chatrpc.models.chat.openai_stream import CallCollector, CallPiece
from chatrpc.ports import ChatModel, ModelEvent, ModelFinished, ModelRequest, TextDelta, ToolCalled
from tests.models.chat.conftest import BuildModel
from tests.support.prompts import model_request
from tests.support.provider import Answer, Fault, Provider

CITY = '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}'
WEATHER = Tool("weather", "Tells the weather of a city.", CITY)
CLOCK = Tool("clock", "Tells the time.")


def with_tools(query: str = "Hi", **fields: Any) -> ModelRequest:
    return replace(model_request(query), tools=(WEATHER, CLOCK), **fields)


async def events_of(model: ChatModel, request: ModelRequest) -> list[ModelEvent]:
    return [event async for event in model.stream(request)]


async def test_declared_tools_are_what_the_protocol_wants(provider: Provider, build_model: BuildModel) -> None:
    await events_of(build_model(), with_tools())
    body = (await provider.received()).body
    TypeAdapter(list[ChatCompletionToolParam]).validate_python(body["tools"])
    [weather, clock] = [tool["function"] for tool in body["tools"]]
    assert weather == {"name": "weather", "description": WEATHER.description, "parameters": json.loads(CITY)}
    assert clock["parameters"] == {"type": "object", "properties": {}}
    assert "tool_choice" not in body


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (ToolChoice(ToolMode.AUTO), "auto"),
        (ToolChoice(ToolMode.NONE), "none"),
        (ToolChoice(ToolMode.REQUIRED), "required"),
        (ToolChoice(ToolMode.REQUIRED, "clock"), {"type": "function", "function": {"name": "clock"}}),
    ],
)
async def test_the_choice_is_sent(provider: Provider, build_model: BuildModel, choice: ToolChoice, sent: Any) -> None:
    await events_of(build_model(), with_tools(tool_choice=choice))
    assert (await provider.received()).body["tool_choice"] == sent


async def test_without_tools_nothing_is_said_of_them(provider: Provider, build_model: BuildModel) -> None:
    await events_of(build_model(), model_request("Hi"))
    assert not {"tools", "tool_choice", "response_format"} & (await provider.received()).body.keys()


async def test_a_response_schema_is_asked_for(provider: Provider, build_model: BuildModel) -> None:
    await events_of(build_model(), replace(model_request("Hi"), response_schema=CITY))
    assert (await provider.received()).body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": json.loads(CITY)},
    }


async def test_calls_come_whole_after_the_text_and_before_the_end(provider: Provider, build_model: BuildModel) -> None:
    calls = (("weather", '{"city": "São Paulo"}'), ("clock", "{}"))
    provider.script(Answer(deltas=("Let me ", "see."), calls=calls))
    *texts, first, second, finished = await events_of(build_model(), with_tools())
    assert texts == [TextDelta("Let me "), TextDelta("see.")]
    assert [first, second] == [ToolCalled(*call) for call in calls]
    assert isinstance(finished, ModelFinished)
    assert finished.reason is FinishReason.STOP


async def test_a_piece_of_a_call_counts_as_the_first_token(provider: Provider, build_model: BuildModel) -> None:
    provider.script(Answer(deltas=(), calls=(("weather", '{"city"'),), fault=Fault.CUT))
    with pytest.raises(Unavailable):
        await events_of(build_model(max_retries=3), with_tools())
    assert len(provider.requests) == 1


async def test_a_call_that_was_cut_off_is_not_told(provider: Provider, build_model: BuildModel) -> None:
    provider.script(Answer(calls=(("weather", '{"city": "Rome"}'),), fault=Fault.END_EARLY))
    stream = build_model().stream(with_tools())
    told = [await anext(stream) for _ in Answer().deltas]
    assert all(isinstance(event, TextDelta) for event in told)
    with pytest.raises(Unavailable):
        await anext(stream)


async def test_usage_that_is_not_told_counts_the_calls(provider: Provider, build_model: BuildModel) -> None:
    provider.script(Answer(deltas=(), calls=(("weather", '{"city": "Rome"}'),), usage=None))
    *_, finished = await events_of(build_model(), with_tools())
    assert isinstance(finished, ModelFinished)
    assert finished.usage.estimated
    assert finished.usage.completion_tokens > 4


def piece(index: int | None, call_id: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    return {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    "pieces",
    [
        [piece(0, "a", "one", '{"x":'), piece(1, "b", "two", "{}"), piece(0, None, None, "1}")],
        [piece(0, "a", "one", '{"x":'), piece(0, "a", None, "1}"), piece(1, "b", "two", "{}")],
        [piece(None, "a", "one", '{"x":1}'), piece(None, "b", "two", "{}")],
        [piece(None, None, "one", '{"x":1}'), piece(None, None, "two", "{}")],
        [piece(None, "a", "one", '{"x":'), piece(None, None, None, "1}"), piece(None, "b", "two", "{}")],
        # Some servers count every call of a round as number 0.
        [piece(0, "a", "one", '{"x":1}'), piece(0, "b", "two", "{}")],
    ],
    ids=["interleaved", "id-repeated", "whole-by-id", "whole-without-id", "without-index", "index-always-0"],
)
def test_pieces_are_put_together_however_a_server_numbers_them(pieces: Sequence[Mapping[str, Any]]) -> None:
    collector = CallCollector()
    for each in pieces:
        collector.take([CallPiece.model_validate(each)])
    assert collector.calls() == [ToolCalled("one", '{"x":1}'), ToolCalled("two", "{}")]


def test_a_call_without_arguments_is_a_call() -> None:
    collector = CallCollector()
    collector.take([CallPiece.model_validate({"index": 0, "id": "a", "function": {"name": "clock"}})])
    assert collector.calls() == [ToolCalled("clock", "")]


def test_u0000_of_a_model_does_not_pass() -> None:
    collector = CallCollector()
    collector.take([CallPiece.model_validate(piece(0, "a", "one", '{"x": "\0"}'))])
    assert collector.calls() == [ToolCalled("one", '{"x": "\ufffd"}')]


CALL, OTHER = ToolCallPart("c00000001", "weather", '{"city": "Rome"}'), ToolCallPart("c00000002", "clock", "{}")


def sent(*parts: Any) -> list[dict[str, Any]]:
    before = PromptMessage("user", "Weather?", Section.QUERY, (UUID(int=1),))
    return joined((before, *reply_prompts(parts, Section.VERBATIM)))


def test_rounds_are_sent_as_the_protocol_defines_them() -> None:
    rain, noon = ToolResultPart(CALL.id, "Rain."), ToolResultPart(OTHER.id, "Noon.")
    function = {"name": "weather", "arguments": '{"city": "Rome"}'}
    # Results that came in another order than the calls.
    assert sent(TextPart("Let me see."), CALL, OTHER, noon, rain, TextPart("It rains.")) == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"id": CALL.id, "type": "function", "function": function},
                {"id": OTHER.id, "type": "function", "function": {"name": "clock", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": CALL.id, "content": "Rain."},
        {"role": "tool", "tool_call_id": OTHER.id, "content": "Noon."},
        {"role": "assistant", "content": "It rains."},
    ]


def test_two_rounds_are_two_messages_with_calls() -> None:
    messages = sent(CALL, ToolResultPart(CALL.id, "Rain."), OTHER, ToolResultPart(OTHER.id, "Noon."))
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant", "tool"]


def test_a_call_that_was_never_answered_has_a_result_all_the_same() -> None:
    messages = sent(CALL, OTHER, ToolResultPart(OTHER.id, "Noon."))
    assert [message["content"] for message in messages[2:]] == ["No result came.", "Noon."]


def test_arguments_that_are_no_object_are_not_sent_back() -> None:
    broken = replace(CALL, arguments='{"city": ', problem="Not JSON.")
    messages = sent(broken, ToolResultPart(broken.id, "Not JSON.", failed=True))
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == "{}"


RESULTS = st.builds(lambda call, text: (call, text), st.booleans(), st.text(max_size=20))


@given(st.lists(st.tuples(st.text(max_size=5), st.lists(RESULTS, max_size=3)), max_size=4))
def test_whatever_a_reply_holds_every_call_is_followed_by_its_one_result(
    rounds: list[tuple[str, list[tuple[bool, str]]]],
) -> None:
    parts: list[TextPart | ToolCallPart | ToolResultPart] = []
    number = 0
    for text, calls in rounds:
        parts += [TextPart(text)] if text else []
        made = [ToolCallPart(f"c{number + offset}", "clock", "{}") for offset in range(len(calls))]
        number += len(calls)
        parts += made
        parts += [
            ToolResultPart(call.id, content) for call, (answered, content) in zip(made, calls, strict=True) if answered
        ]
    messages = sent(*parts)
    TypeAdapter(list[ChatCompletionMessageParam]).validate_python(messages)
    open_calls: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] == open_calls.pop(0)
        else:
            assert not open_calls
            open_calls = [call["id"] for call in message.get("tool_calls") or ()]
    assert not open_calls
    assert sum(len(message.get("tool_calls") or ()) for message in messages) == number
    assert "".join(message["content"] or "" for message in messages if message["role"] == "assistant") == "".join(
        part.text for part in parts if isinstance(part, TextPart)
    )
