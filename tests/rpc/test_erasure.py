"""EraseMessage, and what a conversation's memory means, over the wire."""

from __future__ import annotations

import grpc
import pytest
from chatapi.v1 import chat_service_pb2 as chat_pb
from chatapi.v1 import conversation_service_pb2 as pb
from chatapi.v1.conversation_pb2 import (
    CONVERSATION_MEMORY_PRIVATE,
    CONVERSATION_MEMORY_REMEMBERED,
    CONVERSATION_MEMORY_TEMPORARY,
    CONVERSATION_MEMORY_UNSPECIFIED,
    Conversation,
)
from chatapi.v1.message_pb2 import MESSAGE_STATE_CANCELLED, MESSAGE_STATE_ERASED, Message

from tests.rpc.stage import Metadata, Stage, Stream, failure, new_id, outgoing, rest, signed_in, told
from tests.rpc.test_conversations import created, replied, updated


@pytest.fixture
def somebody() -> Metadata:
    return signed_in(sub=new_id())


async def erase(stage: Stage, metadata: Metadata, message_id: str, **fields: bool) -> pb.EraseMessageResponse:
    request = pb.EraseMessageRequest(message_id=message_id, **fields)
    return await stage.conversations.EraseMessage(request, metadata=metadata)


async def messages(stage: Stage, metadata: Metadata, conversation_id: str) -> list[Message]:
    request = pb.ListMessagesRequest(conversation_id=conversation_id)
    return list((await stage.conversations.ListMessages(request, metadata=metadata)).messages)


async def resumed(stage: Stage, metadata: Metadata, reply_id: str, **seen: int) -> list[chat_pb.ReplyEvent]:
    request = chat_pb.ResumeReplyRequest(reply_id=reply_id, **seen)
    return [each.reply for each in await rest(stage.chat.ResumeReply(request, metadata=metadata))]


async def test_an_erased_message_is_listed_as_a_tombstone_and_counted(stage: Stage, somebody: Metadata) -> None:
    conversation = await stage.conversation(somebody)
    accepted = await replied(stage, conversation, "a secret", somebody)
    receipt = await erase(stage, somebody, accepted.message.id, include_reply=True)
    assert (receipt.messages, receipt.context_reports) == (2, 1)
    listed = await messages(stage, somebody, conversation)
    assert [(each.state, list(each.parts)) for each in listed] == [(MESSAGE_STATE_ERASED, [])] * 2
    assert listed[0].client_message_id == accepted.message.client_message_id
    assert [each.sequence for each in listed] == [1, 2]
    assert (await erase(stage, somebody, accepted.message.id)).messages == 0


async def test_the_next_prompt_does_not_hold_what_was_erased(stage: Stage, somebody: Metadata) -> None:
    conversation = await stage.conversation(somebody)
    accepted = await replied(stage, conversation, "a secret", somebody)
    await erase(stage, somebody, accepted.message.id)
    call = stage.chat.SendMessage(
        chat_pb.SendMessageRequest(message=outgoing(conversation, "and now?")), metadata=somebody
    )
    speaker = await stage.model.asked()
    assert [each.content for each in speaker.request.prompt[1:]] == ["re: a secret", "and now?"]
    speaker.finish()
    await rest(call)


async def test_a_resend_of_what_was_erased_tells_the_reply_that_it_had(stage: Stage, somebody: Metadata) -> None:
    conversation = await stage.conversation(somebody)
    accepted = await replied(stage, conversation, "a secret", somebody)
    await erase(stage, somebody, accepted.message.id)
    again = outgoing(conversation, "a secret", client_message_id=accepted.message.client_message_id)
    call = stage.chat.SendMessage(chat_pb.SendMessageRequest(message=again), metadata=somebody)
    first, *events = await rest(call)
    assert first.accepted.duplicate
    assert first.accepted.message.state == MESSAGE_STATE_ERASED
    assert events[-1].reply.completed.message.parts[0].text.text == "re: a secret"


