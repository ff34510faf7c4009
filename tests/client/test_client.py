"""Unary calls: repeated where that helps, and typed errors where it does not."""

from __future__ import annotations

import asyncio
import socket

import pytest
from chatapi.v1.conversation_pb2 import Conversation
from chatapi.v1.conversation_service_pb2 import GetConversationRequest, GetConversationResponse
from grpc import StatusCode

from chatrpc.client import CallError, RetryPolicy, connect, text_message
from tests.client.scripted import (
    CONVERSATION,
    PATIENCE,
    QUICK,
    Line,
    ScriptedChat,
    completed,
    failing,
    serving,
    staged,
    status,
)

REQUEST = GetConversationRequest(conversation_id=CONVERSATION)


async def found(request, context) -> GetConversationResponse:
    metadata = dict(context.invocation_metadata())
    return GetConversationResponse(
        conversation=Conversation(id=request.conversation_id, title=metadata["authorization"])
    )


async def test_a_call_bears_the_token() -> None:
    async with staged(answers=(found,)) as stage:
        response = await stage.client.call(stage.client.conversations.GetConversation, REQUEST)
        assert response.conversation.title == "Bearer token"


async def test_a_call_is_repeated_while_the_server_is_unavailable() -> None:
    away = failing(StatusCode.UNAVAILABLE, "Away.", "DATABASE_UNAVAILABLE", retry_after=0.03)
    async with staged(answers=(away, away, found)) as stage:
        await stage.client.call(stage.client.conversations.GetConversation, REQUEST)
        assert [error.retry_after for error, _ in stage.retries] == [0.03, 0.03]
        assert all(delay >= 0.03 for delay in stage.delays)


async def test_a_call_that_cannot_succeed_tells_why_at_once() -> None:
    missing = failing(
        StatusCode.NOT_FOUND, "Conversation 'x' does not exist.", "CONVERSATION_NOT_FOUND", metadata={"id": "x"}
    )
    async with staged(answers=(missing,)) as stage:
        with pytest.raises(CallError) as caught:
            await stage.client.call(stage.client.conversations.GetConversation, REQUEST)
        assert caught.value.code is StatusCode.NOT_FOUND
        assert caught.value.reason == "CONVERSATION_NOT_FOUND"
        assert caught.value.metadata == {"id": "x"}
        assert str(caught.value) == "CONVERSATION_NOT_FOUND: Conversation 'x' does not exist."
        assert stage.retries == []


async def test_details_that_contradict_the_status_are_not_believed() -> None:
    forged = status(StatusCode.NOT_FOUND, "Something else.", "REPLY_NOT_FOUND").SerializeToString()

    async def answer(request, context):
        context.set_trailing_metadata((("grpc-status-details-bin", forged),))
        await context.abort(StatusCode.PERMISSION_DENIED, "The proxy refuses.")

    async with staged(answers=(answer,)) as stage:
        with pytest.raises(CallError) as caught:
            await stage.client.call(stage.client.conversations.GetConversation, REQUEST)
        assert (caught.value.code, caught.value.reason) == (StatusCode.PERMISSION_DENIED, "")
        assert caught.value.message == "The proxy refuses."


async def test_a_single_call_can_have_a_policy_of_its_own() -> None:
    away = failing(StatusCode.UNAVAILABLE, "Away.", "DATABASE_UNAVAILABLE", retry_after=0.01)
    async with staged(answers=(away,)) as stage:
        with pytest.raises(CallError, match="DATABASE_UNAVAILABLE"):
            await stage.client.call(stage.client.conversations.GetConversation, REQUEST, retry=RetryPolicy(tries=1))
        assert stage.conversations.calls == 1


async def test_calls_and_turns_outlast_a_server_that_is_not_there_yet() -> None:
    accepted = []

    async def script(line: Line) -> None:
        request = await line.hear("send")
        accepted.append(request.send.client_message_id)
        await line.accept(request)
        await line.tell(completed(1))
        await line.closed()

    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    tried = asyncio.Event()
    client = connect(f"127.0.0.1:{port}", "token", retry=QUICK, on_retry=lambda error, delay: tried.set())
    async with asyncio.timeout(PATIENCE), client as opened, opened.chat() as session:
        message = text_message(CONVERSATION, "hello")
        sending = asyncio.create_task(session.send(message))
        await tried.wait()
        async with serving(ScriptedChat([script]), port=port):
            await (await sending).reply()
    assert accepted == [message.client_message_id]
