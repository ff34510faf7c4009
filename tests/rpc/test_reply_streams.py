"""SendMessage, ResumeReply and CancelReply: the same turn for clients without bidirectional streaming."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from chatapi.v1 import chat_service_pb2 as pb

from chatrpc.db.engine import Database
from tests.rpc.stage import PATIENCE, Stage, eventually, failure, new_id, outgoing, rest, signed_in, staged, told


async def heard(call) -> object:
    return await asyncio.wait_for(call.read(), PATIENCE)


async def heard_kind(call, kind: str):
    while (response := await heard(call)) is not grpc.aio.EOF:
        if response.WhichOneof("event") == kind:
            return getattr(response, kind)
    raise AssertionError(f"the stream ended without {kind}")


async def begun(stage: Stage):
    """A call of SendMessage whose message is accepted, the acceptance, and the model that answers."""
    conversation = await stage.conversation()
    call = stage.chat.SendMessage(pb.SendMessageRequest(message=outgoing(conversation)), metadata=signed_in())
    accepted = await heard_kind(call, "accepted")
    return call, accepted, await stage.model.asked()


async def test_a_message_is_accepted_and_its_reply_told(stage: Stage) -> None:
    call, accepted, speaker = await begun(stage)
    speaker.say("Hi.")
    speaker.finish()
    events = [response.reply for response in await rest(call)]
    assert [event.WhichOneof("event") for event in events] == ["context_report", "delta", "completed"]
    assert {event.reply_id for event in events} == {accepted.reply_id}
    assert await call.code() is grpc.StatusCode.OK


async def test_the_same_message_twice_is_one_turn(stage: Stage) -> None:
    conversation = await stage.conversation()
    request = pb.SendMessageRequest(message=outgoing(conversation, client_message_id="once"))
    calls = [stage.chat.SendMessage(request, metadata=signed_in()) for _ in range(2)]
    (await stage.model.asked()).finish()
    answers = [[response async for response in call] for call in calls]
    assert {answer[0].accepted.message.id for answer in answers} == {answers[0][0].accepted.message.id}
    assert sorted(answer[0].accepted.duplicate for answer in answers) == [False, True]
    assert answers[0][1:] == answers[1][1:]


async def test_other_content_under_the_same_key_already_exists(stage: Stage) -> None:
    conversation = await stage.conversation()
    first = pb.SendMessageRequest(message=outgoing(conversation, "one", client_message_id="m-17"))
    stage.chat.SendMessage(first, metadata=signed_in())
    await stage.model.asked()
    second = pb.SendMessageRequest(message=outgoing(conversation, "two", client_message_id="m-17"))
    error = told(await failure(stage.chat.SendMessage(second, metadata=signed_in())))
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "CLIENT_MESSAGE_ID_REUSED")
    assert error.metadata == {"id": "m-17"}
    assert error.resource == ("message", "m-17")


async def test_a_reply_is_resumed_from_where_the_client_was(stage: Stage) -> None:
    call, accepted, speaker = await begun(stage)
    speaker.say("one")
    while not (seen := await heard_kind(call, "reply")).HasField("delta"):
        pass
    call.cancel()
    resume = pb.ResumeReplyRequest(reply_id=accepted.reply_id, attempt=seen.attempt, after_sequence=seen.sequence)
    resumed = stage.chat.ResumeReply(resume, metadata=signed_in())
    speaker.say("two")
    speaker.finish()
    events = [response.reply for response in await rest(resumed)]
    assert [event.sequence for event in events] == [seen.sequence + 1, seen.sequence + 2]
    assert events[-1].completed.message.parts[0].text.text == "onetwo"


async def test_resuming_beyond_the_end_is_out_of_range(stage: Stage) -> None:
    call, accepted, speaker = await begun(stage)
    speaker.finish()
    await rest(call)
    resume = pb.ResumeReplyRequest(reply_id=accepted.reply_id, attempt=1, after_sequence=99)
    error = told(await failure(stage.chat.ResumeReply(resume, metadata=signed_in())))
    assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "SEQUENCE_OUT_OF_RANGE")


async def test_an_unknown_reply_is_not_found(stage: Stage) -> None:
    reply_id = new_id()
    for call in (
        stage.chat.ResumeReply(pb.ResumeReplyRequest(reply_id=reply_id), metadata=signed_in()),
        stage.chat.CancelReply(pb.CancelReplyRequest(reply_id=reply_id), metadata=signed_in()),
    ):
        error = told(await failure(call))
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "REPLY_NOT_FOUND")


async def test_a_reply_of_somebody_else_is_not_found(stage: Stage) -> None:
    call, accepted, _ = await begun(stage)
    resume = pb.ResumeReplyRequest(reply_id=accepted.reply_id)
    assert told(await failure(stage.chat.ResumeReply(resume, metadata=signed_in(sub="mallory")))).code is (
        grpc.StatusCode.NOT_FOUND
    )
    call.cancel()


async def test_a_cancelled_reply_keeps_its_text_and_can_be_cancelled_again(stage: Stage) -> None:
    call, accepted, speaker = await begun(stage)
    speaker.say("half")
    while not (await heard_kind(call, "reply")).HasField("delta"):
        pass
    cancel = pb.CancelReplyRequest(reply_id=accepted.reply_id)
    assert (await stage.chat.CancelReply(cancel, metadata=signed_in())).stopped
    completed = (await heard_kind(call, "reply")).completed
    assert completed.message.parts[0].text.text == "half"
    assert await heard(call) is grpc.aio.EOF
    again = await stage.chat.CancelReply(cancel, metadata=signed_in())
    assert (again.reply_id, again.stopped) == (accepted.reply_id, False)


async def test_a_client_that_vanishes_ends_the_reading_and_not_the_turn(stage: Stage) -> None:
    call, accepted, speaker = await begun(stage)
    call.cancel()
    await asyncio.wait_for(stage.drain.streams_ended(), PATIENCE)
    speaker.say("whole")
    speaker.finish()
    resumed = stage.chat.ResumeReply(pb.ResumeReplyRequest(reply_id=accepted.reply_id), metadata=signed_in())
    *_, last = [response.reply for response in await rest(resumed)]
    assert last.completed.message.parts[0].text.text == "whole"


async def test_a_silent_model_is_bridged_by_heartbeats(database: Database, issuer_keys: Path) -> None:
    async with staged(database, issuer_keys, heartbeat=0.05) as stage:
        call, _, speaker = await begun(stage)
        for _ in range(3):
            assert await heard_kind(call, "pong") == pb.Pong()
        speaker.finish()
        await heard_kind(call, "reply")
        call.cancel()


@pytest.mark.parametrize("method", ["SendMessage", "ResumeReply"])
async def test_a_stream_ends_with_its_token(database: Database, issuer_keys: Path, method: str) -> None:
    async with staged(database, issuer_keys, heartbeat=0.05) as stage:
        call, accepted, _ = await begun(stage)
        if method == "ResumeReply":
            call.cancel()
            resume = pb.ResumeReplyRequest(reply_id=accepted.reply_id)
            call = stage.chat.ResumeReply(resume, metadata=signed_in())
            await heard(call)
        stage.clock.ahead = 590
        assert (await heard_kind(call, "going_away")).reason == pb.GoingAway.REASON_TOKEN_EXPIRING
        stage.clock.ahead = 610
        error = told(await failure(call))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
        assert len(stage.turns._running) == 1


async def test_a_draining_server_tells_running_replies_to_their_end(stage: Stage) -> None:
    call, accepted, speaker = await begun(stage)
    stage.drain.begin(20)
    assert (await heard_kind(call, "going_away")).reason == pb.GoingAway.REASON_DRAINING
    request = pb.SendMessageRequest(message=outgoing(accepted.message.conversation_id))
    resume = pb.ResumeReplyRequest(reply_id=accepted.reply_id)
    for refused in (
        stage.chat.SendMessage(request, metadata=signed_in()),
        stage.chat.ResumeReply(resume, metadata=signed_in()),
    ):
        error = told(await failure(refused))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
        assert error.retry_after is not None
    speaker.say("finished")
    speaker.finish()
    *_, last = [response.reply for response in await rest(call)]
    assert last.completed.message.parts[0].text.text == "finished"
    assert await call.code() is grpc.StatusCode.OK
    await asyncio.wait_for(stage.drain.streams_ended(), PATIENCE)


async def test_a_draining_server_cuts_at_its_deadline(stage: Stage) -> None:
    call, _, _ = await begun(stage)
    stage.drain.begin(0.2)
    assert told(await failure(call)).reason == "SERVER_DRAINING"
    await eventually(lambda: len(stage.turns._running) == 1)
