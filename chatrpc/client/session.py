"""Turns on `Chat` streams that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from chatapi.v1.chat_service_pb2 import (
    CancelReplyRequest,
    ChatRequest,
    ChatResponse,
    MessageAccepted,
    RegenerateReplyRequest,
    ReplyEvent,
    ResumeReplyRequest,
    SubmitToolResultsRequest,
)
from chatapi.v1.context_report_pb2 import ContextReport
from chatapi.v1.message_pb2 import Message, OutgoingMessage, Part, TextPart, ToolResult

from chatrpc.client.credentials import Credentials
from chatrpc.client.errors import CallError
from chatrpc.client.retry import Backoff
from chatrpc.client.stream import ChatStream

if TYPE_CHECKING:
    # Only the type hints know this class.
    from chatapi.v1.chat_service_pb2_grpc import ChatServiceAsyncStub


def text_message(conversation_id: str, text: str, client_message_id: str = "") -> OutgoingMessage:
    """A message of one part. Without a key of the caller's it gets one of its own, so that it can be sent again."""
    return OutgoingMessage(
        conversation_id=conversation_id,
        client_message_id=client_message_id or str(uuid4()),
        parts=[Part(text=TextPart(text=text))],
    )


class ChatSession:
    """Many turns at once, over as few streams as it takes: one, and a second while a server drains. A stream is opened
    when it is needed, so an idle session needs no server. Made by `ChatClient.chat`.
    """

    def __init__(
        self, stub: ChatServiceAsyncStub, credentials: Credentials, new_backoff: Callable[[], Backoff]
    ) -> None:
        self._stub = stub
        self._credentials = credentials
        self._new_backoff = new_backoff
        self._streams: list[ChatStream] = []
        self._opening = asyncio.Lock()
        self._closed = False

    async def send(self, message: OutgoingMessage) -> Turn:
        """Say a message, again after each failure that may pass, always with the same key: it is stored once.

        To keep an order between messages of one conversation, await each send before the next.

        Returns:
            The turn, once the message is committed.

        Raises:
            CallError: The message is refused. Where the failure is `temporary`, it may be stored all the same: send
                the same message again to know.
        """
        turn = Turn(self._stream, self._new_backoff, message=message)
        await turn.begin()
        return turn

    async def regenerate(self, request: RegenerateReplyRequest) -> Turn:
        """Have a message replied to anew, again after each failure that may pass, always with the same key: that makes
        one reply. Without a key of the caller's it gets one of its own.

        Returns:
            The turn, once the new reply has its place.

        Raises:
            CallError: The request is refused, or failed as in `send`.
        """
        asked = RegenerateReplyRequest()
        asked.CopyFrom(request)
        asked.client_message_id = asked.client_message_id or str(uuid4())
        turn = Turn(self._stream, self._new_backoff, message=asked)
        await turn.begin()
        return turn

    def resume(self, reply_id: str, attempt: int = 0, after_sequence: int = 0) -> Turn:
        """Follow a reply from the event after one that was seen; from the first by default."""
        return Turn(self._stream, self._new_backoff, reply_id=reply_id, attempt=attempt, after_sequence=after_sequence)

    async def aclose(self) -> None:
        """End all reading; a turn that is still read raises RuntimeError."""
        self._closed = True
        for stream in self._streams:
            await stream.aclose()

    async def _stream(self) -> ChatStream:
        """The stream for new requests."""
        async with self._opening:
            if self._closed:
                raise RuntimeError("The session is closed.")
            self._streams = [stream for stream in self._streams if not stream.ended]
            for stream in self._streams:
                if not stream.retired:
                    return stream
            stream = ChatStream(await self._credentials.metadata(), self._credentials.renewable)
            stream.open(self._stub)
            self._streams.append(stream)
            return stream


