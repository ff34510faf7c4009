"""RegenerateReply and the edit of the first message, on both doors; SwitchBranch."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from chatapi.v1 import chat_service_pb2 as chat_pb
from chatapi.v1 import conversation_service_pb2 as pb

from chatrpc.db.engine import Database
from tests.rpc.stage import PATIENCE, Stage, Stream, failure, new_id, outgoing, rest, signed_in, staged, told


async def heard(call) -> object:
    return await asyncio.wait_for(call.read(), PATIENCE)


async def said(stage: Stage, conversation: str, text: str, answer: str, **fields) -> chat_pb.MessageAccepted:
    """Say something and read the reply to its end."""
    request = chat_pb.SendMessageRequest(message=outgoing(conversation, text, **fields))
    call = stage.chat.SendMessage(request, metadata=signed_in())
    accepted = (await heard(call)).accepted
    speaker = await stage.model.asked()
    speaker.say(answer)
    speaker.finish()
    await rest(call)
    return accepted


def anew(conversation: str, message_id: str, key: str = "", **fields) -> chat_pb.RegenerateReplyRequest:
    return chat_pb.RegenerateReplyRequest(
        conversation_id=conversation, message_id=message_id, client_message_id=key or new_id(), **fields
    )


async def regenerated(stage: Stage, conversation: str, message_id: str, answer: str) -> chat_pb.MessageAccepted:
    call = stage.chat.RegenerateReply(anew(conversation, message_id), metadata=signed_in())
    accepted = (await heard(call)).accepted
    speaker = await stage.model.asked()
    speaker.say(answer)
    speaker.finish()
    await rest(call)
    return accepted


async def texts(stage: Stage, conversation: str, **fields) -> list[str]:
    request = pb.ListMessagesRequest(conversation_id=conversation, **fields)
    listed = await stage.conversations.ListMessages(request, metadata=signed_in())
    return ["".join(part.text.text for part in message.parts) for message in listed.messages]


async def test_a_reply_is_had_anew_and_both_are_read(stage: Stage) -> None:
    conversation = await stage.conversation()
    first = await said(stage, conversation, "Hi.", "one")
    request = anew(conversation, first.reply_id, "again")
    call = stage.chat.RegenerateReply(request, metadata=signed_in())
    accepted = (await heard(call)).accepted
    assert (accepted.message, accepted.reply_sequence, accepted.duplicate) == (first.message, 3, False)
    assert accepted.reply_id != first.reply_id
    speaker = await stage.model.asked()
    assert [message.content for message in speaker.request.prompt if message.role == "user"] == ["Hi."]
    speaker.say("two")
    speaker.finish()
    events = [response.reply for response in await rest(call)]
    assert [event.WhichOneof("event") for event in events] == ["context_report", "delta", "completed"]
    assert {event.reply_id for event in events} == {accepted.reply_id}
    assert events[-1].completed.message.client_message_id == "again"
    assert events[-1].completed.message.parent_id == first.message.id

    resent = await rest(stage.chat.RegenerateReply(request, metadata=signed_in()))
    assert resent[0].accepted.duplicate
    assert [response.reply for response in resent[1:]] == events
    assert await texts(stage, conversation) == ["Hi.", "two"]
    assert await texts(stage, conversation, all_branches=True) == ["Hi.", "one", "two"]


async def test_a_reply_is_had_anew_on_a_chat_stream(stage: Stage) -> None:
    conversation = await stage.conversation()
    first = await said(stage, conversation, "Hi.", "one")
    async with Stream(stage) as stream:
        await stream.say(request_id="r1", regenerate=anew(conversation, first.message.id))
        accepted = await stream.hear_kind("accepted")
        assert (accepted.request_id, accepted.message.id) == ("r1", first.message.id)
        speaker = await stage.model.asked()
        speaker.say("two")
        speaker.finish()
        completed = await stream.hear_reply("completed")
        assert completed.reply_id == accepted.reply_id
        await stream.say(request_id="r2", regenerate=anew(conversation, new_id()))
        rejected = await stream.hear_kind("rejected")
        assert (rejected.request_id, rejected.status.code) == ("r2", grpc.StatusCode.NOT_FOUND.value[0])


async def test_a_reply_to_an_erased_message_cannot_be_had_anew(stage: Stage) -> None:
    conversation = await stage.conversation()
    first = await said(stage, conversation, "Hi.", "one")
    await stage.conversations.EraseMessage(pb.EraseMessageRequest(message_id=first.message.id), metadata=signed_in())
    call = stage.chat.RegenerateReply(anew(conversation, first.reply_id), metadata=signed_in())
    error = told(await failure(call))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MESSAGE_ERASED")
    assert error.metadata == {"id": first.reply_id}


@pytest.mark.parametrize("field", ["conversation_id", "message_id", "client_message_id"])
async def test_a_regeneration_names_what_it_lacks(stage: Stage, field: str) -> None:
    request = anew(new_id(), new_id())
    request.ClearField(field)
    error = told(await failure(stage.chat.RegenerateReply(request, metadata=signed_in())))
    assert (error.code, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_the_reply_of_somebody_else_does_not_exist(stage: Stage) -> None:
    conversation = await stage.conversation()
    first = await said(stage, conversation, "Hi.", "one")
    call = stage.chat.RegenerateReply(anew(conversation, first.reply_id), metadata=signed_in(sub="mallory"))
    assert told(await failure(call)).code is grpc.StatusCode.NOT_FOUND


async def test_a_service_that_has_a_reply_anew_for_a_user_is_named_in_it(stage: Stage) -> None:
    conversation = await stage.conversation()
    first = await said(stage, conversation, "Hi.", "one")
    service = (*signed_in(sub="billing", scope="chat.act_as"), ("x-chatrpc-on-behalf-of", "alice"))
    call = stage.chat.RegenerateReply(anew(conversation, first.reply_id), metadata=service)
    assert (await heard(call)).accepted.message.actor == ""
    (await stage.model.asked()).finish()
    assert (await rest(call))[-1].reply.completed.message.actor == "billing"
    listed = await stage.conversations.ListMessages(
        pb.ListMessagesRequest(conversation_id=conversation), metadata=signed_in()
    )
    assert [message.actor for message in listed.messages] == ["", "billing"]


async def test_the_first_message_is_edited(stage: Stage) -> None:
    conversation = await stage.conversation()
    await said(stage, conversation, "Hallo.", "one")
    await said(stage, conversation, "More.", "two")
    edited = await said(stage, conversation, "Hello.", "three", at_root=True)
    assert edited.message.parent_id == ""
    assert await texts(stage, conversation) == ["Hello.", "three"]
    await said(stage, conversation, "Then?", "four")
    assert await texts(stage, conversation) == ["Hello.", "three", "Then?", "four"]
    assert len(await texts(stage, conversation, all_branches=True)) == 8

    refused = outgoing(conversation, at_root=True, parent_id=new_id())
    call = stage.chat.SendMessage(chat_pb.SendMessageRequest(message=refused), metadata=signed_in())
    assert told(await failure(call)).fields == ["parent_id"]


async def test_the_versions_of_a_message_are_listed_and_switched(stage: Stage) -> None:
    conversation = await stage.conversation()
    first = await said(stage, conversation, "Hi.", "one")
    again = await regenerated(stage, conversation, first.reply_id, "two")
    await said(stage, conversation, "More.", "three")

    listed = await stage.conversations.ListMessages(
        pb.ListMessagesRequest(conversation_id=conversation), metadata=signed_in()
    )
    expected = pb.Siblings(parent_id=first.message.id, message_ids=[first.reply_id, again.reply_id])
    assert list(listed.siblings) == [expected]
    before = listed.messages[-1].id

    async def switch(message_id: str):
        request = pb.SwitchBranchRequest(message_id=message_id)
        return (await stage.conversations.SwitchBranch(request, metadata=signed_in())).conversation

    back = await switch(first.reply_id)
    assert back.head_message_id == first.reply_id
    assert await texts(stage, conversation) == ["Hi.", "one"]
    assert (await switch(first.reply_id)).revision == back.revision
    forth = await switch(again.reply_id)
    assert (forth.head_message_id, forth.revision) == (before, back.revision + 1)
    request = pb.SwitchBranchRequest(message_id=first.reply_id)
    error = told(await failure(stage.conversations.SwitchBranch(request, metadata=signed_in(sub="mallory"))))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "MESSAGE_NOT_FOUND")


async def test_a_running_reply_runs_on_while_another_path_is_taken(stage: Stage) -> None:
    conversation = await stage.conversation()
    first = await said(stage, conversation, "Hi.", "one")
    call = stage.chat.RegenerateReply(anew(conversation, first.reply_id), metadata=signed_in())
    speaker = await stage.model.asked()
    await stage.conversations.SwitchBranch(pb.SwitchBranchRequest(message_id=first.reply_id), metadata=signed_in())
    speaker.say("two")
    speaker.finish()
    assert (await rest(call))[-1].reply.completed.message.parts[0].text.text == "two"
    async with asyncio.timeout(PATIENCE):
        await said(stage, conversation, "More.", "three")
    assert await texts(stage, conversation) == ["Hi.", "one", "More.", "three"]


async def test_a_conversation_is_forked_and_both_go_on(stage: Stage) -> None:
    conversation = await stage.conversation()
    first = await said(stage, conversation, "Hi.", "one")
    await said(stage, conversation, "More.", "two")

    async def fork(message_id: str, request_id: str = "", **claims: str):
        request = pb.ForkConversationRequest(message_id=message_id, request_id=request_id)
        return (await stage.conversations.ForkConversation(request, metadata=signed_in(**claims))).conversation

    request_id = new_id()
    made = await fork(first.reply_id, request_id)
    assert (made.message_count, made.revision) == (2, 1)
    assert (await fork(first.reply_id, request_id)).id == made.id
    assert await texts(stage, made.id) == ["Hi.", "one"]
    # The copies can be read, answered anew, and erased.
    copies = await stage.conversations.ListMessages(
        pb.ListMessagesRequest(conversation_id=made.id), metadata=signed_in()
    )
    replayed = await rest(
        stage.chat.ResumeReply(chat_pb.ResumeReplyRequest(reply_id=made.head_message_id), metadata=signed_in())
    )
    assert [response.reply.WhichOneof("event") for response in replayed] == ["delta", "completed"]
    await regenerated(stage, made.id, made.head_message_id, "three")
    await stage.conversations.EraseMessage(
        pb.EraseMessageRequest(message_id=copies.messages[0].id), metadata=signed_in()
    )
    assert await texts(stage, made.id) == ["", "three"]
    assert await texts(stage, conversation) == ["Hi.", "one", "More.", "two"]

    unanswered = await fork(first.message.id)
    answered = await regenerated(stage, unanswered.id, unanswered.head_message_id, "four")
    assert answered.message.id == unanswered.head_message_id
    await said(stage, unanswered.id, "More.", "five")
    assert await texts(stage, unanswered.id) == ["Hi.", "four", "More.", "five"]
    listed = await stage.conversations.ListMessages(
        pb.ListMessagesRequest(conversation_id=unanswered.id), metadata=signed_in()
    )
    assert not listed.siblings
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await fork(first.reply_id, sub="mallory")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_forks_of_a_user_have_a_limit(database: Database, issuer_keys: Path) -> None:
    async with staged(database, issuer_keys, max_forked_messages=2) as stage:
        first = await said(stage, await stage.conversation(), "Hi.", "one")
        fork = pb.ForkConversationRequest(message_id=first.reply_id)
        await stage.conversations.ForkConversation(fork, metadata=signed_in())
        error = told(await failure(stage.conversations.ForkConversation(fork, metadata=signed_in())))
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_FORKS")
        assert (error.quota, "CHATRPC_SERVER_MAX_FORKED_MESSAGES" in error.message) == ("user", True)
        assert error.retry_after is not None
        stage.drain.begin(30)
        error = told(await failure(stage.conversations.ForkConversation(fork, metadata=signed_in())))
        assert error.reason == "SERVER_DRAINING"


async def test_a_running_reply_cannot_be_forked_from(stage: Stage) -> None:
    conversation = await stage.conversation()
    call = stage.chat.SendMessage(chat_pb.SendMessageRequest(message=outgoing(conversation)), metadata=signed_in())
    accepted = (await heard(call)).accepted
    request = pb.ForkConversationRequest(message_id=accepted.reply_id)
    error = told(await failure(stage.conversations.ForkConversation(request, metadata=signed_in())))
    call.cancel()
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REPLY_UNFINISHED")
    assert error.metadata == {"id": accepted.reply_id}
