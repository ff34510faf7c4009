"""Turns of several processes over one database, with and without a Redis that they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio

from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.transcript import TurnLimits
from chatrpc.domain import (
    BusyPolicy,
    FinishReason,
    MessageState,
    Page,
    Tool,
    ToolCallPart,
    ToolResultPart,
    TurnSettings,
)
from chatrpc.errors import Conflict, FailedPrecondition, Reason, ResourceExhausted, Unavailable
from chatrpc.turns.events import Completed, ContextBuilt, Delta, Failed, ReplyEvent, Restarted, ToolCall, ToolResult
from chatrpc.turns.rounds import RoundLimits
from chatrpc.turns.shared_logs import SharedReplyLogs
from tests.support.provider import Answer, Fault, Provider
from tests.support.redis_server import RedisServer
from tests.turns.conftest import Process, running

PATIENCE = 20.0


@pytest_asyncio.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path) as server:
        yield server


@pytest_asyncio.fixture
async def two(
    database: Database, provider: Provider, user_id: UUID, conversation_id: UUID, redis: RedisServer
) -> AsyncIterator[tuple[Process, Process]]:
    """Two processes that share a Redis and have found it."""
    async with AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(running(database, provider, user_id, conversation_id, redis_url=redis.url))
            for _ in range(2)
        ]
        for each in (one, other):
            while each.turns._logs._streams._listening is None:
                await asyncio.sleep(0.001)
        yield one, other


async def die(process: Process) -> None:
    """It ends between two instructions: nothing more is written or told, and its lease runs out."""
    await stop_telling(process)
    async with process.database.unbound() as connection:
        await connection.execute(
            "UPDATE server_processes SET lease_until = now() WHERE id = %s", (process.lease.process_id,)
        )


async def stop_telling(process: Process) -> None:
    logs = process.turns._logs
    logs.begin = None
    if isinstance(logs, SharedReplyLogs):
        logs._streams = logs.written._streams = logs.mirrors._streams = None
    ending = list(process.turns._running._tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
    process.turns._left._left.clear()


async def take(events: object, count: int) -> list[ReplyEvent]:
    async with asyncio.timeout(PATIENCE):
        return [await anext(events) for _ in range(count)]


async def rest(events: object) -> list[ReplyEvent]:
    async with asyncio.timeout(PATIENCE):
        return [event async for event in events]


def text_of(events: list[ReplyEvent]) -> str:
    return "".join(event.event.text for event in events if isinstance(event.event, Delta))


def gated(provider: Provider, *deltas: str) -> asyncio.Event:
    gate = asyncio.Event()
    provider.script(Answer(deltas=deltas, gate=gate, gate_at=1))
    return gate


async def test_a_reply_is_resumed_mid_word_in_another_process(two: tuple[Process, Process], provider: Provider) -> None:
    one, other = two
    gate = gated(provider, "Hel", "lo")
    accepted, events = await one.send("Hi.")
    here = await take(events, 2)
    there = await other.turns.follow(other.caller, accepted.reply.id, 1, 1)
    assert await take(there, 1) == here[1:]
    resent, again = await other.send("Hi.", accepted.message.client_message_id)
    assert resent.duplicate
    gate.set()
    here += await rest(events)
    assert await rest(there) == here[2:]
    assert await rest(again) == here
    assert await other.followed(accepted.reply.id) == here
    assert text_of(here) == "Hello"


async def test_a_cancel_in_another_process_closes_the_providers_request(
    two: tuple[Process, Process], provider: Provider
) -> None:
    one, other = two
    gated(provider, "kept ", "never")
    accepted, events = await one.send("Hi.")
    await take(events, 2)
    assert await other.turns.cancel(other.caller, accepted.reply.id)
    await (await provider.received()).wait_closed()
    [last] = await rest(events)
    assert isinstance(last.event, Completed)
    assert (last.event.message.text, last.event.message.state) == ("kept ", MessageState.CANCELLED)
    assert not await other.turns.cancel(other.caller, accepted.reply.id)


async def test_followers_of_a_reply_whose_process_dies_see_the_next_attempt(
    two: tuple[Process, Process], provider: Provider
) -> None:
    one, other = two
    gated(provider, "lost ", "never")
    provider.script(Answer(deltas=("kept",)))
    accepted, events = await one.send("Hi.")
    first = await take(events, 2)
    there = await other.turns.follow(other.caller, accepted.reply.id, 0, 0)
    assert await take(there, 2) == first
    await die(one)
    assert await other.takeover.sweep() == 1
    told = await rest(there)
    assert [type(event.event) for event in told] == [Restarted, ContextBuilt, Delta, Completed]
    assert {event.attempt for event in told} == {2}
    assert [event.sequence for event in told] == [1, 2, 3, 4]
    assert await other.followed(accepted.reply.id) == told
    assert await other.takeover.sweep() == 0


async def test_a_reply_whose_process_dies_is_ended_with_its_text_by_policy(
    database: Database, provider: Provider, user_id: UUID, conversation_id: UUID, redis: RedisServer
) -> None:
    gated(provider, "some ", "more")
    provider.script(Answer(deltas=("anew",)))
    common = (database, provider, user_id, conversation_id)
    async with (
        running(*common, redis_url=redis.url) as one,
        running(*common, redis_url=redis.url, interrupt=True) as other,
    ):
        accepted, events = await one.send("Hi.")
        queued, _ = await one.send("And?")
        await take(events, 2)
        async with asyncio.timeout(PATIENCE):
            while not (await one.turns._parts.transcript.turn(user_id, accepted.reply.id)).reply.text:
                await asyncio.sleep(0.02)
        await die(one)
        assert await other.takeover.sweep() == 2
        told = await other.followed(accepted.reply.id)
        assert [type(event.event) for event in told] == [Restarted, Delta, Completed]
        message = told[-1].event.message
        assert (message.text, message.finish_reason, message.attempt) == ("some ", FinishReason.INTERRUPTED, 2)
        assert message.usage.estimated
        # Of the queued one nothing would be left, so it is generated.
        assert text_of(await other.followed(queued.reply.id)) == "anew"


async def test_a_living_process_keeps_its_replies(two: tuple[Process, Process], provider: Provider) -> None:
    one, other = two
    gate = gated(provider, "a", "b")
    _, events = await one.send("Hi.")
    await take(events, 2)
    assert await other.takeover.sweep() == 0
    gate.set()
    assert isinstance((await rest(events))[-1].event, Completed)


async def test_sweeps_at_once_take_over_each_reply_once(
    two: tuple[Process, Process], database: Database, provider: Provider, user_id: UUID
) -> None:
    one, other = two
    made = [
        await Conversations(database).create(user_id, title="", settings=TurnSettings(), labels={}, request_id=None)
        for _ in range(10)
    ]
    provider.script(*[Answer(fault=Fault.HANG) for _ in made])
    accepted = []
    for conversation in made:
        one.conversation_id = conversation.id
        accepted.append((await one.send("Hi."))[0])
    await provider.received(len(made))
    await die(one)
    third_options = (database, provider, user_id, made[0].id)
    async with running(*third_options, redis_url=None) as third:
        taken = await asyncio.gather(*(each.takeover.sweep() for each in (other, third, other, third)))
        assert sum(taken) == len(made)
        for each in accepted:
            owner = other if other.turns._running.get(user_id, each.reply.id) else third
            assert (await owner.followed(each.reply.id))[-1].event.message.attempt == 2


async def test_what_a_process_could_not_finish_it_attempts_anew_by_itself(
    database: Database, process: Process, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise Unavailable(Reason.DATABASE_UNAVAILABLE, "Away.")

    monkeypatch.setattr("chatrpc.turns.generation.FINISH_PATIENCE", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(process.turns._parts.transcript, "finish_reply", away)
        accepted, events = await process.send("Hi.")
        with pytest.raises(Unavailable):
            await rest(events)
        async with asyncio.timeout(PATIENCE):
            while process.turns._running:
                await asyncio.sleep(0.005)
    await process.takeover.sweep()
    assert (await process.followed(accepted.reply.id))[-1].event.message.attempt == 2


async def test_a_reply_that_kills_its_processes_is_ended_at_last(
    database: Database, process: Process, provider: Provider, user_id: UUID
) -> None:
    provider.script(Answer(fault=Fault.HANG))
    accepted, _ = await process.send("Hi.")
    await provider.received()
    process.turns.abandon()
    async with asyncio.timeout(PATIENCE):
        while process.turns._running:
            await asyncio.sleep(0.005)
    async with database.transaction(user_id) as connection:
        await connection.execute("UPDATE messages SET attempt = 5, owner = NULL WHERE id = %s", (accepted.reply.id,))
    await process.takeover.sweep()
    [_, last] = await process.followed(accepted.reply.id)
    assert last.event.message.finish_reason is FinishReason.INTERRUPTED


async def test_without_a_shared_redis_another_processs_reply_is_held_elsewhere(
    database: Database, process: Process, provider: Provider, user_id: UUID, conversation_id: UUID
) -> None:
    gate = gated(provider, "a", "b")
    accepted, events = await process.send("Hi.")
    await take(events, 2)
    async with running(database, provider, user_id, conversation_id) as other:
        for call in (
            other.turns.follow(other.caller, accepted.reply.id, 0, 0),
            other.turns.cancel(other.caller, accepted.reply.id),
        ):
            with pytest.raises(Unavailable) as error:
                await call
            assert error.value.reason is Reason.REPLY_HELD_ELSEWHERE
    gate.set()
    await rest(events)


async def test_an_interrupting_message_stops_the_running_reply_wherever_it_is(
    two: tuple[Process, Process], provider: Provider, database: Database, user_id: UUID
) -> None:
    one, other = two
    gated(provider, "half ", "never")
    provider.script(Answer(deltas=("second",)))
    _, events = await one.send("First.")
    await take(events, 2)
    _, queued = await one.send("Never mind.")
    _, new = await other.send("Second!", busy_policy=BusyPolicy.INTERRUPT)
    assert text_of(await rest(new)) == "second"
    assert (await rest(events))[-1].event.message.finish_reason is FinishReason.CANCELLED
    assert (await rest(queued))[-1].event.message.finish_reason is FinishReason.CANCELLED
    said = (await provider.received(2)).body["messages"]
    assert [each["content"][:5] for each in said if each["role"] == "assistant"] == ["half "]
    listed, _ = await Conversations(database).messages(user_id, one.conversation_id, Page(100))
    assert [message.sequence for message in listed] == [1, 2, 3, 4, 5, 6]


async def test_a_message_may_ask_to_be_refused_while_the_conversation_is_busy(
    process: Process, provider: Provider
) -> None:
    gate = gated(provider, "a", "b")
    accepted, events = await process.send("Hi.", "key", busy_policy=BusyPolicy.REJECT)
    await take(events, 2)
    with pytest.raises(Conflict) as error:
        await process.send("Me, too.", "other", busy_policy=BusyPolicy.REJECT)
    assert error.value.reason is Reason.CONVERSATION_BUSY
    # A resend is no new message.
    again, _ = await process.send("Hi.", "key", busy_policy=BusyPolicy.REJECT)
    assert again.reply.id == accepted.reply.id
    gate.set()
    await rest(events)
    _, told = await process.said("Me, too.", "other")
    assert isinstance(told[-1].event, Completed)


async def test_queue_and_turns_of_a_user_are_bounded(
    database: Database, provider: Provider, user_id: UUID, conversation_id: UUID
) -> None:
    conversations = Conversations(database)
    elsewhere = await conversations.create(user_id, title="", settings=TurnSettings(), labels={}, request_id=None)
    gate = gated(provider, "a", "b")
    common = (database, provider, user_id, conversation_id)
    async with running(*common, limits=TurnLimits(queue=1, pending=3)) as process:
        told = [await process.send("one", "1"), await process.send("two", "2")]
        with pytest.raises(ResourceExhausted) as error:
            await process.send("three", "3")
        assert (error.value.reason, error.value.subject) == (Reason.TOO_MANY_TURNS, "conversation")
        process.conversation_id = elsewhere.id
        provider.script(Answer(fault=Fault.HANG))
        await provider.received(1)
        last, _ = await process.send("four", "4")
        await provider.received(2)
        with pytest.raises(ResourceExhausted) as error:
            await process.send("five", "5")
        assert error.value.subject == "user"
        assert (await process.send("four", "4"))[0].duplicate
        await process.turns.cancel(process.caller, last.reply.id)
        gate.set()
        for _, events in told:
            assert isinstance((await rest(events))[-1].event, Completed)
        process.conversation_id = conversation_id
        assert isinstance((await process.said("three", "3"))[1][-1].event, Completed)


@pytest.mark.parametrize(
    ("deltas", "kind", "finish_reason"),
    [(("long ",), Completed, FinishReason.LENGTH), ((), Failed, FinishReason.FAILED)],
)
async def test_a_turn_has_its_time(
    database: Database,
    provider: Provider,
    user_id: UUID,
    conversation_id: UUID,
    deltas: tuple[str, ...],
    kind: type,
    finish_reason: FinishReason,
) -> None:
    provider.script(Answer(deltas=deltas, fault=Fault.STALL))
    async with running(database, provider, user_id, conversation_id, round_limits=RoundLimits(seconds=0.3)) as process:
        _, told = await process.said("Hi.")
        last = told[-1].event
        assert type(last) is kind
        assert last.message.finish_reason is finish_reason
        assert last.message.text == "".join(deltas)
        if isinstance(last, Failed):
            assert last.error.reason is Reason.TURN_TIMED_OUT
        await (await provider.received()).wait_closed()
        assert await process.followed(told[0].reply_id) != []


async def test_a_process_that_slept_past_its_lease_tells_and_commits_nothing_more(
    two: tuple[Process, Process], provider: Provider
) -> None:
    one, other = two
    gate = gated(provider, "old", " text")
    provider.script(Answer(deltas=("new text",)))
    accepted, events = await one.send("Hi.")
    await take(events, 2)
    # It has learnt of nothing: its own clock stands still where it ran out.
    one.lease._valid_until = 0.0
    async with one.database.unbound() as connection:
        await connection.execute(
            "UPDATE server_processes SET lease_until = now() WHERE id = %s", (one.lease.process_id,)
        )
    assert await other.takeover.sweep() == 1
    gate.set()
    with pytest.raises(Unavailable):
        await rest(events)
    assert text_of(await other.followed(accepted.reply.id)) == "new text"
    with pytest.raises(Unavailable):
        await one.send("More.")


async def test_a_reader_who_has_seen_a_later_attempt_brings_the_news_to_the_process_of_the_one_before(
    two: tuple[Process, Process], provider: Provider
) -> None:
    one, other = two
    gated(provider, "old", " text")
    gate = gated(provider, "new", " text")
    accepted, events = await one.send("Hi.")
    await take(events, 2)
    async with one.database.unbound() as connection:
        await connection.execute(
            "UPDATE server_processes SET lease_until = now() WHERE id = %s", (one.lease.process_id,)
        )
    assert await other.takeover.sweep() == 1
    seen = await take(await other.turns.follow(other.caller, accepted.reply.id, 0, 0), 3)
    assert [event.attempt for event in seen] == [2, 2, 2]
    following = await one.turns.follow(one.caller, accepted.reply.id, 2, 2)
    assert await take(following, 1) == seen[2:]
    gate.set()
    assert text_of(await rest(following)) == " text"
    with pytest.raises(Unavailable):
        await rest(events)


async def test_a_reader_who_invents_an_attempt_stops_nothing(two: tuple[Process, Process], provider: Provider) -> None:
    one, _ = two
    gate = gated(provider, "the", " text")
    accepted, events = await one.send("Hi.")
    await take(events, 2)
    following = await one.turns.follow(one.caller, accepted.reply.id, 7, 1)
    gate.set()
    assert await rest(following) == await one.followed(accepted.reply.id)


async def test_a_reply_that_was_given_up_in_doubt_of_the_lease_is_attempted_anew(
    process: Process, provider: Provider
) -> None:
    """The process was stopped for so long that it could not be sure, and yet nobody had taken over."""
    gate = gated(provider, "old", " text")
    provider.script(Answer(deltas=("new text",)))
    accepted, events = await process.send("Hi.")
    await take(events, 2)
    process.lease._valid_until = 0.0
    gate.set()
    with pytest.raises(Unavailable):
        await rest(events)
    await process.lease.renew()
    async with asyncio.timeout(PATIENCE):
        while process.turns._running:
            await asyncio.sleep(0.005)
    await process.takeover.sweep()
    assert text_of(await process.followed(accepted.reply.id)) == "new text"


TOOLS = TurnSettings(tools=(Tool("clock", "Tells the time."),))


async def until_called(events: object) -> tuple[list[ReplyEvent], ToolCallPart]:
    told: list[ReplyEvent] = []
    async with asyncio.timeout(PATIENCE):
        while not told or not isinstance(told[-1].event, ToolCall):
            told.append(await anext(events))
    return told, told[-1].event.part


async def test_the_result_of_a_tool_call_can_come_to_another_process(
    two: tuple[Process, Process], provider: Provider
) -> None:
    one, other = two
    provider.script(Answer(deltas=("See. ",), calls=(("clock", "{}"),)), Answer(deltas=("Noon.",)))
    accepted, events = await one.send("Time?", settings=TOOLS)
    told, call = await until_called(events)
    there = await other.turns.follow(other.caller, accepted.reply.id, 0, 0)
    assert await take(there, len(told)) == told
    with pytest.raises(FailedPrecondition):
        await other.turns.submit_tool_results(other.caller, accepted.reply.id, [ToolResultPart("absent", "")])
    noon = ToolResultPart(call.id, "12:00")
    await other.turns.submit_tool_results(other.caller, accepted.reply.id, [noon])
    await other.turns.submit_tool_results(other.caller, accepted.reply.id, [noon])
    told += await rest(events)
    assert text_of(told) == "See. Noon."
    assert await rest(there) == told[3:]
    assert [event.event for event in told].count(ToolResult(noon)) == 1


async def test_two_processes_that_answer_one_call_differently_are_not_both_heard(
    two: tuple[Process, Process], provider: Provider
) -> None:
    one, other = two
    provider.script(Answer(deltas=(), calls=(("clock", "{}"),)), Answer(deltas=("Noon.",)))
    accepted, events = await one.send("Time?", settings=TOOLS)
    told, call = await until_called(events)
    outcomes = await asyncio.gather(
        *(
            each.turns.submit_tool_results(each.caller, accepted.reply.id, [ToolResultPart(call.id, time)])
            for each, time in ((one, "12:00"), (other, "13:00"))
        ),
        return_exceptions=True,
    )
    told += await rest(events)
    assert sum(isinstance(event.event, ToolResult) for event in told) == 1
    assert [type(outcome) for outcome in outcomes].count(type(None)) == 1


async def test_without_redis_the_result_must_come_to_the_process_that_waits(
    database: Database, provider: Provider, user_id: UUID, conversation_id: UUID
) -> None:
    common = (database, provider, user_id, conversation_id)
    async with running(*common) as one, running(*common) as other:
        provider.script(Answer(deltas=(), calls=(("clock", "{}"),)))
        accepted, events = await one.send("Time?", settings=TOOLS)
        _, call = await until_called(events)
        with pytest.raises(Unavailable) as caught:
            await other.turns.submit_tool_results(other.caller, accepted.reply.id, [ToolResultPart(call.id, "12:00")])
        assert caught.value.reason is Reason.REPLY_HELD_ELSEWHERE
