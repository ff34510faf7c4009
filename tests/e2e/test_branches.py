"""A conversation that branches, with a second tab that watches, over both doors."""

from __future__ import annotations

import asyncio

from chatapi.v1.chat_service_pb2 import RegenerateReplyRequest
from chatapi.v1.conversation_service_pb2 import (
    CreateConversationRequest,
    DeleteConversationRequest,
    ForkConversationRequest,
    ListMessagesRequest,
    SwitchBranchRequest,
    WatchConversationResponse,
)
from chatapi.v1.message_pb2 import Message

from chatrpc.client import ChatClient, connect, text_message
from tests.e2e.stack import PATIENCE


def text_of(message: Message) -> str:
    return "".join(part.text.text for part in message.parts)


async def texts(client: ChatClient, conversation_id: str) -> list[str]:
    request = ListMessagesRequest(conversation_id=conversation_id)
    return [text_of(each) for each in (await client.call(client.conversations.ListMessages, request)).messages]


async def test_a_conversation_branches_and_another_tab_sees_it(door: str, token: str) -> None:
    async with connect(door, token) as client, connect(door, token) as elsewhere, client.chat() as session:
        stub = client.conversations
        conversation_id = (await client.call(stub.CreateConversation, CreateConversationRequest())).conversation.id
        told: list[WatchConversationResponse] = []

        async def watch() -> None:
            async for response in elsewhere.watch(conversation_id):
                told.append(response)  # noqa: PERF401 - it is read while it grows

        watching = asyncio.create_task(watch())
        async with asyncio.timeout(PATIENCE):
            while not told:
                await asyncio.sleep(0.01)
        assert told[0].changed.reload

        first = await session.send(text_message(conversation_id, "My sister lives in Lisbon."))
        await first.reply()
        request = RegenerateReplyRequest(conversation_id=conversation_id, message_id=first.reply_id)
        again = await session.regenerate(request)
        events = [event async for event in again]
        assert again.accepted is not None
        assert again.accepted.message.id == first.accepted.message.id
        message = text_message(conversation_id, "My sister lives in Rome.")
        message.at_root = True
        await (await session.send(message)).reply()
        assert (await texts(client, conversation_id))[0] == "My sister lives in Rome."

        await client.call(stub.SwitchBranch, SwitchBranchRequest(message_id=again.reply_id))
        assert await texts(client, conversation_id) == ["My sister lives in Lisbon.", again.text]
        fork = ForkConversationRequest(message_id=first.reply_id, request_id="once")
        made = (await client.call(stub.ForkConversation, fork)).conversation
        assert await texts(client, made.id) == ["My sister lives in Lisbon.", first.text]

        await client.call(stub.DeleteConversation, DeleteConversationRequest(conversation_id=conversation_id))
        async with asyncio.timeout(PATIENCE):
            await watching
        assert told[-1].HasField("deleted")
        assert [each.reply for each in told if each.reply.reply_id == again.reply_id] == events
        heads = [each.changed.conversation.head_message_id for each in told if each.HasField("changed")]
        assert again.reply_id in heads
        assert await texts(client, made.id) == ["My sister lives in Lisbon.", first.text]
