"""The client's watch of a conversation, over calls that are cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from chatapi.v1 import conversation_service_pb2 as pb
from chatapi.v1.chat_service_pb2 import GoingAway, Pong, ReplyEvent, TextDelta
from chatapi.v1.conversation_pb2 import Conversation
from chatapi.v1.conversation_service_pb2_grpc import (
    ConversationServiceServicer,
    add_ConversationServiceServicer_to_server,
)
from chatapi.v1.message_pb2 import Message

from chatrpc.client import CallError, connect
from tests.client.scripted import CONVERSATION, PATIENCE, QUICK, REPLY


def delta(sequence: int, attempt: int = 1) -> pb.WatchConversationResponse:
    event = ReplyEvent(reply_id=REPLY, attempt=attempt, sequence=sequence, delta=TextDelta(text=str(sequence)))
    return pb.WatchConversationResponse(reply=event)


def changed(revision: int, *, reload: bool = False) -> pb.WatchConversationResponse:
    conversation = Conversation(id=CONVERSATION, revision=revision)
    return pb.WatchConversationResponse(changed=pb.ConversationChanged(conversation=conversation, reload=reload))


MESSAGE = pb.WatchConversationResponse(message=Message(id=REPLY))
PONG = pb.WatchConversationResponse(pong=Pong())
GOING_AWAY = pb.WatchConversationResponse(going_away=GoingAway(reason=GoingAway.REASON_DRAINING))
DELETED = pb.WatchConversationResponse(deleted=pb.ConversationDeleted())
CALLS = [
    [MESSAGE, delta(1), changed(2), PONG, delta(2), GOING_AWAY],
    [],
    [delta(1), delta(2), delta(3), changed(3)],
    [changed(7, reload=True), delta(1, attempt=2), DELETED],
]


class Scripted(ConversationServiceServicer):
    """Each call tells its part of the script and is then cut off."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def WatchConversation(  # noqa: N802 - the contract's name
        self, request, context
    ) -> AsyncIterator[pb.WatchConversationResponse]:
        self.asked.append(request.after_revision)
        if request.conversation_id != CONVERSATION:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such conversation")
        for response in CALLS[len(self.asked) - 1]:
            yield response
        if len(self.asked) < len(CALLS):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut off")


async def test_a_watch_goes_on_after_each_cut_and_tells_each_event_once() -> None:
    server, servicer = grpc.aio.server(), Scripted()
    add_ConversationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with connect(f"127.0.0.1:{port}", "token", retry=QUICK) as client, asyncio.timeout(PATIENCE):
            told = [response async for response in client.watch(CONVERSATION, 1)]
            assert told == [
                MESSAGE,
                delta(1),
                changed(2),
                delta(2),
                delta(3),
                changed(3),
                changed(7, reload=True),
                delta(1, attempt=2),
                DELETED,
            ]
            assert servicer.asked == [1, 2, 2, 3]
            with pytest.raises(CallError, match="no such conversation"):
                await anext(client.watch(REPLY))
    finally:
        await server.stop(None)