class Turn:
    """A reply being read, by one task: `async for event in turn`. Each event comes once and in order, whatever happens
    to the streams below; after a `restarted` event, forget what came before. Kinds that this version does not know
    are passed on. The last event is `completed` or `failed`.

    Attributes:
        accepted: What the server said of the message; None where only the reply is followed.
        reply_id: The reply.
        text: All text since the turn began, or since the last restart.
        report: What the model was given, once that was told.
        message: The reply as stored, once it is finished.
    """

    def __init__(
        self,
        open_stream: Callable[[], Awaitable[ChatStream]],
        new_backoff: Callable[[], Backoff],
        *,
        message: OutgoingMessage | RegenerateReplyRequest | None = None,
        reply_id: str = "",
        attempt: int = 0,
        after_sequence: int = 0,
    ) -> None:
        self.accepted: MessageAccepted | None = None
        self.reply_id = reply_id
        self.text = ""
        self.report: ContextReport | None = None
        self.message: Message | None = None
        self._open_stream = open_stream
        self._new_backoff = new_backoff
        self._outgoing = message
        self._attempt = attempt
        self._sequence = after_sequence
        self._failure: CallError | None = None
        self._stream: ChatStream | None = None
        self._submitting = asyncio.Lock()
        self._told = self._tell()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ReplyEvent:
        """Raises: CallError: The reply cannot be followed any more; `ChatSession.resume` may, later."""
        while True:
            event = await anext(self._told)
            if event is not None:
                return event

    async def begin(self) -> None:
        """Wait until the message is committed."""
        await anext(self._told)

    async def reply(self) -> Message:
        """Read on to the end.

        Returns:
            The reply as stored; one that was stopped included.

        Raises:
            CallError: The reply has failed, or cannot be followed any more.
        """
        async for _ in self:
            pass
        if self._failure is not None:
            raise self._failure
        assert self.message is not None
        return self.message

    async def cancel(self) -> bool:
        """Stop the reply, which keeps the text that it has. Its last event still follows.

        Returns:
            False where it was finished before.

        Raises:
            CallError: The reply could not be stopped.
        """
        request = ChatRequest(request_id=str(uuid4()), cancel=CancelReplyRequest(reply_id=self.reply_id))
        return (await self._answer(request, "cancelled")).cancelled.stopped

    async def submit(self, *results: ToolResult) -> None:
        """Answer tool calls that events of this reply told; all of the results are taken, or none.

        Raises:
            CallError: They were refused, such as after a restart, which discards the calls before it.
        """
        of_reply = SubmitToolResultsRequest(reply_id=self.reply_id, results=results)
        # The answer bears the reply's id alone, so it must be known which request it answers.
        async with self._submitting:
            await self._answer(ChatRequest(request_id=str(uuid4()), tool_results=of_reply), "submitted")

    async def _answer(self, request: ChatRequest, kind: str) -> ChatResponse:
        """What answers a request on the reply, which may be made twice. Raises CallError."""
        backoff = self._new_backoff()
        while True:
            # The server that generates the reply is the one that tells it.
            stream = self._stream
            if stream is None or stream.ended:
                stream = await self._open_stream()
            try:
                async with aclosing(stream.exchange(request, self.reply_id)) as responses:
                    async for response in responses:
                        if response.WhichOneof("event") == kind:
                            return response
            except CallError as error:
                await backoff.pause(error, stream.metadata)

    async def aclose(self) -> None:
        """End the reading; the reply runs on."""
        await self._told.aclose()

    async def _tell(self) -> AsyncGenerator[ReplyEvent | None, None]:
        """None when the message is committed, then the events."""
        backoff = self._new_backoff()
        while True:
            stream = self._stream = await self._open_stream()
            try:
                async with aclosing(stream.exchange(self._request(), self.reply_id)) as responses:
                    async for response in responses:
                        match response.WhichOneof("event"):
                            case "accepted":
                                backoff.progressed()
                                self.accepted = response.accepted
                                self.reply_id = response.accepted.reply_id
                                yield None
                            case "reply" if self._is_new(response.reply):
                                backoff.progressed()
                                last = self._take(response.reply)
                                yield response.reply
                                if last:
                                    return
            except CallError as error:
                await backoff.pause(error, stream.metadata)

    def _request(self) -> ChatRequest:
        request_id = str(uuid4())
        if isinstance(self._outgoing, RegenerateReplyRequest) and not self.reply_id:
            return ChatRequest(request_id=request_id, regenerate=self._outgoing)
        if isinstance(self._outgoing, OutgoingMessage) and not self.reply_id:
            return ChatRequest(request_id=request_id, send=self._outgoing)
        return ChatRequest(
            request_id=request_id,
            resume=ResumeReplyRequest(reply_id=self.reply_id, attempt=self._attempt, after_sequence=self._sequence),
        )

    def _is_new(self, event: ReplyEvent) -> bool:
        # Two turns of one session may follow the same reply, and then each event comes twice.
        return (event.attempt, event.sequence) > (self._attempt, self._sequence)

    def _take(self, event: ReplyEvent) -> bool:
        """Note what an event says, and whether it is the last."""
        self._attempt, self._sequence = event.attempt, event.sequence
        kind = event.WhichOneof("event")
        match kind:
            case "context_report":
                self.report = event.context_report
            case "delta":
                self.text += event.delta.text
            case "restarted":
                self.text, self.report = "", None
            case "completed":
                self.message = event.completed.message
            case "failed":
                self.message = event.failed.message
                self._failure = CallError.from_status(event.failed.status)
        return kind in ("completed", "failed")
