"""What all calls have in common: errors, identity, limits, logs, and the life of the server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

import grpc
import pytest
import structlog
from chatapi.v1 import chat_service_pb2 as chat_pb
from chatapi.v1 import conversation_service_pb2 as pb
from chatapi.v1.conversation_pb2 import Conversation

from chatrpc.db.engine import Database
from chatrpc.errors import SettingsError
from chatrpc.rpc.grpc_server import bind, drain_and_stop
from chatrpc.rpc.identity import user_id_of
from chatrpc.settings import ServerSettings
from tests.rpc.signer import ISSUER
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
)

GET = "/chatapi.v1.ConversationService/GetConversation"
SECRET = "postgres://admin:hunter2@db"


class Leaking:
    """Turns whose exceptions hold what no caller may see."""

    def __init__(self, turns) -> None:
        pass

    async def send(self, caller, message):
        raise RuntimeError(SECRET)

    async def follow(self, caller, reply_id, attempt, after_sequence):
        return LeakingReader()

    async def cancel(self, caller, reply_id):
        raise RuntimeError(SECRET)

    async def drain(self, grace):
        return None


class LeakingReader:
    finished = False

    def take(self):
        raise RuntimeError(SECRET)

    def listen(self, wake):
        pass

    def close(self):
        pass


async def test_an_error_is_read_by_a_client_with_all_its_details(stage: Stage) -> None:
    missing = new_id()
    call = stage.conversations.GetConversation(pb.GetConversationRequest(conversation_id=missing), metadata=signed_in())
    error = told(await failure(call))
    assert error.code is grpc.StatusCode.NOT_FOUND
    assert (error.reason, error.metadata) == ("CONVERSATION_NOT_FOUND", {"id": missing})
    assert error.resource == ("conversation", missing)


async def test_a_violation_names_its_fields_on_the_wire(stage: Stage) -> None:
    request = pb.CreateConversationRequest(conversation=Conversation(title="x" * 257, labels={"NO": "v"}))
    error = told(await failure(stage.conversations.CreateConversation(request, metadata=signed_in())))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert error.fields == ["conversation.title", 'conversation.labels["NO"]']


async def test_invalid_utf_8_is_an_invalid_argument(stage: Stage) -> None:
    get = stage.channel.unary_unary(GET)
    error = told(await failure(get(b"\x0a\x02\xff\xfe", metadata=signed_in())))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert "UTF-8" in error.message


async def test_a_large_request_is_refused_with_a_reason(stage: Stage) -> None:
    request = chat_pb.SendMessageRequest(message=outgoing(new_id(), "x" * 1_048_576))
    error = told(await failure(stage.chat.SendMessage(request, metadata=signed_in())))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    assert error.quota == "request"


async def test_a_huge_request_is_refused_before_it_is_read(stage: Stage) -> None:
    request = chat_pb.SendMessageRequest(message=outgoing(new_id(), "x" * 3_000_000))
    error = await failure(stage.chat.SendMessage(request, metadata=signed_in()))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_no_exception_leaks_its_text(database: Database, issuer_keys: Path) -> None:
    async with staged(database, issuer_keys, turns=Leaking) as stage:
        metadata = (*signed_in(), ("x-request-id", "seen-by-the-client"))
        requests = {
            stage.chat.SendMessage: chat_pb.SendMessageRequest(message=outgoing(new_id())),
            stage.chat.ResumeReply: chat_pb.ResumeReplyRequest(reply_id=new_id()),
            stage.chat.CancelReply: chat_pb.CancelReplyRequest(reply_id=new_id()),
        }
        for method, request in requests.items():
            with structlog.testing.capture_logs() as logs:
                error = await failure(method(request, metadata=metadata))
                await eventually(lambda logs=logs: any(line["event"] == "call" for line in logs))
            assert SECRET not in repr(error)
            assert told(error).code is grpc.StatusCode.INTERNAL
            assert told(error).metadata == {"request_id": "seen-by-the-client"}
            [unexpected] = [line for line in logs if line["event"] == "unexpected exception"]
            assert unexpected["request_id"] == "seen-by-the-client"
            assert SECRET in repr(unexpected["exc_info"])


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "TOKEN_MISSING"),
        ((("authorization", "Bearer nonsense"),), "TOKEN_INVALID"),
        (signed_in(exp=1), "TOKEN_EXPIRED"),
        (signed_in() + signed_in(), "TOKEN_INVALID"),
    ],
    ids=["missing", "malformed", "expired", "two"],
)
@pytest.mark.parametrize("method", ["unary", "response stream", "Chat", "reflection"])
async def test_no_method_answers_without_a_valid_token(stage: Stage, method: str, metadata, reason: str) -> None:
    message = chat_pb.SendMessageRequest(message=outgoing(new_id()))
    calls = {
        "unary": lambda: stage.conversations.ListConversations(pb.ListConversationsRequest(), metadata=metadata),
        "response stream": lambda: stage.chat.SendMessage(message, metadata=metadata),
        "Chat": lambda: stage.chat.Chat(metadata=metadata),
        "reflection": lambda: stage.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")(
            metadata=metadata
        ),
    }
    error = told(await failure(calls[method]()))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)


async def test_acting_for_somebody_needs_the_scope(stage: Stage) -> None:
    acting = ("x-chatrpc-on-behalf-of", "bob")
    request = pb.ListConversationsRequest()
    for metadata, reason in (
        ((*signed_in(), acting), "SCOPE_MISSING"),
        ((*signed_in(scope="chat.act_as"), acting, ("x-chatrpc-on-behalf-of", "carol")), "INVALID_FIELD"),
    ):
        error = told(await failure(stage.conversations.ListConversations(request, metadata=metadata)))
        assert error.reason == reason
    service = (*signed_in(sub="billing", scope="chat.act_as"), acting)
    conversation = await stage.conversation(service)
    bobs = pb.GetConversationRequest(conversation_id=conversation)
    assert (await stage.conversations.GetConversation(bobs, metadata=signed_in(sub="bob"))).conversation.id


@pytest.mark.parametrize("sent", ["r-1", "0c8f3d9e-1111-4222-8333-0123456789ab"])
async def test_a_sane_request_id_comes_back(stage: Stage, sent: str) -> None:
    call = stage.conversations.ListConversations(
        pb.ListConversationsRequest(), metadata=(*signed_in(), ("x-request-id", sent))
    )
    assert dict(await call.initial_metadata())["x-request-id"] == sent
    await call


@pytest.mark.parametrize("sent", [[], ["x" * 129], ["two words"], ["a", "b"], [""]])
async def test_any_other_request_id_is_replaced(stage: Stage, sent: list[str]) -> None:
    metadata = (*signed_in(), *(("x-request-id", value) for value in sent))
    call = stage.conversations.ListConversations(pb.ListConversationsRequest(), metadata=metadata)
    assert UUID(dict(await call.initial_metadata())["x-request-id"])
    await call


async def test_each_call_writes_one_line_without_texts_or_tokens(stage: Stage) -> None:
    with structlog.testing.capture_logs() as logs:
        conversation = await stage.conversation()
        request = chat_pb.SendMessageRequest(message=outgoing(conversation, "a private text"))
        call = stage.chat.SendMessage(request, metadata=signed_in())
        speaker = await stage.model.asked()
        speaker.say("a private answer")
        speaker.finish()
        async for _ in call:
            pass
        await failure(
            stage.conversations.GetConversation(
                pb.GetConversationRequest(conversation_id=new_id()), metadata=signed_in()
            )
        )
        await eventually(lambda: len([line for line in logs if line["event"] == "call"]) == 3)
    lines = [line for line in logs if line["event"] == "call"]
    assert [line["method"].rpartition("/")[2] for line in lines] == [
        "CreateConversation",
        "SendMessage",
        "GetConversation",
    ]
    assert [(line["status"], line["reason"]) for line in lines] == [
        ("OK", None),
        ("OK", None),
        ("NOT_FOUND", "CONVERSATION_NOT_FOUND"),
    ]
    assert {line["user_id"] for line in lines} == {str(user_id_of(ISSUER, "alice"))}
    assert all(line["seconds"] >= 0 and line["request_id"] for line in lines)
    assert "private" not in repr(logs)
    assert signed_in()[0][1].split(".")[2] not in repr(logs)


async def test_a_client_that_vanishes_is_logged_as_cancelled(stage: Stage) -> None:
    with structlog.testing.capture_logs() as logs:
        async with Stream(stage) as stream:
            await stream.say(ping=chat_pb.Ping())
            await stream.hear_kind("pong")
        await eventually(lambda: [line["status"] for line in logs if line["event"] == "call"] == ["CANCELLED"])


async def test_an_unknown_method_is_unimplemented(stage: Stage) -> None:
    call = stage.channel.unary_unary("/chatapi.v1.ChatService/Nothing")(b"", metadata=signed_in())
    assert (await failure(call)).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_port_in_use_is_named_in_one_sentence(stage: Stage) -> None:
    settings = ServerSettings(host="127.0.0.1", port=stage.port)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    with pytest.raises(SettingsError) as error:
        bind(server, settings)
    assert f"127.0.0.1:{stage.port}" in str(error.value)
    assert "CHATRPC_SERVER_PORT" in str(error.value)
    await server.stop(None)


async def test_stopping_lets_replies_end_and_be_told(stage: Stage) -> None:
    conversation = await stage.conversation()
    async with Stream(stage) as stream, Stream(stage) as idle:
        await idle.say(ping=chat_pb.Ping())
        await idle.hear_kind("pong")
        await stream.say(send=outgoing(conversation))
        speaker = await stage.model.asked()
        stopping = asyncio.create_task(drain_and_stop(stage.server, stage.health, stage.drain, stage.turns, 20))
        await stream.hear_kind("going_away")
        speaker.say("to the end")
        speaker.finish()
        assert (await stream.hear_reply("completed")).completed.message.parts[0].text.text == "to the end"
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await stream.hear()
        assert told(ended.value).reason == "SERVER_DRAINING"
        await asyncio.wait_for(stopping, PATIENCE)


async def test_a_reply_that_outlasts_the_grace_is_stopped_stored_and_told(stage: Stage) -> None:
    conversation = await stage.conversation()
    async with Stream(stage) as stream:
        await stream.say(send=outgoing(conversation))
        (await stage.model.asked()).say("half")
        await stream.hear_reply("delta")
        stopping = asyncio.create_task(drain_and_stop(stage.server, stage.health, stage.drain, stage.turns, 0.1))
        completed = (await stream.hear_reply("completed")).completed
        assert completed.message.parts[0].text.text == "half"
        await asyncio.wait_for(stopping, PATIENCE)
    assert not stage.turns._running
