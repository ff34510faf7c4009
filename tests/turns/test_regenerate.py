"""Regenerated replies in turns: what the model is given, what runs beside them, and what outlives a process."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.domain import Accepted, BusyPolicy, MessageState, Page, Regeneration, TurnSettings
from chatrpc.turns.events import Completed, ContextBuilt, Delta, ReplyEvent
from chatrpc.turns.reply_log import ReplyReader
from tests.support.provider import Answer, Fault, Provider
from tests.turns.conftest import Process, running

PATIENCE = 20.0


async def again(process: Process, turn: Accepted, key: str = "", **fields: object) -> tuple[Accepted, ReplyReader]:
    asked = Regeneration(process.conversation_id, turn.reply.id, key or uuid4().hex, coalesce_window=0.0, **fields)
    return await process.turns.regenerate(process.caller, asked)


async def rest(events: ReplyReader) -> list[ReplyEvent]:
    async with asyncio.timeout(PATIENCE):
        return [event async for event in events]


def text_of(events: list[ReplyEvent]) -> str:
    return "".join(event.event.text for event in events if isinstance(event.event, Delta))


def said_to_model(provider: Provider) -> list[str]:
    """The words of the last request that are no instructions, without the hints that come with them."""
    return [m["content"] for m in provider.requests[-1].body["messages"] if m["role"] != "system"]


async def test_a_reply_is_had_anew_and_the_conversation_goes_on_from_it(process: Process, provider: Provider) -> None:
    provider.script(Answer(deltas=("first",)), Answer(deltas=("sec", "ond")), Answer(deltas=("more",)))
    turn, before = await process.said("Hi.")
    fresh, events = await again(process, turn)
    told = await rest(events)
    assert [type(event.event) for event in told] == [ContextBuilt, Delta, Delta, Completed]
    assert said_to_model(provider) == ["Hi."]
    assert told[0].event.report.query_message_id == turn.message.id
    assert await process.followed(fresh.reply.id) == told
    assert await process.followed(turn.reply.id) == before
    await process.said("And then?")
    assert said_to_model(provider) == ["Hi.", "second", "And then?"]


async def test_a_reply_amid_the_path_is_had_anew_without_what_came_after(process: Process, provider: Provider) -> None:
    first, _ = await process.said("One.")
    await process.said("Two.")
    _, events = await again(process, first)
    await rest(events)
    assert said_to_model(provider) == ["One."]
    await process.said("Three.")
    assert [text for text in said_to_model(provider) if text in ("One.", "Two.", "Three.")] == ["One.", "Three."]


async def test_a_reply_that_is_being_written_is_stopped_for_the_new_one_by_policy(
    process: Process, provider: Provider
) -> None:
    provider.script(Answer(deltas=("kept ", "never"), gate=asyncio.Event(), gate_at=1), Answer(deltas=("new",)))
    turn, events = await process.send("Hi.")
    async with asyncio.timeout(PATIENCE):
        assert [type((await anext(events)).event) for _ in range(2)] == [ContextBuilt, Delta]
    _, fresh = await again(process, turn, busy_policy=BusyPolicy.INTERRUPT)
    [last] = await rest(events)
    assert (last.event.message.text, last.event.message.state) == ("kept ", MessageState.CANCELLED)
    assert text_of(await rest(fresh)) == "new"


async def test_an_interruption_spares_what_is_accepted_behind_it(
    process: Process, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.script(Answer(gate=asyncio.Event(), gate_at=0), Answer(deltas=("two",)), Answer(deltas=("three",)))
    _, first = await process.send("One.")
    await provider.received()
    transcript = process.turns._parts.transcript
    pending, later = transcript.pending, []

    async def after_another(*args: object) -> object:
        later.append(await process.send("Three."))
        return await pending(*args)

    monkeypatch.setattr(transcript, "pending", after_another)
    _, second = await process.send("Two.", busy_policy=BusyPolicy.INTERRUPT)
    states = [(await rest(events))[-1].event.message.state for events in (first, second, later[0][1])]
    assert states == [MessageState.CANCELLED, MessageState.COMPLETE, MessageState.COMPLETE]


async def test_a_reply_that_is_being_written_runs_on_beside_the_new_one(process: Process, provider: Provider) -> None:
    gate = asyncio.Event()
    provider.script(Answer(deltas=("o", "ld"), gate=gate, gate_at=1), Answer(deltas=("new",)))
    turn, events = await process.send("Hi.")
    await provider.received()
    _, fresh = await again(process, turn)
    assert text_of(await rest(fresh)) == "new"
    gate.set()
    assert text_of(await rest(events)) == "old"
    provider.script(Answer())
    await process.said("And?")
    assert said_to_model(provider) == ["Hi.", "new", "And?"]


async def test_a_regeneration_of_a_queued_message_waits_for_what_is_before_it(
    process: Process, provider: Provider
) -> None:
    gate = asyncio.Event()
    provider.script(Answer(deltas=("first",), gate=gate, gate_at=0))
    await process.send("One.")
    queued, events = await process.send("Two.")
    _, fresh = await again(process, queued)
    gate.set()
    await rest(events)
    await rest(fresh)
    assert len(provider.requests) == 3
    assert said_to_model(provider) == ["One.", "first", "Two."]


async def test_a_resent_regeneration_attaches_to_the_running_reply(process: Process, provider: Provider) -> None:
    gate = asyncio.Event()
    provider.script(Answer(), Answer(deltas=("a", "b"), gate=gate, gate_at=1))
    turn, _ = await process.said("Hi.")
    one, events = await again(process, turn, "key")
    two, same = await again(process, turn, "key")
    gate.set()
    assert (two.duplicate, two.reply.id) == (True, one.reply.id)
    assert await rest(same) == await rest(events)
    three, replayed = await again(process, turn, "key")
    assert three.reply.state is MessageState.COMPLETE
    assert text_of(await rest(replayed)) == "ab"
    assert len(provider.requests) == 2


async def test_a_regenerated_reply_outlives_its_process_with_its_settings(
    database: Database, provider: Provider, process: Process
) -> None:
    provider.script(Answer(), Answer(fault=Fault.HANG), Answer(deltas=("late",)))
    turn, _ = await process.said("Hi.")
    fresh, _ = await again(process, turn, settings=TurnSettings(model="another"))
    await provider.received(2)
    ending = list(process.turns._running._tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
    async with database.unbound() as connection:
        await connection.execute("DELETE FROM server_processes WHERE id = %s", (process.process_id,))
    user_id, conversation_id = process.caller.user_id, process.conversation_id
    async with running(database, provider, user_id, conversation_id) as other:
        assert await other.takeover.sweep() == 1
        told = await other.followed(fresh.reply.id)
    assert (told[-1].attempt, text_of(told)) == (2, "late")
    assert provider.requests[-1].body["model"] == "another"
    listed, _ = await Conversations(database).messages(user_id, conversation_id, Page(10))
    assert [message.text for message in listed] == ["Hi.", "late"]


async def test_all_replies_to_a_message_are_stopped_for_its_erasure(process: Process, provider: Provider) -> None:
    answers = [Answer(deltas=("some ", "more"), gate=asyncio.Event(), gate_at=1) for _ in range(2)]
    provider.script(*answers)
    turn, events = await process.send("Hi.")
    fresh, others = await again(process, turn)
    for reader in (events, others):
        async with asyncio.timeout(PATIENCE):
            assert [type((await anext(reader)).event) for _ in range(2)] == [ContextBuilt, Delta]
    await process.turns.stop(process.caller, turn.message.id)
    for number, reader in enumerate((events, others), 1):
        assert (await rest(reader))[-1].event.message.state is MessageState.CANCELLED
        await (await provider.received(number)).wait_closed()
    transcript = process.turns._parts.transcript
    user_id = process.caller.user_id
    assert await transcript.replies_to(user_id, turn.message.id) == [turn.reply.id, fresh.reply.id]
    assert await transcript.replies_to(user_id, fresh.reply.id) == [fresh.reply.id]
    assert await transcript.replies_to(user_id, uuid4()) == []
