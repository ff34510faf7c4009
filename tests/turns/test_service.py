"""What a sender and a reader of turns may rely on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from chatrpc.db.conversations import ConversationChanges, Conversations
from chatrpc.db.engine import Database
from chatrpc.db.transcript import Checkpoint, Transcript
from chatrpc.domain import Accepted, FinishReason, MessageState, OutgoingMessage, Page, Sampling, TextPart, TurnSettings
from chatrpc.errors import AlreadyExists, NotFound, OutOfRange, Reason, Unavailable
from chatrpc.ports import Vectors
from chatrpc.turns.events import Completed, ContextBuilt, Delta, Failed, ReplyEvent, Restarted
from tests.support.embedder import WordEmbedder
from tests.support.provider import Answer, Fault, Provider
from tests.turns.conftest import Process, caller, running


def text_of(events: list[ReplyEvent]) -> str:
    return "".join(event.event.text for event in events if isinstance(event.event, Delta))


def kinds(events: list[ReplyEvent]) -> list[type]:
    return [type(event.event) for event in events]


async def until_last(events: object) -> list[ReplyEvent]:
    return [event async for event in events]  # type: ignore[attr-defined]


async def test_a_turn_tells_its_context_its_text_and_its_end(process: Process, provider: Provider) -> None:
    provider.script(Answer(deltas=("Hel", "lo", "!")))
    accepted, events = await process.said("Hi.")
    assert kinds(events) == [ContextBuilt, Delta, Delta, Delta, Completed]
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5]
    assert {(event.reply_id, event.attempt) for event in events} == {(accepted.reply.id, 1)}
    reply = events[-1].event.message  # type: ignore[union-attr]
    assert (reply.text, reply.state, reply.finish_reason) == ("Hello!", MessageState.COMPLETE, FinishReason.STOP)
    assert reply.usage is not None
    assert not reply.usage.estimated


async def test_settings_of_the_turn_go_over_those_of_the_conversation(
    process: Process, database: Database, user_id: UUID, provider: Provider
) -> None:
    settings = TurnSettings(
        system_instruction="Be brief.", model="large", sampling=Sampling(temperature=0.1, top_p=0.9)
    )
    await Conversations(database).update(user_id, process.conversation_id, ConversationChanges(settings=settings))
    turn = TurnSettings(model="small", sampling=Sampling(temperature=0.7, max_output_tokens=12))
    _, events = await process.send("Hi.", settings=turn)
    await until_last(events)
    body = (await provider.received()).body
    assert body["messages"][0]["role"] == "system"
    assert body["messages"][0]["content"].startswith("Be brief.")
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == ("small", 0.7, 0.9, 12)


async def test_every_reader_sees_the_same_from_every_sequence(process: Process, provider: Provider) -> None:
    gate = asyncio.Event()
    provider.script(Answer(deltas=("äö", "🙂", "c", "d"), gate=gate, gate_at=2))
    accepted, events = await process.send("Hi.")
    first = [await anext(events) for _ in range(3)]
    beside = [await process.turns.follow(process.caller, accepted.reply.id, 1, n) for n in range(4)]
    gate.set()
    live = first + await until_last(events)
    for n, reader in enumerate(beside):
        assert await until_last(reader) == live[n:]
    for n in range(len(live) + 1):
        assert await process.followed(accepted.reply.id, 1, n) == live[n:]
    assert await process.followed(accepted.reply.id, 7, 3) == live


async def test_resuming_beyond_the_end_is_out_of_range(process: Process, provider: Provider) -> None:
    gate = asyncio.Event()
    provider.script(Answer(gate=gate))
    accepted, events = await process.send("Hi.")
    await anext(events)
    with pytest.raises(OutOfRange, match="after_sequence is 9, but the reply's last event is 1"):
        await process.turns.follow(process.caller, accepted.reply.id, 1, 9)
    gate.set()
    told = 1 + len(await until_last(events))
    with pytest.raises(OutOfRange):
        await process.turns.follow(process.caller, accepted.reply.id, 1, told + 1)


async def test_a_reply_of_somebody_else_does_not_exist(process: Process) -> None:
    accepted, _ = await process.said("Hi.")
    for reply_id, who in ((accepted.reply.id, uuid4()), (uuid4(), process.caller.user_id)):
        with pytest.raises(NotFound):
            await process.turns.follow(caller(who), reply_id, 0, 0)
        with pytest.raises(NotFound):
            await process.turns.cancel(caller(who), reply_id)


async def test_a_reply_may_be_as_long_as_its_model_allows(process: Process, provider: Provider) -> None:
    for model, limit in (("gpt-4o", 16_384), ("gpt-4", 2_048), ("anything else", 2_048)):
        _, events = await process.send("Hi.", settings=TurnSettings(model=model))
        await until_last(events)
        assert provider.requests[-1].body["max_tokens"] == limit


async def test_a_resend_attaches_while_running_and_afterwards(process: Process, provider: Provider) -> None:
    gate = asyncio.Event()
    provider.script(Answer(gate=gate))
    accepted, events = await process.send("Hi.", "key")
    again, same = await process.send("Hi.", "key")
    assert again.duplicate
    assert again.reply.id == accepted.reply.id
    gate.set()
    live = await until_last(events)
    assert await until_last(same) == live
    _, replayed = await process.said("Hi.", "key")
    assert replayed == live
    assert len(provider.requests) == 1
    with pytest.raises(AlreadyExists):
        await process.send("Something else.", "key")


async def test_racing_resends_make_one_turn(process: Process, provider: Provider) -> None:
    told = await asyncio.gather(*(process.said("Hi.", f"key-{n % 5}") for n in range(40)))
    by_key: dict[int, list[list[ReplyEvent]]] = {}
    for n, (_, events) in enumerate(told):
        by_key.setdefault(n % 5, []).append(events)
    assert all(one == same[0] for same in by_key.values() for one in same)
    assert len(provider.requests) == 5


async def test_a_reader_that_vanishes_costs_nothing_of_the_reply(process: Process, provider: Provider) -> None:
    gate = asyncio.Event()
    provider.script(Answer(deltas=("one ", "two"), gate=gate, gate_at=1))
    accepted, events = await process.send("Hi.")
    await anext(events)
    await events.aclose()
    gate.set()
    assert text_of(await process.followed(accepted.reply.id)) == "one two"


async def test_a_sender_that_vanishes_at_any_moment_leaves_no_message_without_a_reply(
    process: Process, database: Database, user_id: UUID
) -> None:
    for moments in range(30):
        sending = asyncio.create_task(process.send(f"Hi {moments}."))
        for _ in range(moments * 3):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait({sending})
    await process.turns.drain(20)
    listed, _ = await Conversations(database).messages(user_id, process.conversation_id, Page(1000))
    assert listed
    assert {message.state for message in listed} == {MessageState.COMPLETE}


async def test_a_sender_that_vanishes_while_the_query_is_embedded_gets_a_reply_all_the_same(
    process: Process, database: Database, user_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    vanished, embed = asyncio.Event(), WordEmbedder.embed

    async def embed_late(embedder: WordEmbedder, texts: Sequence[str]) -> Vectors:
        await vanished.wait()
        return await embed(embedder, texts)

    monkeypatch.setattr(WordEmbedder, "embed", embed_late)
    sending = asyncio.create_task(process.send("Hi."))
    # One step for the task itself, one for what it begins.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.wait({sending})
    assert sending.cancelled()
    vanished.set()
    await process.turns.drain(20)
    listed, _ = await Conversations(database).messages(user_id, process.conversation_id, Page(10))
    assert [message.state for message in listed] == [MessageState.COMPLETE] * 2


async def test_a_character_that_the_database_cannot_store_costs_no_reply(process: Process, provider: Provider) -> None:
    provider.script(Answer(deltas=("one", "\0", "t\0wo")))
    accepted, events = await process.said("Hi.")
    assert isinstance(events[-1].event, Completed)
    assert text_of(events) == events[-1].event.message.text == "one\ufffdt\ufffdwo"
    assert await process.followed(accepted.reply.id, 1, 0) == events


async def test_cancel_keeps_the_text_and_reaches_the_provider(process: Process, provider: Provider) -> None:
    provider.script(Answer(deltas=("one ", "two ", "three"), gate=asyncio.Event(), gate_at=2))
    accepted, events = await process.send("Hi.")
    told = [await anext(events) for _ in range(3)]
    assert await process.turns.cancel(process.caller, accepted.reply.id) is True
    told += await until_last(events)
    await (await provider.received()).wait_closed()
    reply = told[-1].event.message  # type: ignore[union-attr]
    assert (reply.text, reply.state, reply.finish_reason) == (
        "one two ", MessageState.CANCELLED, FinishReason.CANCELLED,
    )  # fmt: skip
    assert reply.usage is not None
    assert reply.usage.estimated
    assert reply.usage.completion_tokens > 0
    assert await process.turns.cancel(process.caller, accepted.reply.id) is False
    assert await process.followed(accepted.reply.id, 1, 0) == told


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(status=500), Reason.MODEL_UNAVAILABLE),
        (Answer(status=400), Reason.MODEL_REJECTED),
        (Answer(deltas=("par", "tial"), fault=Fault.CUT), Reason.MODEL_UNAVAILABLE),
    ],
)
async def test_a_model_that_fails_leaves_a_failed_reply_and_the_next_turn_works(
    process: Process, provider: Provider, answer: Answer, reason: Reason
) -> None:
    provider.script(answer)
    accepted, events = await process.said("Hi.")
    failed = events[-1].event
    assert isinstance(failed, Failed)
    assert failed.error.reason is reason
    assert failed.message.state is MessageState.FAILED
    assert failed.message.text == text_of(events)
    told_again = await process.followed(accepted.reply.id, 1, 0)
    assert told_again[:-1] == events[:-1]
    assert str(told_again[-1].event.error) == str(failed.error)  # type: ignore[union-attr]
    _, after = await process.said("And now?")
    assert isinstance(after[-1].event, Completed)


async def test_a_queued_message_waits_and_sees_the_reply_before_it(process: Process, provider: Provider) -> None:
    gate = asyncio.Event()
    provider.script(Answer(deltas=("first ", "answer"), gate=gate, gate_at=1), Answer(deltas=("second",)))
    first, first_events = await process.send("Question one.")
    await anext(first_events)
    second, second_events = await process.send("Question two.")
    third, third_events = await process.send("Question three.")
    gate.set()
    await asyncio.gather(until_last(first_events), until_last(second_events), until_last(third_events))
    prompts = [[m["content"] for m in request.body["messages"]] for request in provider.requests]
    assert not any("Question two." in content for content in prompts[0])
    assert "first answer" in prompts[1]
    assert not any("Question three." in content for content in prompts[1])
    assert "second" in prompts[2]
    assert [first.message.sequence, second.message.sequence, third.message.sequence] == [1, 3, 5]


async def test_a_cancelled_queued_turn_never_asks_the_model(process: Process, provider: Provider) -> None:
    gate = asyncio.Event()
    provider.script(Answer(gate=gate))
    _, first_events = await process.send("One.")
    await anext(first_events)
    second, second_events = await process.send("Two.")
    await process.turns.cancel(process.caller, second.reply.id)
    assert kinds(await until_last(second_events)) == [Completed]
    gate.set()
    await until_last(first_events)
    assert len(provider.requests) == 1


async def test_a_message_behind_a_cancelled_queued_turn_waits_for_the_reply_before_both(
    process: Process, provider: Provider
) -> None:
    gate = asyncio.Event()
    provider.script(Answer(deltas=("first ", "answer"), gate=gate, gate_at=1), Answer(deltas=("third",)))
    _, first_events = await process.send("One.")
    await anext(first_events)
    second, second_events = await process.send("Two.")
    await process.turns.cancel(process.caller, second.reply.id)
    await until_last(second_events)
    _, third_events = await process.send("Three.")
    third = asyncio.create_task(anext(third_events))
    await asyncio.wait({third}, timeout=0.3)
    gate.set()
    built = (await third).event
    await until_last(third_events)
    assert isinstance(built, ContextBuilt)
    assert [dropped.message_id for dropped in built.report.dropped] == [second.reply.id]
    assert "first answer" in [m["content"] for m in provider.requests[1].body["messages"]]


async def test_a_reply_left_behind_by_a_dead_process_is_attempted_anew(
    process: Process, database: Database, user_id: UUID, provider: Provider
) -> None:
    accepted, _ = await _left_behind(process, database, user_id, owner=uuid4())
    events = await process.followed(accepted.reply.id, 1, 0)
    assert kinds(events)[:2] == [Restarted, ContextBuilt]
    assert {event.attempt for event in events} == {2}
    assert isinstance(events[-1].event, Completed)
    assert await process.followed(accepted.reply.id, 2, 1) == events[1:]


async def test_a_resend_of_a_message_left_behind_gets_its_reply(
    process: Process, database: Database, user_id: UUID
) -> None:
    accepted, key = await _left_behind(process, database, user_id, owner=uuid4())
    again, events = await process.said("Left behind.", key)
    assert again.reply.id == accepted.reply.id
    assert isinstance(events[-1].event, Completed)
    listed, _ = await Conversations(database).messages(user_id, process.conversation_id, Page(10))
    assert [message.state for message in listed] == [MessageState.COMPLETE] * 2


async def test_the_next_message_first_finishes_the_reply_left_behind(
    process: Process, database: Database, user_id: UUID, provider: Provider
) -> None:
    await _left_behind(process, database, user_id, owner=uuid4())
    provider.script(Answer(deltas=("late answer",)))
    _, events = await process.said("Next.")
    assert isinstance(events[-1].event, Completed)
    assert "late answer" in [m["content"] for m in provider.requests[1].body["messages"]]


async def test_a_reply_of_a_living_process_is_left_to_it(
    process: Process, database: Database, user_id: UUID, provider: Provider
) -> None:
    async with running(database, provider, user_id, process.conversation_id) as other:
        accepted, _ = await _left_behind(process, database, user_id, owner=other.process_id)
        with pytest.raises(Unavailable) as caught:
            await process.turns.follow(process.caller, accepted.reply.id, 0, 0)
        assert caught.value.reason is Reason.REPLY_HELD_ELSEWHERE
    assert isinstance((await process.followed(accepted.reply.id))[-1].event, Completed)


async def test_a_superseded_attempt_writes_nothing_and_closes_the_providers_request(
    process: Process, database: Database, user_id: UUID, provider: Provider
) -> None:
    gate = asyncio.Event()
    provider.script(Answer(deltas=("stale ",), fault=Fault.STALL))
    accepted, events = await process.send("Hi.")
    assert kinds([await anext(events) for _ in range(2)]) == [ContextBuilt, Delta]
    transcript = Transcript(database)
    assert await transcript.begin_attempt(user_id, accepted.reply.id, process.process_id) == 2
    with pytest.raises(Unavailable) as caught:
        # Sooner than the model's own deadline of silence, which would end the attempt, too.
        async with asyncio.timeout(20):
            await until_last(events)
    assert caught.value.reason is Reason.REPLY_HELD_ELSEWHERE
    await (await provider.received()).wait_closed()
    gate.set()
    stored = await transcript.turn(user_id, accepted.reply.id)
    assert (stored.reply.state, stored.reply.text) == (MessageState.PENDING, "")


async def test_a_process_that_lost_its_lease_tells_no_more(process: Process, provider: Provider) -> None:
    provider.script(Answer(deltas=("told",), fault=Fault.STALL))
    accepted, events = await process.send("Hi.")
    assert kinds([await anext(events) for _ in range(2)]) == [ContextBuilt, Delta]
    process.turns.abandon()
    with pytest.raises(Unavailable) as caught:
        await until_last(events)
    assert caught.value.reason is Reason.REPLY_HELD_ELSEWHERE
    await (await provider.received()).wait_closed()
    assert kinds(await process.followed(accepted.reply.id))[0] is Restarted


async def test_a_lease_lost_before_a_reply_begins_stops_it_too(process: Process, provider: Provider) -> None:
    provider.script(Answer(deltas=("never ",), fault=Fault.STALL))
    sending = asyncio.create_task(process.send("Hi."))
    while not process.turns._running:
        await asyncio.sleep(0)
    process.turns.abandon()
    _, events = await sending
    with pytest.raises(Unavailable):
        await asyncio.wait_for(until_last(events), 20)
    assert provider.requests == []


async def test_cancelling_a_reply_left_behind_keeps_its_text(
    process: Process, database: Database, user_id: UUID, provider: Provider
) -> None:
    accepted, _ = await _left_behind(process, database, user_id, owner=uuid4())
    checkpoint = Checkpoint(user_id, accepted.reply.id, 1, (TextPart("half of it"),), (5, 10))
    assert await Transcript(database).checkpoint_replies([checkpoint]) == set()
    assert await process.turns.cancel(process.caller, accepted.reply.id) is True
    events = await process.followed(accepted.reply.id)
    assert kinds(events) == [Restarted, Delta, Delta, Completed]
    reply = events[-1].event.message  # type: ignore[union-attr]
    assert (reply.text, reply.state) == ("half of it", MessageState.CANCELLED)
    assert provider.requests == []
    assert await process.turns.cancel(process.caller, accepted.reply.id) is False


async def test_a_model_that_ignores_its_limit_is_stopped(process: Process, provider: Provider) -> None:
    provider.script(Answer(deltas=("word " * 20,), fault=Fault.ENDLESS))
    _, events = await process.send("Hi.", settings=TurnSettings(sampling=Sampling(max_output_tokens=10)))
    told = await until_last(events)
    reply = told[-1].event.message  # type: ignore[union-attr]
    assert (reply.state, reply.finish_reason) == (MessageState.COMPLETE, FinishReason.LENGTH)
    assert 160 < len(reply.text) <= 360
    await (await provider.received()).wait_closed()


async def test_partial_text_is_checkpointed(
    process: Process, database: Database, user_id: UUID, provider: Provider
) -> None:
    provider.script(Answer(deltas=("so far",), fault=Fault.STALL))
    accepted, _ = await process.send("Hi.")
    transcript = Transcript(database)
    async with asyncio.timeout(20):
        while (await transcript.turn(user_id, accepted.reply.id)).reply.text != "so far":
            await asyncio.sleep(0.05)


async def test_a_drain_stores_what_the_replies_have(
    database: Database, user_id: UUID, conversation_id: UUID, provider: Provider
) -> None:
    provider.script(Answer(deltas=("so far",), fault=Fault.STALL))
    async with running(database, provider, user_id, conversation_id) as process:
        accepted, events = await process.send("Hi.")
        assert kinds([await anext(events) for _ in range(2)]) == [ContextBuilt, Delta]
    stored = await Transcript(database).turn(user_id, accepted.reply.id)
    assert (stored.reply.state, stored.reply.text) == (MessageState.CANCELLED, "so far")


async def test_deleting_a_conversation_ends_its_running_reply(
    process: Process, database: Database, user_id: UUID, provider: Provider
) -> None:
    provider.script(Answer(deltas=("so far",), fault=Fault.STALL))
    accepted, events = await process.send("Hi.")
    assert kinds([await anext(events) for _ in range(2)]) == [ContextBuilt, Delta]
    await Conversations(database).delete(user_id, process.conversation_id)
    process.turns.cancel_conversation(user_id, process.conversation_id)
    with pytest.raises(Unavailable):
        await until_last(events)
    with pytest.raises(NotFound):
        await process.followed(accepted.reply.id)


async def _left_behind(process: Process, database: Database, user_id: UUID, owner: UUID) -> tuple[Accepted, str]:
    """A message, and its key, that a process accepted before it died (or while it lives: `owner` says which)."""
    key = uuid4().hex
    message = OutgoingMessage(process.conversation_id, key, (TextPart("Left behind."),))
    accepted = await Transcript(database).append(user_id, message, tokens=3, actor=None, owner=owner)
    return accepted, key
