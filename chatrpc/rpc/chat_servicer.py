"""ChatService: turns."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar
from uuid import UUID

import grpc
from chatapi.v1 import chat_service_pb2 as pb
from chatapi.v1.chat_service_pb2_grpc import ChatServiceServicer

from chatrpc.rpc.call import current_call, current_caller
from chatrpc.rpc.chat_stream import ChatStream
from chatrpc.rpc.convert import outgoing_from_proto, regeneration_from_proto
from chatrpc.rpc.convert_event import accepted_to_proto, write_event
from chatrpc.rpc.convert_tools import results_from_proto
from chatrpc.rpc.lifecycle import with_lifecycle
from chatrpc.rpc.outbox import StreamPolicy
from chatrpc.turns.events import ReplyEvent
from chatrpc.turns.reply_log import ReplyReader
from chatrpc.turns.service import Turns

_Context = grpc.aio.ServicerContext[Any, Any]
_Response = TypeVar("_Response", pb.SendMessageResponse, pb.RegenerateReplyResponse, pb.ResumeReplyResponse)


class ChatServicer(ChatServiceServicer):
    """Documented in the contract, `chat_service.proto`."""

    def __init__(self, turns: Turns, policy: StreamPolicy) -> None:
        self._turns = turns
        self._policy = policy

    async def Chat(
        self, request_iterator: AsyncIterator[pb.ChatRequest], context: _Context
    ) -> AsyncGenerator[pb.ChatResponse, None]:
        chat = ChatStream(request_iterator, self._turns, current_call(), self._policy)
        async with chat as stream, aclosing(stream.responses()) as responses:
            async for response in responses:
                yield response

    async def SendMessage(
        self, request: pb.SendMessageRequest, context: _Context
    ) -> AsyncGenerator[pb.SendMessageResponse, None]:
        self._policy.drain.refuse()
        accepted, events = await self._turns.send(current_caller(), outgoing_from_proto(request.message))
        yield pb.SendMessageResponse(accepted=accepted_to_proto(accepted))
        async with aclosing(self._followed(events, pb.SendMessageResponse)) as responses:
            async for response in responses:
                yield response

    async def RegenerateReply(
        self, request: pb.RegenerateReplyRequest, context: _Context
    ) -> AsyncGenerator[pb.RegenerateReplyResponse, None]:
        self._policy.drain.refuse()
        accepted, events = await self._turns.regenerate(current_caller(), regeneration_from_proto(request))
        yield pb.RegenerateReplyResponse(accepted=accepted_to_proto(accepted))
        async with aclosing(self._followed(events, pb.RegenerateReplyResponse)) as responses:
            async for response in responses:
                yield response

    async def ResumeReply(
        self, request: pb.ResumeReplyRequest, context: _Context
    ) -> AsyncGenerator[pb.ResumeReplyResponse, None]:
        self._policy.drain.refuse()
        events = await self._turns.follow(
            current_caller(), UUID(request.reply_id), request.attempt, request.after_sequence
        )
        async with aclosing(self._followed(events, pb.ResumeReplyResponse)) as responses:
            async for response in responses:
                yield response

    async def CancelReply(self, request: pb.CancelReplyRequest, context: _Context) -> pb.CancelReplyResponse:
        stopped = await self._turns.cancel(current_caller(), UUID(request.reply_id))
        return pb.CancelReplyResponse(reply_id=request.reply_id, stopped=stopped)

    async def SubmitToolResults(
        self, request: pb.SubmitToolResultsRequest, context: _Context
    ) -> pb.SubmitToolResultsResponse:
        results = results_from_proto(request.results)
        await self._turns.submit_tool_results(current_caller(), UUID(request.reply_id), results)
        return pb.SubmitToolResultsResponse(reply_id=request.reply_id)

    def _followed(self, events: ReplyReader, kind: type[_Response]) -> AsyncGenerator[_Response, None]:
        def convert(event: ReplyEvent) -> _Response:
            response = kind()
            write_event(event, response.reply)
            return response

        return with_lifecycle(events, convert, kind, current_caller(), self._policy)
