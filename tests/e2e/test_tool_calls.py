"""Tools through Envoy: over `Chat`, over `SendMessage` with `SubmitToolResults`, and as docs/clients.md shows them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio
from chatapi.v1 import chat_service_pb2 as pb
from chatapi.v1.conversation_service_pb2 import ListMessagesRequest
from chatapi.v1.message_pb2 import OutgoingMessage, Part, TextPart, Tool, ToolCall, ToolResult, TurnSettings
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status

from tests.e2e.stack import PATIENCE, Client, Dev, client, running_dev
from tests.e2e.test_docs_examples import TOOLS, here, run
from tests.support.provider import Answer, Provider

pytestmark = pytest.mark.asyncio(loop_scope="module")

PARAMETERS = json.dumps({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
SETTINGS = TurnSettings(tools=[Tool(name="weather", description="Tells the weather.", parameters=PARAMETERS)])
ROME = ("weather", '{"city": "Rome"}')


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dev]:
    folder: Path = tmp_path_factory.mktemp("tools")
    model = {"CHATRPC_MODEL_BASE_URL": provider.base_url, "CHATRPC_MODEL_NAME": "test-model"}
    limits = {"CHATRPC_MODEL_TOOL_TIMEOUT": "20", "CHATRPC_SERVER_EMBEDDED_WORKER": "false"}
    with running_dev(folder / "data", **model, **limits) as dev:
        yield dev


@pytest_asyncio.fixture(loop_scope="module")
async def person(stack: Dev) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(stack.edge) as channel:
        yield client(channel, stack.token_of(f"user-{uuid4().hex}"))


async def message(person: Client, settings: TurnSettings = SETTINGS) -> OutgoingMessage:
    return OutgoingMessage(
        conversation_id=await person.conversation(),
        client_message_id=uuid4().hex,
        parts=[Part(text=TextPart(text="Weather?"))],
        settings=settings,
    )


def rain(call: ToolCall) -> ToolResult:
    return ToolResult(call_id=call.id, content=f"Rain in {json.loads(call.arguments)['city']}.")


def kinds(events: list[pb.ReplyEvent]) -> list[str]:
    return [str(event.WhichOneof("event")) for event in events]


ROUNDS = ["context_report", "delta", "tool_call", "tool_result", "tool_call", "tool_result", "delta", "completed"]


def script(provider: Provider) -> None:
    oslo = ("weather", '{"city": "Oslo"}')
    provider.script(
        Answer(deltas=("See. ",), calls=(ROME,)), Answer(deltas=(), calls=(oslo,)), Answer(deltas=("Rain.",))
    )


async def test_over_chat(person: Client, provider: Provider) -> None:
    script(provider)
    chat = person.chat.Chat(metadata=person.metadata)
    await chat.write(pb.ChatRequest(request_id="a", send=await message(person)))
    told: list[pb.ReplyEvent] = []
    submitted = 0
    async with asyncio.timeout(PATIENCE):
        while not told or told[-1].WhichOneof("event") != "completed":
            response = await chat.read()
            submitted += response.HasField("submitted")
            if not response.HasField("reply"):
                continue
            told.append(response.reply)
            if response.reply.HasField("tool_call"):
                results = pb.SubmitToolResultsRequest(
                    reply_id=response.reply.reply_id, results=[rain(response.reply.tool_call)]
                )
                await chat.write(pb.ChatRequest(request_id="b", tool_results=results))
        # A result that nobody waits for is refused, and the stream lives on.
        wrong = pb.SubmitToolResultsRequest(reply_id=told[0].reply_id, results=[ToolResult(call_id="absent")])
        await chat.write(pb.ChatRequest(request_id="c", tool_results=wrong))
        rejected: Any = await chat.read()
        while not rejected.HasField("rejected"):
            submitted += rejected.HasField("submitted")
            rejected = await chat.read()
    chat.cancel()
    info = ErrorInfo()
    assert any(detail.Unpack(info) for detail in rejected.rejected.status.details)
    assert (rejected.rejected.request_id, info.reason) == ("c", "TOOL_CALL_NOT_PENDING")
    assert submitted == 2
    assert kinds(told) == ROUNDS


async def test_over_send_message_and_a_unary_call(person: Client, provider: Provider) -> None:
    script(provider)
    said = await message(person)
    told: list[pb.ReplyEvent] = []
    async with asyncio.timeout(PATIENCE):
        async for response in person.chat.SendMessage(pb.SendMessageRequest(message=said), metadata=person.metadata):
            if not response.HasField("reply"):
                continue
            told.append(response.reply)
            if response.reply.HasField("tool_call"):
                request = pb.SubmitToolResultsRequest(
                    reply_id=response.reply.reply_id, results=[rain(response.reply.tool_call)]
                )
                await person.chat.SubmitToolResults(request, metadata=person.metadata)
        assert kinds(told) == ROUNDS
        resume = pb.ResumeReplyRequest(reply_id=told[0].reply_id, attempt=1, after_sequence=2)
        again = person.chat.ResumeReply(resume, metadata=person.metadata)
        assert [response.reply async for response in again] == told[2:]
        listed = await person.conversations.ListMessages(
            ListMessagesRequest(conversation_id=said.conversation_id), metadata=person.metadata
        )
    [reply] = [each for each in listed.messages if each.id == told[0].reply_id]
    assert reply == told[-1].completed.message
    assert [part.WhichOneof("kind") for part in reply.parts] == [
        "text",
        "tool_call",
        "tool_result",
        "tool_call",
        "tool_result",
        "text",
    ]


async def test_a_schema_that_cannot_be_taken_is_refused_before_anything_is_stored(person: Client) -> None:
    hostile = TurnSettings(tools=[Tool(name="a", parameters='{"$ref": "http://127.0.0.1:1/schema"}')])
    said = await message(person, hostile)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await person.chat.SendMessage(pb.SendMessageRequest(message=said), metadata=person.metadata).read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(caught.value)
    assert status is not None
    bad = BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    assert bad.field_violations[0].field == "settings.tools[0].parameters"


async def test_another_users_reply_is_not_found(person: Client, stack: Dev) -> None:
    async with grpc.aio.insecure_channel(stack.edge) as channel:
        other = client(channel, stack.token_of(f"user-{uuid4().hex}"))
        request = pb.SubmitToolResultsRequest(reply_id=str(uuid4()), results=[ToolResult(call_id="a")])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await other.chat.SubmitToolResults(request, metadata=other.metadata)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_the_documents_example_uses_its_tool(stack: Dev, provider: Provider) -> None:
    user = f"user-{uuid4().hex}"
    provider.script(Answer(deltas=("Let me see. ",), calls=(ROME,)), Answer(deltas=("Yes, take one.",)))
    told = await asyncio.to_thread(
        run, sys.executable, "-c", here(TOOLS, stack, user), CHATRPC_TOKEN=stack.token_of(user)
    )
    assert told == "Let me see. Yes, take one."
    assert provider.requests[-1].body["messages"][-1]["content"] == "It rains in Rome."
