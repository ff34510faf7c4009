"""Chat: many turns on one stream."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import pytest
from chatapi.v1 import chat_service_pb2 as pb

from chatrpc.db.engine import Database
from chatrpc.rpc.identity import LEEWAY
from chatrpc.rpc.outbox import CAPACITY
from tests.rpc.stage import (
    PATIENCE,
    Stage,
    Stream,
    eventually,
    failure,
    new_id,
    outgoing,
    signed_in,
    staged,
    told,
    told_by,
)


async def test_a_turn_is_accepted_explained_told_and_completed(stage: Stage) -> None:
    conversation = await stage.conversation()
    async with Stream(stage) as stream:
        await stream.say(request_id="r-1", send=outgoing(conversation, "hello"))
        accepted = await stream.hear_kind("accepted")
        assert accepted.request_id == "r-1"
        assert accepted.message.parts[0].text.text == "hello"
        speaker = await stage.model.asked()
        speaker.say("Hi ")
        speaker.say("there.")
        speaker.finish()
        events = []
        while not events or events[-1].WhichOneof("event") != "completed":
            events.append(await stream.hear_kind("reply"))
    assert {event.reply_id for event in events} == {accepted.reply_id}
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[0].WhichOneof("event") == "context_report"
    assert "".join(event.delta.text for event in events) == "Hi there."
    assert events[-1].completed.message.parts[0].text.text == "Hi there."


async def test_messages_are_accepted_in_the_order_of_their_requests(stage: Stage) -> None:
    conversations = [await stage.conversation() for _ in range(3)]
    async with Stream(stage) as stream:
        for number in range(12):
            await stream.say(request_id=str(number), send=outgoing(conversations[number % 3]))
        accepted = [await stream.hear_kind("accepted") for _ in range(12)]
    assert [each.request_id for each in accepted] == [str(number) for number in range(12)]


async def test_turns_of_one_stream_run_side_by_side(stage: Stage) -> None:
    first, second = await stage.conversation(), await stage.conversation()
    async with Stream(stage) as stream:
        await stream.say(send=outgoing(first, "first"))
        one = await stream.hear_kind("accepted")
        first_speaker = await stage.model.asked()
        await stream.say(send=outgoing(second, "second"))
        two = await stream.hear_kind("accepted")
        (await stage.model.asked()).finish()
        assert (await stream.hear_reply("completed")).reply_id == two.reply_id
        first_speaker.finish()
        assert (await stream.hear_reply("completed")).reply_id == one.reply_id


async def test_a_cancel_overtakes_a_send_that_is_being_accepted(database: Database, issuer_keys: Path) -> None:
    gate = asyncio.Event()

    class SlowToAccept:
        def __init__(self, turns) -> None:
            self._turns = turns

        def __getattr__(self, name: str):
            return getattr(self._turns, name)

        async def send(self, caller, message):
            if message.parts[0].text == "slow":
                await gate.wait()
            return await self._turns.send(caller, message)

    async with staged(database, issuer_keys, turns=SlowToAccept) as stage:
        first, second = await stage.conversation(), await stage.conversation()
        async with Stream(stage) as stream:
            await stream.say(send=outgoing(first))
            running = await stream.hear_kind("accepted")
            await stage.model.asked()
            await stream.say(request_id="slow", send=outgoing(second, "slow"))
            await stream.say(cancel=pb.CancelReplyRequest(reply_id=running.reply_id))
            cancelled = await stream.hear_kind("cancelled")
            assert (cancelled.reply_id, cancelled.stopped) == (running.reply_id, True)
            assert (await stream.hear_reply("completed")).reply_id == running.reply_id
            gate.set()
            assert (await stream.hear_kind("accepted")).request_id == "slow"


async def test_a_reply_is_resumed_after_the_last_event_seen(stage: Stage) -> None:
    conversation = await stage.conversation()
    async with Stream(stage) as stream:
        await stream.say(send=outgoing(conversation))
        speaker = await stage.model.asked()
        speaker.say("one")
        seen = await stream.hear_reply("delta")
    async with Stream(stage) as stream:
        resume = pb.ResumeReplyRequest(reply_id=seen.reply_id, attempt=seen.attempt, after_sequence=seen.sequence)
        await stream.say(request_id="again", resume=resume)
        speaker.say("two")
        event = await stream.hear_kind("reply")
        assert (event.sequence, event.delta.text) == (seen.sequence + 1, "two")
        speaker.finish()
        completed = await stream.hear_reply("completed")
        assert completed.completed.message.parts[0].text.text == "onetwo"


async def test_a_ping_is_answered_with_its_request_id(stage: Stage) -> None:
    async with Stream(stage) as stream:
        await stream.say(request_id="p-1", ping=pb.Ping())
        assert (await stream.hear()).pong.request_id == "p-1"


@pytest.mark.parametrize(
    ("event", "reason", "fields"),
    [
        ({"send": outgoing("no uuid")}, "INVALID_FIELD", ["send.conversation_id"]),
        ({"send": outgoing(new_id(), "")}, "INVALID_FIELD", ["send.parts[0].text.text"]),
        ({"send": outgoing(new_id(), "x" * 32_769)}, "INVALID_FIELD", ["send.parts[0].text.text"]),
        ({"send": outgoing(new_id(), "x" * 1_048_576)}, "MESSAGE_TOO_LARGE", []),
        ({}, "INVALID_FIELD", ["event"]),
        ({"send": outgoing(new_id())}, "CONVERSATION_NOT_FOUND", []),
        ({"resume": pb.ResumeReplyRequest(reply_id=new_id())}, "REPLY_NOT_FOUND", []),
        ({"cancel": pb.CancelReplyRequest(reply_id=new_id())}, "REPLY_NOT_FOUND", []),
    ],
    ids=["id", "empty", "long", "too large", "nothing", "conversation", "resume", "cancel"],
)
async def test_a_refused_request_is_answered_and_the_stream_lives_on(
    stage: Stage, event: dict, reason: str, fields: list[str]
) -> None:
    async with Stream(stage) as stream:
        await stream.say(request_id="bad", **event)
        rejected = await stream.hear_kind("rejected")
        assert rejected.request_id == "bad"
        assert told_by(rejected.status).reason == reason
        assert told_by(rejected.status).fields == fields
        await stream.say(request_id="good", ping=pb.Ping())
        assert (await stream.hear_kind("pong")).request_id == "good"


async def test_invalid_utf_8_is_answered_and_the_stream_lives_on(stage: Stage) -> None:
    raw_chat = stage.channel.stream_stream(
        "/chatapi.v1.ChatService/Chat",
        request_serializer=lambda raw: raw,
        response_deserializer=pb.ChatResponse.FromString,
    )
    call = raw_chat(metadata=signed_in())
    broken = pb.ChatRequest(request_id="utf8", ping=pb.Ping()).SerializeToString() + b"\x22\x04\x0a\x02\xff\xfe"
    await call.write(broken)
    rejected = (await call.read()).rejected
    assert rejected.request_id == "utf8"
    assert told_by(rejected.status).code is grpc.StatusCode.INVALID_ARGUMENT
    await call.write(pb.ChatRequest(request_id="good", ping=pb.Ping()).SerializeToString())
    assert (await call.read()).pong.request_id == "good"
    call.cancel()


async def test_no_more_turns_than_allowed_run_on_a_stream(database: Database, issuer_keys: Path) -> None:
    async with staged(database, issuer_keys, max_turns_per_stream=2) as stage, Stream(stage) as stream:
        conversations = [await stage.conversation() for _ in range(3)]
        for number, conversation in enumerate(conversations):
            await stream.say(request_id=str(number), send=outgoing(conversation))
        # The refusal may overtake the acceptances.
        answers = {}
        while len(answers) < 3:
            said = await stream.hear()
            if (kind := said.WhichOneof("event")) in ("accepted", "rejected"):
                answers[getattr(said, kind).request_id] = said
        assert answers["0"].HasField("accepted")
        assert answers["1"].HasField("accepted")
        error = told_by(answers["2"].rejected.status)
        assert (error.code, error.reason, error.quota) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "TOO_MANY_TURNS",
            "stream",
        )
        (await stage.model.asked()).finish()
        await stream.hear_reply("completed")
        await eventually(lambda: len(stage.turns._running) == 1)
        await stream.say(request_id="3", send=outgoing(conversations[2]))
        assert (await stream.hear_kind("accepted")).request_id == "3"


async def test_a_reply_that_fails_is_told_with_a_status(stage: Stage) -> None:
    conversation = await stage.conversation()
    async with Stream(stage) as stream:
        await stream.say(send=outgoing(conversation))
        (await stage.model.asked()).fail(RuntimeError("secret of the provider"))
        failed = (await stream.hear_reply("failed")).failed
        error = told_by(failed.status)
        assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert "secret" not in str(failed)


async def test_an_unexpected_exception_is_told_without_its_text(database: Database, issuer_keys: Path) -> None:
    class Broken:
        def __init__(self, turns) -> None:
            pass

        async def send(self, caller, message):
            raise RuntimeError("secret of the database")

    async with staged(database, issuer_keys, turns=Broken) as stage, Stream(stage) as stream:
        await stream.say(request_id="r", send=outgoing(new_id()))
        rejected = await stream.hear_kind("rejected")
        error = told_by(rejected.status)
        assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert "secret" not in str(rejected)
        sent = dict(await stream.call.initial_metadata())
        assert error.metadata["request_id"] == sent["x-request-id"]


async def test_closing_the_request_side_lets_running_turns_finish(stage: Stage) -> None:
    conversation = await stage.conversation()
    async with Stream(stage) as stream:
        await stream.say(send=outgoing(conversation))
        await stream.call.done_writing()
        speaker = await stage.model.asked()
        speaker.say("still ")
        speaker.say("here")
        speaker.finish()
        completed = await stream.hear_reply("completed")
        assert completed.completed.message.parts[0].text.text == "still here"
        assert await stream.hear() is None
        assert await stream.call.code() is grpc.StatusCode.OK


async def test_a_stream_without_a_request_ends_with_ok_when_it_is_closed(stage: Stage) -> None:
    async with Stream(stage) as stream:
        await stream.call.done_writing()
        assert await stream.hear() is None


async def test_a_client_that_vanishes_ends_the_reading_and_not_the_turn(stage: Stage) -> None:
    conversation = await stage.conversation()
    async with Stream(stage) as stream:
        await stream.say(send=outgoing(conversation))
        reply_id = (await stream.hear_kind("accepted")).reply_id
        speaker = await stage.model.asked()
        speaker.say("half ")
        await stream.hear_reply("delta")
    await asyncio.wait_for(stage.drain.streams_ended(), 20)
    speaker.say("and half")
    speaker.finish()
    async with Stream(stage) as stream:
        await stream.say(resume=pb.ResumeReplyRequest(reply_id=reply_id))
        completed = await stream.hear_reply("completed")
        assert completed.completed.message.parts[0].text.text == "half and half"


async def test_a_client_that_never_reads_costs_a_bounded_amount(database: Database, issuer_keys: Path) -> None:
    """Its events wait in the turn's own log; the stream takes no more than the transport holds."""
    readers = []

    class Watched:
        def __init__(self, turns) -> None:
            self._turns = turns

        def __getattr__(self, name: str):
            return getattr(self._turns, name)

        async def send(self, caller, message):
            accepted, events = await self._turns.send(caller, message)
            readers.append(events)
            return accepted, events

    # By itself, gRPC widens its window to megabytes, and a busy machine takes long over a reply that fills it.
    window = 65_536
    narrow = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", window)]
    async with (
        staged(database, issuer_keys, turns=Watched, channel_options=narrow) as stage,
        Stream(stage) as stream,
    ):
        pieces, piece = 10 * CAPACITY, "x" * 2_000
        await stream.say(send=outgoing(await stage.conversation()))
        speaker = await stage.model.asked()
        speaker.say(*[piece] * pieces)
        speaker.finish()
        # The turn comes to its end although nobody reads it.
        await eventually(lambda: not stage.turns._running)
        [reader] = readers
        assert reader._position * len(piece) < 2 * window, "the reader waits for the client"
        # Nothing was lost meanwhile.
        text = ""
        while (event := await stream.hear_kind("reply")).WhichOneof("event") != "completed":
            text += event.delta.text
        assert len(text) == pieces * len(piece)


