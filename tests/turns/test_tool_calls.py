"""Replies that call tools: rounds of calls and results, their limits, and that they are told again as they were."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatrpc.context.exchange import CALL_OVERHEAD, MESSAGE_OVERHEAD, parts_tokens
from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.domain import (
    FinishReason,
    Message,
    MessageState,
    Part,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolMode,
    ToolResultPart,
    TurnSettings,
)
from chatrpc.errors import FailedPrecondition, NotFound, Reason, ResourceExhausted
from chatrpc.turns.event_codec import decode, encode
from chatrpc.turns.events import Completed, ContextBuilt, Delta, Failed, ReplyEvent, Restarted, ToolCall, ToolResult
from chatrpc.turns.rounds import RoundLimits
from tests.support.provider import Answer, Fault, Provider
from tests.turns.conftest import Process, caller, running

PATIENCE = 20.0
CITY = '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}'
TOOLS = (Tool("weather", "Tells the weather of a city.", CITY), Tool("clock", "Tells the time."))
SETTINGS = TurnSettings(tools=TOOLS)
ROME, OSLO = ("weather", '{"city": "Rome"}'), ("weather", '{"city": "Oslo"}')

Carry = Callable[[ToolCallPart], ToolResultPart | None]


def rain(call: ToolCallPart) -> ToolResultPart:
    return ToolResultPart(call.id, f"Rain in {json.loads(call.arguments).get('city', 'general')}.")


async def talk(process: Process, events: Any, carry: Carry = rain) -> list[ReplyEvent]:
    """Read a reply to its end, and answer its calls as they come."""
    told: list[ReplyEvent] = []
    async with asyncio.timeout(PATIENCE):
        async for event in events:
            told.append(event)
            if isinstance(event.event, ToolCall) and not event.event.part.problem:
                result = carry(event.event.part)
                if result is not None:
                    await process.turns.submit_tool_results(process.caller, event.reply_id, [result])
    return told


def kinds(events: list[ReplyEvent]) -> list[type]:
    return [type(event.event) for event in events]


def plain(events: list[ReplyEvent]) -> list[Any]:
    """The events in a form that can be compared: two errors are never equal."""
    return [
        (event.sequence, event.event.error.reason, event.event.message) if isinstance(event.event, Failed) else event
        for event in events
    ]


def reply_of(events: list[ReplyEvent]) -> Message:
    last = events[-1].event
    assert isinstance(last, Completed | Failed)
    return last.message


def reason_of(events: list[ReplyEvent]) -> Reason:
    last = events[-1].event
    assert isinstance(last, Failed)
    return last.error.reason


async def test_calls_go_out_results_come_in_and_the_model_goes_on(process: Process, provider: Provider) -> None:
    provider.script(Answer(deltas=("Let me see. ",), calls=(ROME, OSLO)), Answer(deltas=("It ", "rains.")))
    _, events = await process.send("Weather?", settings=SETTINGS)
    told = await talk(process, events)
    assert kinds(told) == [
        ContextBuilt,
        Delta,
        ToolCall,
        ToolCall,
        ToolResult,
        ToolResult,
        Delta,
        Delta,
        Completed,
    ]
    assert [event.sequence for event in told] == list(range(1, 10))
    reply = reply_of(told)
    assert (reply.state, reply.text) == (MessageState.COMPLETE, "Let me see. It rains.")
    assert [type(part) for part in reply.parts] == [
        TextPart,
        ToolCallPart,
        ToolCallPart,
        ToolResultPart,
        ToolResultPart,
        TextPart,
    ]
    second = (await provider.received(2)).body["messages"]
    assert [message["role"] for message in second[-4:]] == ["user", "assistant", "tool", "tool"]
    assert [message["content"] for message in second[-2:]] == ["Rain in Rome.", "Rain in Oslo."]
    assert second[: len(second) - 3] == (await provider.received(1)).body["messages"]
    assert reply.usage is not None
    # Both requests are paid for.
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.estimated) == (22, 8, False)


async def test_the_next_turn_sees_calls_and_results_as_the_protocol_defines(
    process: Process, provider: Provider
) -> None:
    provider.script(Answer(deltas=("See. ",), calls=(ROME,)), Answer(deltas=("It rains.",)), Answer())
    _, events = await process.send("Weather?", settings=SETTINGS)
    call = next(part for part in reply_of(await talk(process, events)).parts if isinstance(part, ToolCallPart))
    await process.said("And now?")
    messages = (await provider.received(3)).body["messages"]
    assert messages[1:] == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "See. ",
            "tool_calls": [{"id": call.id, "type": "function", "function": {"name": "weather", "arguments": ROME[1]}}],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "Rain in Rome."},
        {"role": "assistant", "content": "It rains."},
        {"role": "user", "content": "And now?"},
    ]


async def test_a_replay_from_any_sequence_is_what_was_told_live(
    process: Process, provider: Provider, database: Database
) -> None:
    provider.script(
        Answer(deltas=("a", "bc"), calls=(ROME,)),
        Answer(deltas=(), calls=(OSLO, ROME)),
        Answer(deltas=("d", "é漢", "f")),
    )
    accepted, events = await process.send("Weather?", settings=SETTINGS)
    told = await talk(process, events)
    assert kinds(told).count(ToolCall) == 3
    async with running(database, provider, process.caller.user_id, process.conversation_id) as other:
        for after in range(len(told)):
            assert await other.followed(accepted.reply.id, 1, after) == told[after:]


async def test_rounds_are_bounded_and_after_the_last_the_model_is_asked_for_words(
    database: Database, provider: Provider, user_id: UUID, conversation_id: UUID
) -> None:
    limits = RoundLimits(tool_rounds=2)
    async with running(database, provider, user_id, conversation_id, round_limits=limits) as process:
        provider.script(Answer(calls=(ROME,)), Answer(calls=(OSLO,)), Answer(deltas=("Enough.",)))
        _, events = await process.send("Weather?", settings=SETTINGS)
        assert reply_of(await talk(process, events)).text.endswith("Enough.")
        assert (await provider.received(2)).body.get("tool_choice") is None
        assert (await provider.received(3)).body["tool_choice"] == "none"


async def test_a_model_that_calls_on_all_the_same_fails_with_its_text(
    database: Database, provider: Provider, user_id: UUID, conversation_id: UUID
) -> None:
    provider.answer = lambda _: Answer(deltas=("Again. ",), calls=(ROME,))
    limits = RoundLimits(tool_rounds=2)
    async with running(database, provider, user_id, conversation_id, round_limits=limits) as process:
        _, events = await process.send("Weather?", settings=SETTINGS)
        told = await talk(process, events)
    assert reason_of(told) is Reason.TOOL_ROUNDS_EXCEEDED
    assert reply_of(told).text == "Again. " * 3
    assert kinds(told).count(ToolCall) == 2


async def test_a_result_that_does_not_come_fails_the_reply_with_its_text(
    database: Database, provider: Provider, user_id: UUID, conversation_id: UUID
) -> None:
    provider.script(Answer(deltas=("Let me see.",), calls=(ROME, OSLO)))
    limits = RoundLimits(tool_seconds=0.3)
    async with running(database, provider, user_id, conversation_id, round_limits=limits) as process:
        _, events = await process.send("Weather?", settings=SETTINGS)
        told = await talk(process, events, lambda call: rain(call) if "Rome" in call.arguments else None)
        reply = reply_of(told)
        assert reason_of(told) is Reason.TOOL_RESULT_TIMED_OUT
        assert (reply.text, reply.state) == ("Let me see.", MessageState.FAILED)
        late = ToolResultPart(next(part.id for part in reply.parts if isinstance(part, ToolCallPart)), "Sun.")
        with pytest.raises(FailedPrecondition) as caught:
            await process.turns.submit_tool_results(process.caller, reply.id, [late])
        assert caught.value.reason is Reason.TOOL_CALL_NOT_PENDING
        # The conversation goes on, and the call that was never answered has a result in its prompt.
        _, told = await process.said("Well?")
        assert isinstance(told[-1].event, Completed)
        sent = (await provider.received(2)).body["messages"]
        assert [message["content"] for message in sent if message["role"] == "tool"] == [
            "Rain in Rome.",
            "No result came.",
        ]


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (("weather", '{"city": '), "is not JSON"),
        (("weather", "[1]"), "not a JSON object"),
        (("weather", '{"city": 7}'), "at ['city']: 7 is not of type"),
        (("weather", "{}"), "required property"),
        (("wether", "{}"), "only: weather, clock"),
    ],
    ids=["broken", "no-object", "wrong-type", "missing", "unknown-tool"],
)
async def test_wrong_arguments_are_told_to_the_model_which_may_try_again_once(
    process: Process, provider: Provider, call: tuple[str, str], problem: str
) -> None:
    provider.script(Answer(deltas=(), calls=(call,)), Answer(deltas=(), calls=(ROME,)), Answer(deltas=("Rain.",)))
    _, events = await process.send("Weather?", settings=SETTINGS)
    told = await talk(process, events)
    assert isinstance(told[-1].event, Completed)
    wrong, answer = told[1].event, told[2].event
    assert isinstance(wrong, ToolCall)
    assert problem in wrong.part.problem
    assert isinstance(answer, ToolResult)
    assert answer.part.failed
    assert problem in (await provider.received(2)).body["messages"][-1]["content"]


async def test_wrong_arguments_twice_fail_the_reply(process: Process, provider: Provider) -> None:
    provider.answer = lambda _: Answer(deltas=("Hm. ",), calls=(("weather", "{"),))
    _, events = await process.send("Weather?", settings=SETTINGS)
    told = await talk(process, events)
    assert reason_of(told) is Reason.TOOL_ARGUMENTS_INVALID
    assert reply_of(told).text == "Hm. Hm. "
    assert len(provider.requests) == 2


async def test_right_calls_beside_a_wrong_one_are_carried_out(process: Process, provider: Provider) -> None:
    provider.script(Answer(deltas=(), calls=(("weather", "{"), ROME)), Answer(deltas=("Rain.",)))
    _, events = await process.send("Weather?", settings=SETTINGS)
    told = await talk(process, events)
    assert kinds(told) == [ContextBuilt, ToolCall, ToolCall, ToolResult, ToolResult, Delta, Completed]


async def test_empty_arguments_are_no_arguments(process: Process, provider: Provider) -> None:
    provider.script(Answer(deltas=(), calls=(("clock", ""),)), Answer(deltas=("Noon.",)))
    _, events = await process.send("Time?", settings=SETTINGS)
    told = await talk(process, events)
    assert isinstance(told[1].event, ToolCall)
    assert (told[1].event.part.arguments, told[1].event.part.problem) == ("{}", "")


async def test_a_forced_tool_binds_the_first_round_alone(process: Process, provider: Provider) -> None:
    provider.script(Answer(deltas=(), calls=(ROME,)), Answer(deltas=("Rain.",)))
    forced = TurnSettings(tools=TOOLS, tool_choice=ToolChoice(ToolMode.REQUIRED, "weather"))
    _, events = await process.send("Weather?", settings=forced)
    await talk(process, events)
    first, second = (await provider.received(1)).body, (await provider.received(2)).body
    assert first["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert "tool_choice" not in second


async def waiting(process: Process, provider: Provider) -> tuple[UUID, ToolCallPart, Any]:
    """A reply that waits for the result of one call."""
    provider.script(Answer(deltas=("See. ",), calls=(ROME,)))
    accepted, events = await process.send("Weather?", settings=SETTINGS)
    async with asyncio.timeout(PATIENCE):
        async for event in events:
            if isinstance(event.event, ToolCall):
                return accepted.reply.id, event.event.part, events
    raise AssertionError


async def test_a_reply_that_waits_can_be_stopped(process: Process, provider: Provider) -> None:
    reply_id, call, events = await waiting(process, provider)
    assert await process.turns.cancel(process.caller, reply_id)
    reply = reply_of(await talk(process, events))
    assert (reply.state, reply.finish_reason, reply.text) == (MessageState.CANCELLED, FinishReason.CANCELLED, "See. ")
    assert call in reply.parts
    assert len(provider.requests) == 1
    assert reply.usage is not None
    assert not reply.usage.estimated


async def test_a_result_is_taken_once_and_may_be_sent_again(process: Process, provider: Provider) -> None:
    reply_id, call, events = await waiting(process, provider)
    await process.turns.submit_tool_results(process.caller, reply_id, [rain(call)])
    await process.turns.submit_tool_results(process.caller, reply_id, [rain(call)])
    with pytest.raises(FailedPrecondition):
        await process.turns.submit_tool_results(process.caller, reply_id, [ToolResultPart(call.id, "Sun.")])
    told = await talk(process, events)
    assert kinds(told).count(ToolResult) == 1
    # Nor does a resend after the end.
    await process.turns.submit_tool_results(process.caller, reply_id, [rain(call)])


async def test_of_results_one_of_which_is_wrong_none_is_taken(process: Process, provider: Provider) -> None:
    reply_id, call, events = await waiting(process, provider)
    with pytest.raises(FailedPrecondition):
        await process.turns.submit_tool_results(process.caller, reply_id, [rain(call), ToolResultPart("absent", "")])
    await process.turns.submit_tool_results(process.caller, reply_id, [ToolResultPart(call.id, "Sun.")])
    told = await talk(process, events)
    assert ToolResult(ToolResultPart(call.id, "Sun.")) in [event.event for event in told]


async def test_another_user_cannot_answer_and_learns_nothing(process: Process, provider: Provider) -> None:
    reply_id, call, _ = await waiting(process, provider)
    with pytest.raises(NotFound):
        await process.turns.submit_tool_results(caller(uuid4()), reply_id, [rain(call)])


async def test_a_reply_that_waited_in_a_dead_process_is_attempted_anew_and_asks_anew(
    process: Process, provider: Provider, database: Database
) -> None:
    reply_id, old, _ = await waiting(process, provider)
    process.turns.abandon()
    async with process.database.unbound() as connection:
        await connection.execute(
            "UPDATE server_processes SET lease_until = now() WHERE id = %s", (process.lease.process_id,)
        )
    provider.script(Answer(deltas=(), calls=(ROME,)), Answer(deltas=("It rains.",)))
    async with running(database, provider, process.caller.user_id, process.conversation_id) as other:
        events = await other.turns.follow(other.caller, reply_id, 1, 3)
        told: list[ReplyEvent] = []
        async with asyncio.timeout(PATIENCE):
            async for event in events:
                told.append(event)
                if isinstance(event.event, ToolCall):
                    with pytest.raises(FailedPrecondition):
                        await other.turns.submit_tool_results(other.caller, reply_id, [rain(old)])
                    await other.turns.submit_tool_results(other.caller, reply_id, [rain(event.event.part)])
    assert kinds(told) == [Restarted, ContextBuilt, ToolCall, ToolResult, Delta, Completed]
    assert {event.attempt for event in told} == {2}


async def test_a_round_that_breaks_off_fails_with_what_was_told(process: Process, provider: Provider) -> None:
    provider.script(Answer(deltas=("See. ",), calls=(ROME,)), Answer(deltas=("It",), fault=Fault.CUT))
    _, events = await process.send("Weather?", settings=SETTINGS)
    told = await talk(process, events)
    reply = reply_of(told)
    assert (reason_of(told), reply.text) == (Reason.MODEL_UNAVAILABLE, "See. It")
    assert reply.usage is not None
    assert reply.usage.estimated
    assert reply.usage.prompt_tokens > 11


async def test_results_are_cut_to_what_the_window_has_room_for(process: Process, provider: Provider) -> None:
    provider.script(Answer(deltas=(), calls=(ROME,)), Answer(deltas=("Long.",)))
    _, events = await process.send("Weather?", settings=SETTINGS)
    words = "It rains and rains. " * 3_000
    told = await talk(process, events, lambda call: ToolResultPart(call.id, words))
    sent = (await provider.received(2)).body["messages"][-1]["content"]
    assert sent.endswith("it is longer than the model can read.]")
    assert len(sent) < len(words)
    assert ToolResultPart(reply_of(told).parts[0].id, words) in reply_of(told).parts  # type: ignore[union-attr]


async def test_a_response_that_obeys_its_schema_completes(process: Process, provider: Provider) -> None:
    provider.script(Answer(deltas=('{"city": ', '"Rome"}')))
    _, events = await process.send("Where?", settings=TurnSettings(response_schema=CITY))
    told = [event async for event in events]
    assert isinstance(told[-1].event, Completed)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(deltas=('{"city": ', "7}")),
        Answer(deltas=("Rome",)),
        Answer(deltas=('{"city": "Ro',), finish_reason="length"),
        Answer(deltas=()),
    ],
    ids=["wrong", "no-json", "cut", "empty"],
)
async def test_a_response_that_does_not_fails_and_keeps_its_text(
    process: Process, provider: Provider, answer: Answer
) -> None:
    provider.script(answer)
    accepted, events = await process.send("Where?", settings=TurnSettings(response_schema=CITY))
    told = [event async for event in events]
    assert reason_of(told) is Reason.RESPONSE_SCHEMA_VIOLATED
    assert reply_of(told).text == "".join(answer.deltas)
    assert plain(await process.followed(accepted.reply.id)) == plain(told)


async def test_a_schema_binds_the_text_after_the_last_call(process: Process, provider: Provider) -> None:
    provider.script(Answer(deltas=("See. ",), calls=(ROME,)), Answer(deltas=('{"city": "Rome"}',)))
    both = TurnSettings(tools=TOOLS, response_schema=CITY)
    _, events = await process.send("Where?", settings=both)
    assert isinstance((await talk(process, events))[-1].event, Completed)


ROUND = st.tuples(
    st.lists(st.text("ab é", min_size=1, max_size=4), max_size=3),
    st.lists(st.sampled_from([ROME, OSLO, ("clock", "{}"), ("weather", "{")]), min_size=1, max_size=3),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(ROUND, max_size=3), last=st.lists(st.text("xy", min_size=1, max_size=3), max_size=3))
async def test_whatever_a_model_calls_the_log_the_database_and_other_processes_tell_the_same(
    process: Process, provider: Provider, rounds: list[Any], last: list[str]
) -> None:
    provider._scripted.clear()
    provider.script(*(Answer(deltas=tuple(text), calls=tuple(calls)) for text, calls in rounds))
    provider.script(Answer(deltas=tuple(last)))
    accepted, events = await process.send("Go on.", settings=SETTINGS)
    told = await talk(process, events)
    assert plain(await process.followed(accepted.reply.id)) == plain(told)
    for event in told:
        again = decode(encode(event.event))
        assert again == (None if event.last else event.event)
    parts: list[Part] = []
    for event in told:
        match event.event:
            case Delta(text):
                if parts and isinstance(parts[-1], TextPart):
                    text = parts.pop().text + text  # type: ignore[union-attr]
                parts.append(TextPart(text))
            case ToolCall(part) | ToolResult(part):
                parts.append(part)
    assert tuple(parts) == reply_of(told).parts


async def test_the_results_of_a_reply_are_bounded_together(process: Process, provider: Provider) -> None:
    reply_id, call, events = await waiting(process, provider)
    with pytest.raises(ResourceExhausted) as caught:
        await process.turns.submit_tool_results(process.caller, reply_id, [ToolResultPart(call.id, "x" * 600_000)])
    assert caught.value.reason is Reason.MESSAGE_TOO_LARGE
    await process.turns.submit_tool_results(process.caller, reply_id, [rain(call)])
    assert isinstance((await talk(process, events))[-1].event, Completed)


async def test_a_message_that_is_erased_under_a_waiting_reply_leaves_calls_that_are_paid_for(
    process: Process, provider: Provider, database: Database
) -> None:
    reply_id, call, _ = await waiting(process, provider)
    transcript = process.turns._parts.transcript
    accepted = await transcript.turn(process.caller.user_id, reply_id)
    async with asyncio.timeout(PATIENCE):
        while not accepted.reply.parts:
            await asyncio.sleep(0.02)
            accepted = await transcript.turn(process.caller.user_id, reply_id)
    await Conversations(database).erase_message(process.caller.user_id, accepted.message.id, include_reply=False)
    reply = (await transcript.turn(process.caller.user_id, reply_id)).reply
    assert (reply.state, call in reply.parts) == (MessageState.CANCELLED, True)
    assert reply.tokens >= parts_tokens(reply.parts) - 2 * (CALL_OVERHEAD + MESSAGE_OVERHEAD)
    await Conversations(database).erase_message(process.caller.user_id, reply_id, include_reply=False)
    erased = (await transcript.turn(process.caller.user_id, reply_id)).reply
    assert (erased.state, erased.parts) == (MessageState.ERASED, ())