async def test_of_an_erased_reply_readers_hear_the_end_alone(stage: Stage, somebody: Metadata) -> None:
    accepted = await replied(stage, await stage.conversation(somebody), "hello", somebody)
    seen = (await resumed(stage, somebody, accepted.reply_id))[-1]
    await erase(stage, somebody, accepted.reply_id)
    for position in ({}, {"attempt": seen.attempt, "after_sequence": seen.sequence}):
        [only] = await resumed(stage, somebody, accepted.reply_id, **position)
        assert only.completed.message.state == MESSAGE_STATE_ERASED
    request = pb.GetContextReportRequest(reply_id=accepted.reply_id)
    error = told(await failure(stage.conversations.GetContextReport(request, metadata=somebody)))
    assert error.reason == "CONTEXT_REPORT_NOT_FOUND"


@pytest.mark.parametrize("include_reply", [False, True])
async def test_a_running_reply_is_stopped_first(stage: Stage, somebody: Metadata, include_reply: bool) -> None:
    conversation = await stage.conversation(somebody)
    async with Stream(stage, somebody) as stream:
        await stream.say(send=outgoing(conversation, "a secret"))
        accepted = await stream.hear_kind("accepted")
        speaker = await stage.model.asked()
        speaker.say("half an ans")
        await stream.hear_reply("delta")
        receipt = await erase(stage, somebody, accepted.message.id, include_reply=include_reply)
        assert receipt.messages == 1 + include_reply
        assert (await stream.hear_reply("completed")).completed.message.state == MESSAGE_STATE_CANCELLED
    question, reply = await messages(stage, somebody, conversation)
    assert question.state == MESSAGE_STATE_ERASED
    if include_reply:
        assert (reply.state, list(reply.parts)) == (MESSAGE_STATE_ERASED, [])
    else:
        assert (reply.state, reply.parts[0].text.text) == (MESSAGE_STATE_CANCELLED, "half an ans")


async def test_a_message_of_somebody_else_is_not_found(stage: Stage, somebody: Metadata) -> None:
    accepted = await replied(stage, await stage.conversation(somebody), "a secret", somebody)
    request = pb.EraseMessageRequest(message_id=accepted.message.id, include_reply=True)
    error = told(await failure(stage.conversations.EraseMessage(request, metadata=signed_in(sub="mallory"))))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "MESSAGE_NOT_FOUND")


async def test_a_conversations_memory_is_set_told_and_changed(stage: Stage, somebody: Metadata) -> None:
    assert (await created(stage, somebody)).memory == CONVERSATION_MEMORY_REMEMBERED
    conversation = await created(stage, somebody, memory=CONVERSATION_MEMORY_PRIVATE)
    assert conversation.memory == CONVERSATION_MEMORY_PRIVATE
    for memory in (CONVERSATION_MEMORY_REMEMBERED, CONVERSATION_MEMORY_PRIVATE):
        change = Conversation(id=conversation.id, memory=memory)
        assert (await updated(stage, somebody, change, "memory")).memory == memory
    # A field that is not named stays, and one that is named and empty takes its default.
    named = await updated(stage, somebody, Conversation(id=conversation.id, title="Trip"), "title")
    assert named.memory == CONVERSATION_MEMORY_PRIVATE
    reset = Conversation(id=conversation.id, memory=CONVERSATION_MEMORY_UNSPECIFIED)
    assert (await updated(stage, somebody, reset, "memory")).memory == CONVERSATION_MEMORY_REMEMBERED


async def test_a_temporary_conversation_stays_so(stage: Stage, somebody: Metadata) -> None:
    temporary = await created(stage, somebody, memory=CONVERSATION_MEMORY_TEMPORARY)
    lasting = await created(stage, somebody)
    for conversation, memory in (
        (temporary, CONVERSATION_MEMORY_REMEMBERED),
        (lasting, CONVERSATION_MEMORY_TEMPORARY),
    ):
        change = Conversation(id=conversation.id, memory=memory)
        error = told(await failure(updated(stage, somebody, change, "memory")))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MEMORY_FIXED")
