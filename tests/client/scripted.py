"""A gRPC server whose every stream follows a script of the test's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import grpc
from chatapi.v1 import chat_service_pb2 as pb
from chatapi.v1.chat_service_pb2_grpc import ChatServiceServicer, add_ChatServiceServicer_to_server
from chatapi.v1.context_report_pb2 import ContextReport
from chatapi.v1.conversation_pb2 import Conversation
from chatapi.v1.conversation_service_pb2 import CreateConversationResponse, ListConversationsResponse
from chatapi.v1.conversation_service_pb2_grpc import (
    ConversationServiceServicer,
    add_ConversationServiceServicer_to_server,
)
from chatapi.v1.message_pb2 import MESSAGE_STATE_COMPLETE, Message, Part, TextPart, ToolCall
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from grpc_status import rpc_status

from chatrpc.client import ChatClient, RetryPolicy, connect
from chatrpc.client.errors import CallError

# Seconds after which a test that waits has failed.
PATIENCE = 20.0

# Quick, and patient enough for a server that comes back.
QUICK = RetryPolicy(tries=200, first_delay=0.005, longest_delay=0.05)

REPLY = "0190a0e2-0000-7000-8000-000000000001"
CONVERSATION = "0190a0e2-0000-7000-8000-0000000000cc"


class Line:
    """One `Chat` call, as the script sees it."""

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        self._context = context
        self.metadata = dict(context.invocation_metadata())

    async def hear(self, kind: str) -> pb.ChatRequest:
        """The next request, which must be of this kind."""
        request = await self.hear_any()
        assert request.WhichOneof("event") == kind, f"{request} is no {kind}"
        return request

    async def hear_any(self) -> pb.ChatRequest:
        request = await asyncio.wait_for(self._context.read(), PATIENCE)
        assert request is not grpc.aio.EOF, "the client closed the stream"
        return request

    async def closed(self) -> None:
        """Wait until the client has left; the next request would be a surprise."""
        assert await self._context.read() is grpc.aio.EOF

    async def say(self, **event) -> None:
        await self._context.write(pb.ChatResponse(**event))

    async def accept(self, request: pb.ChatRequest, reply_id: str = REPLY, duplicate: bool = False) -> None:
        accepted = pb.MessageAccepted(request_id=request.request_id, reply_id=reply_id, duplicate=duplicate)
        accepted.message.client_message_id = request.send.client_message_id
        await self.say(accepted=accepted)

    async def tell(self, *events: pb.ReplyEvent) -> None:
        for event in events:
            await self.say(reply=event)

    async def reject(self, request: pb.ChatRequest, status: Status) -> None:
        await self.say(rejected=pb.TurnRejected(request_id=request.request_id, status=status))

    async def go_away(self, reason: pb.GoingAway.Reason.ValueType = pb.GoingAway.REASON_DRAINING) -> None:
        await self.say(going_away=pb.GoingAway(reason=reason))

    async def end(self, code: StatusCode = StatusCode.UNAVAILABLE, details: str = "cut") -> NoReturn:
        await self._context.abort(code, details)

    async def end_with(self, status: Status) -> NoReturn:
        await self._context.abort_with_status(rpc_status.to_status(status))


Script = Callable[[Line], Awaitable[None]]


@dataclass
class ScriptedChat(ChatServiceServicer):
    """The first stream follows the first script, and so on; a stream too many is refused, and noted."""

    scripts: list[Script]
    problems: list[BaseException] = field(default_factory=list)
    opened: int = 0

    async def Chat(self, request_iterator, context) -> None:  # noqa: N802
        self.opened += 1
        if not self.scripts:
            self.problems.append(AssertionError("one stream too many"))
            await context.abort(StatusCode.FAILED_PRECONDITION, "one stream too many")
        try:
            await self.scripts.pop(0)(Line(context))
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except BaseException as error:
            self.problems.append(error)
            raise


@dataclass
class ScriptedConversations(ConversationServiceServicer):
    """Each `GetConversation` is answered by the next function; there are no conversations, and one can be created."""

    answers: list[Callable] = field(default_factory=list)
    calls: int = 0

    async def GetConversation(self, request, context):  # noqa: N802
        self.calls += 1
        return await self.answers.pop(0)(request, context)

    async def ListConversations(self, request, context):  # noqa: N802
        return ListConversationsResponse()

    async def CreateConversation(self, request, context):  # noqa: N802
        return CreateConversationResponse(conversation=Conversation(id=CONVERSATION))


@dataclass
class Stage:
    """A scripted server, and a client of it."""

    client: ChatClient
    port: int
    chat: ScriptedChat
    conversations: ScriptedConversations
    retries: list[tuple[CallError, float]]

    @property
    def delays(self) -> list[float]:
        return [delay for _, delay in self.retries]


@asynccontextmanager
async def serving(*servicers: object, port: int = 0) -> AsyncIterator[int]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    for servicer in servicers:
        match servicer:
            case ChatServiceServicer():
                add_ChatServiceServicer_to_server(servicer, server)
            case ConversationServiceServicer():
                add_ConversationServiceServicer_to_server(servicer, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


@asynccontextmanager
async def staged(
    *scripts: Script, answers: tuple[Callable, ...] = (), token="token", on_behalf_of=None, retry=QUICK
) -> AsyncIterator[Stage]:
    """A server that follows the scripts. A script's own assertions count as the test's."""
    chat, conversations = ScriptedChat(list(scripts)), ScriptedConversations(list(answers))
    retries: list[tuple[CallError, float]] = []
    async with asyncio.timeout(PATIENCE), serving(chat, conversations) as port:
        client = connect(
            f"127.0.0.1:{port}",
            token,
            on_behalf_of,
            retry=retry,
            on_retry=lambda error, delay: retries.append((error, delay)),
        )
        try:
            async with client as opened:
                yield Stage(opened, port, chat, conversations, retries)
        finally:
            if chat.problems:
                raise chat.problems[0]
    assert not chat.scripts, f"{len(chat.scripts)} streams were never opened"


def report(sequence: int = 1, attempt: int = 1, reply_id: str = REPLY, **fields) -> pb.ReplyEvent:
    return pb.ReplyEvent(reply_id=reply_id, attempt=attempt, sequence=sequence, context_report=ContextReport(**fields))


def delta(sequence: int, text: str, attempt: int = 1, reply_id: str = REPLY) -> pb.ReplyEvent:
    return pb.ReplyEvent(reply_id=reply_id, attempt=attempt, sequence=sequence, delta=pb.TextDelta(text=text))


def call_of_a_tool(sequence: int, call_id: str) -> pb.ReplyEvent:
    return pb.ReplyEvent(reply_id=REPLY, attempt=1, sequence=sequence, tool_call=ToolCall(id=call_id, name="weather"))


def restarted(attempt: int = 2, reply_id: str = REPLY) -> pb.ReplyEvent:
    return pb.ReplyEvent(reply_id=reply_id, attempt=attempt, sequence=1, restarted=pb.ReplyRestarted())


def completed(
    sequence: int, text: str = "", attempt: int = 1, reply_id: str = REPLY, state=MESSAGE_STATE_COMPLETE
) -> pb.ReplyEvent:
    message = Message(id=reply_id, state=state, parts=[Part(text=TextPart(text=text))])
    return pb.ReplyEvent(
        reply_id=reply_id, attempt=attempt, sequence=sequence, completed=pb.ReplyCompleted(message=message)
    )


def status(
    code: StatusCode,
    message: str,
    reason: str = "",
    *,
    retry_after: float | None = None,
    field: str = "",
    metadata: dict[str, str] | None = None,
) -> Status:
    made = Status(code=code.value[0], message=message)
    if reason:
        made.details.add().Pack(ErrorInfo(reason=reason, domain="chatrpc", metadata=metadata or {}))
    if field:
        made.details.add().Pack(BadRequest(field_violations=[BadRequest.FieldViolation(field=field)]))
    if retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(round(retry_after * 1000))
        made.details.add().Pack(RetryInfo(retry_delay=delay))
    return made


def failing(*arguments, **details):
    """An answer of `ScriptedConversations` that is an error, with the arguments of `status`."""

    async def answer(request, context):
        # As the server does: metadata first, so that gRPC's own retries do not apply.
        await context.send_initial_metadata(())
        await context.abort_with_status(rpc_status.to_status(status(*arguments, **details)))

    return answer
