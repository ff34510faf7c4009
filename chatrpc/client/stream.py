"""One `Chat` call, shared by many turns."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import grpc
from chatapi.v1.chat_service_pb2 import ChatRequest, ChatResponse, GoingAway

from chatrpc.client.credentials import Metadata
from chatrpc.client.errors import CallError, StatusCode

if TYPE_CHECKING:
    # Only the type hints know this class.
    from chatapi.v1.chat_service_pb2_grpc import ChatServiceAsyncStub

_Inbox = asyncio.Queue[ChatResponse | CallError]


class ChatStream:
    """Hands each event to the exchange that it belongs to. One task reads, so that an exchange that is not listened to
    holds up no other; what it is told waits in its inbox, a reply's events at most.

    Args:
        renewable: Whether to leave the stream when its token expires, since there will be another.

    Attributes:
        metadata: What the call bears.
        retired: The server has said that the stream will end: what runs may run on, nothing new should begin.
        ended: Nothing more is said.
    """

    def __init__(self, metadata: Metadata, renewable: bool) -> None:
        self.metadata = metadata
        self.retired = False
        self.ended = False
        self._renewable = renewable
        self._outgoing: asyncio.Queue[ChatRequest | None] = asyncio.Queue()
        self._by_request: dict[str, _Inbox] = {}
        self._by_reply: defaultdict[str, list[_Inbox]] = defaultdict(list)
        self._call: grpc.aio.StreamStreamCall[ChatRequest, ChatResponse] | None = None
        self._reader: asyncio.Task[None] | None = None

    def open(self, stub: ChatServiceAsyncStub) -> None:
        """Begin the call; whoever opens it closes it."""
        self._call = stub.Chat(self._requests(), metadata=self.metadata)
        self._reader = asyncio.create_task(self._read(self._call))

    async def aclose(self) -> None:
        """End the call, and what waits for its events. Replies run on."""
        if self._call is not None and self._reader is not None:
            self._call.cancel()
            await asyncio.wait([self._reader])

    async def exchange(self, request: ChatRequest, reply_id: str = "") -> AsyncGenerator[ChatResponse, None]:
        """Make a request and hear what follows from it: what answers it, and all events of the reply that it accepts
        or, where `reply_id` is given, of that reply. It goes on until it is closed.

        Raises:
            CallError: The request was refused, or the stream has ended.
        """
        inbox: _Inbox = asyncio.Queue()
        self._by_request[request.request_id] = inbox
        if reply_id:
            self._by_reply[reply_id].append(inbox)
        try:
            if self.ended:
                raise _cut_off()
            self._outgoing.put_nowait(request)
            while True:
                said = await inbox.get()
                if isinstance(said, CallError):
                    raise said
                yield said
        finally:
            self._forget(request.request_id, inbox)

    def _forget(self, request_id: str, inbox: _Inbox) -> None:
        del self._by_request[request_id]
        for reply_id, inboxes in list(self._by_reply.items()):
            if inbox in inboxes:
                inboxes.remove(inbox)
            if not inboxes:
                del self._by_reply[reply_id]
        self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        if self.retired and not self._by_request and self._call is not None:
            self._call.cancel()

    async def _requests(self) -> AsyncGenerator[ChatRequest, None]:
        # A write that is cancelled cancels the call, so gRPC's own task writes, and not those that ask.
        while (request := await self._outgoing.get()) is not None:
            yield request

    async def _read(self, call: grpc.aio.StreamStreamCall[ChatRequest, ChatResponse]) -> None:
        end = _cut_off()
        try:
            async for response in call:
                self._hear(response)
        except grpc.aio.AioRpcError as error:
            end = CallError.from_call(error)
        except asyncio.CancelledError:
            # The call was cancelled from here; this task itself never is.
            pass
        finally:
            self.ended = True
            # gRPC's writing task ends with the requests, not with the call.
            self._outgoing.put_nowait(None)
            self._break_off(end)

    def _break_off(self, end: CallError) -> None:
        followers = [inbox for inboxes in self._by_reply.values() for inbox in inboxes]
        for inbox in self._by_request.values():
            # A request that is too large to be read ends the stream, which says nothing about replies that run.
            innocent = end.code is StatusCode.RESOURCE_EXHAUSTED and inbox in followers
            inbox.put_nowait(_cut_off() if innocent else end)

    def _hear(self, response: ChatResponse) -> None:
        match response.WhichOneof("event"):
            case "accepted":
                inbox = self._by_request.get(response.accepted.request_id)
                if inbox is not None:
                    self._by_reply[response.accepted.reply_id].append(inbox)
                    inbox.put_nowait(response)
            case "rejected":
                inbox = self._by_request.get(response.rejected.request_id)
                if inbox is not None:
                    inbox.put_nowait(CallError.from_status(response.rejected.status))
            case "reply":
                self._tell(response.reply.reply_id, response)
            case "cancelled":
                self._tell(response.cancelled.reply_id, response)
            case "submitted":
                self._tell(response.submitted.reply_id, response)
            case "going_away":
                # A token without a successor would end a second stream at the same instant.
                if response.going_away.reason != GoingAway.REASON_TOKEN_EXPIRING or self._renewable:
                    self.retired = True
                    self._leave_if_idle()
            case _:
                # A pong, or what a later server says.
                pass

    def _tell(self, reply_id: str, response: ChatResponse) -> None:
        for inbox in self._by_reply.get(reply_id, ()):
            inbox.put_nowait(response)


def _cut_off() -> CallError:
    return CallError(StatusCode.UNAVAILABLE, "The stream has ended.")