async def test_a_client_that_never_reads_and_vanishes_leaves_nothing_behind(stage: Stage) -> None:
    conversation = await stage.conversation()
    async with Stream(stage) as stream:
        await stream.say(send=outgoing(conversation))
        speaker = await stage.model.asked()
        speaker.say(*["x" * 20_000] * (10 * CAPACITY))
        speaker.finish()
        await eventually(lambda: not stage.turns._running)
    await asyncio.wait_for(stage.drain.streams_ended(), 20)
    await eventually(lambda: not [task for task in asyncio.all_tasks() if "ChatStream" in repr(task.get_coro())])


async def test_an_expired_stream_of_a_client_that_never_reads_ends(
    database: Database, issuer_keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatrpc.rpc.outbox.WRITE_GRACE", 0.1)
    async with staged(database, issuer_keys, heartbeat=0.05) as stage, Stream(stage) as stream:
        await stream.say(send=outgoing(await stage.conversation()))
        speaker = await stage.model.asked()
        speaker.say(*["x" * 20_000] * (10 * CAPACITY))
        speaker.finish()
        await eventually(lambda: not stage.turns._running)
        stage.clock.ahead = 1000
        await asyncio.wait_for(stage.drain.streams_ended(), 20)


async def test_a_stream_announces_its_tokens_expiry_and_then_ends(database: Database, issuer_keys: Path) -> None:
    # Streams look at the clock with every heartbeat at least.
    async with staged(database, issuer_keys, heartbeat=0.05) as stage:
        expires_at = int(time.time()) + 600
        async with Stream(stage, signed_in(exp=expires_at)) as stream:
            await stream.say(send=outgoing(await stage.conversation()))
            await stream.hear_kind("accepted")
            stage.clock.ahead = 580
            going_away = await stream.hear_kind("going_away")
            assert going_away.reason == pb.GoingAway.REASON_TOKEN_EXPIRING
            assert going_away.deadline.ToSeconds() == expires_at + LEEWAY
            # Between notice and end the stream serves on.
            await stream.say(request_id="still", ping=pb.Ping())
            while (await stream.hear_kind("pong")).request_id != "still":
                pass
            stage.clock.ahead = 610
            error = told(await failure(stream.call))
            assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
        # The turn goes on without the stream.
        assert len(stage.turns._running) == 1


async def test_silence_is_broken_by_heartbeats(database: Database, issuer_keys: Path) -> None:
    async with staged(database, issuer_keys, heartbeat=0.05) as stage, Stream(stage) as stream:
        for _ in range(3):
            assert (await stream.hear()).pong == pb.Pong()


async def test_a_draining_server_lets_turns_finish_and_takes_no_new_ones(stage: Stage) -> None:
    conversation = await stage.conversation()
    async with Stream(stage) as stream:
        await stream.say(send=outgoing(conversation))
        speaker = await stage.model.asked()
        stage.drain.begin(grace=20)
        going_away = await stream.hear_kind("going_away")
        assert going_away.reason == pb.GoingAway.REASON_DRAINING
        assert stage.drain.deadline is not None
        assert abs(going_away.deadline.ToMilliseconds() / 1000 - stage.drain.deadline) < 0.01
        await stream.say(request_id="late", send=outgoing(conversation))
        rejected = await stream.hear_kind("rejected")
        error = told_by(rejected.status)
        assert (rejected.request_id, error.code, error.reason) == (
            "late",
            grpc.StatusCode.UNAVAILABLE,
            "SERVER_DRAINING",
        )
        assert error.retry_after is not None
        speaker.say("finished")
        speaker.finish()
        completed = await stream.hear_reply("completed")
        assert completed.completed.message.parts[0].text.text == "finished"
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await stream.hear()
        assert told(ended.value).reason == "SERVER_DRAINING"
        assert told(ended.value).retry_after is not None


async def test_an_idle_stream_ends_at_once_when_the_server_drains(stage: Stage) -> None:
    async with Stream(stage) as stream:
        await stream.say(ping=pb.Ping())
        await stream.hear_kind("pong")
        stage.drain.begin(grace=20)
        await stream.hear_kind("going_away")
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await stream.hear()
        assert told(ended.value).reason == "SERVER_DRAINING"


async def test_a_stream_ends_at_the_drains_deadline(stage: Stage) -> None:
    conversation = await stage.conversation()
    async with Stream(stage) as stream:
        await stream.say(send=outgoing(conversation))
        await stage.model.asked()
        stage.drain.begin(grace=0.2)
        assert told(await failure(stream.call)).reason == "SERVER_DRAINING"
        await asyncio.wait_for(stage.drain.streams_ended(), 20)
    assert len(stage.turns._running) == 1


async def test_a_stream_is_idle_only_while_no_reply_is_followed(database: Database, issuer_keys: Path) -> None:
    async with staged(database, issuer_keys, heartbeat=0.02, idle_limit=100) as stage, Stream(stage) as stream:
        await stream.say(request_id="one", send=outgoing(await stage.conversation()))
        await stream.hear_kind("accepted")
        speaker = await stage.model.asked()
        stage.clock.ahead = 150
        for _ in range(3):
            assert (await stream.hear()).WhichOneof("event") in ("pong", "reply")
        speaker.finish()
        await stream.hear_reply("completed")
        stage.clock.ahead += 50
        for _ in range(3):
            assert (await stream.hear()).HasField("pong")
        stage.clock.ahead += 51
        assert (await stream.hear_kind("going_away")).reason == pb.GoingAway.REASON_IDLE
        stage.clock.ahead += 11
        while (response := await stream.hear()) is not None:
            assert response.HasField("pong")


async def test_a_connection_bears_so_many_calls_and_a_further_one_waits(database: Database, issuer_keys: Path) -> None:
    async with (
        staged(database, issuer_keys, max_streams=2, heartbeat=PATIENCE) as stage,
        Stream(stage) as first,
        Stream(stage) as second,
    ):
        for stream in (first, second):
            await stream.say(request_id="open", ping=pb.Ping())
            await stream.hear_kind("pong")
        async with Stream(stage) as third:

            async def answered() -> str:
                await third.say(request_id="third", ping=pb.Ping())
                return (await third.hear_kind("pong")).request_id

            waiting = asyncio.create_task(answered())
            for _ in range(10):
                await second.say(request_id="again", ping=pb.Ping())
                await second.hear_kind("pong")
            assert not waiting.done()
            first.call.cancel()
            assert await asyncio.wait_for(waiting, PATIENCE) == "third"
