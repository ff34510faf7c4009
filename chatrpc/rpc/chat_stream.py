"""One `Chat` stream: many turns at once, over one outbox.

Requests are read by one task, which waits for nothing but the answer to a cancel. Sends go through a line of their
own, one after the other, so that messages are accepted in the order in which they were said, while a later cancel
overtakes them. The outbox itself reads the events of the replies that run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine
from types import TracebackType
from typing import Self
from uuid import UUID

from chatapi.v1.chat_service_pb2 import (
    CancelReplyResponse,
    ChatRequest,
    ChatResponse,
    Pong,
    SubmitToolResultsResponse,
    TurnRejected,
)

from chatrpc.domain import counted
from chatrpc.errors import Reason, ResourceExhausted
from chatrpc.rpc.call import Call
from chatrpc.rpc.convert import outgoing_from_proto, regeneration_from_proto
from chatrpc.rpc.convert_event import accepted_to_proto, write_event
from chatrpc.rpc.convert_tools import results_from_proto
from chatrpc.rpc.failure import told
from chatrpc.rpc.lifecycle import stop
from chatrpc.rpc.outbox import Outbox, StreamPolicy
from chatrpc.rpc.status import status_of
from chatrpc.rpc.validation import Unreadable, checked
from chatrpc.turns.events import ReplyEvent
from chatrpc.turns.reply_log import ReplyReader
from chatrpc.turns.service import Turns


class ChatStream:
    """Reads while it is entered; leaving it ends the reading of replies, not the replies.

    Args:
        call: The stream's own; its caller speaks in every turn.
    """

    __slots__ = (
        "_call",
        "_caller",
        "_half_closed",
        "_open_turns",
        "_outbox",
        "_policy",
        "_requests",
        "_sends",
        "_tasks",
        "_turns",
    )

    def __init__(
        self, requests: AsyncIterable[ChatRequest | Unreadable], turns: Turns, call: Call, policy: StreamPolicy
    ) -> None:
        assert call.caller is not None
        self._requests = requests
        self._turns = turns
        self._call = call
        self._caller = call.caller
        self._policy = policy
        self._outbox = Outbox(ChatResponse, call.caller, policy, self._end_if_done, policy.idle_limit)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sends: deque[ChatRequest] | None = None
        self._open_turns = 0
        self._half_closed = False

    def responses(self) -> AsyncGenerator[ChatResponse, None]:
        """All that is said on the stream. It also ends where the stream was idle for long.

        Raises:
            Unauthenticated: The caller's token has expired.
            Unavailable: The server drains, and no turn is left or the deadline has passed.
        """
        return self._outbox.stream()

    async def __aenter__(self) -> Self:
        self._begin(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await stop(list(self._tasks))

    async def _read(self) -> None:
        try:
            async for request in self._requests:
                self._outbox.heard()
                await self._hear(request)
        except Exception as error:
            self._outbox.end(error)
        self._half_closed = True
        self._end_if_done()

    async def _hear(self, said: ChatRequest | Unreadable) -> None:
        try:
            request = checked(said)
            match request.WhichOneof("event"):
                case "send" | "regenerate":
                    self._open_turn()
                    self._line_up(request)
                case "resume":
                    self._open_turn()
                    self._begin(self._resume(request))
                case "cancel":
                    await self._cancel(request.cancel.reply_id)
                case "tool_results":
                    self._begin(self._submit(request))
                case "ping":
                    await self._outbox.put(ChatResponse(pong=Pong(request_id=request.request_id)))
        except Exception as error:
            await self._reject(said.request_id, error)

    def _open_turn(self) -> None:
        self._policy.drain.refuse()
        if self._open_turns >= self._policy.max_turns:
            raise ResourceExhausted(
                Reason.TOO_MANY_TURNS,
                f"This stream runs {counted(self._policy.max_turns, 'turn')} already; wait for one to finish.",
                subject="stream",
            )
        self._open_turns += 1

    def _close_turn(self) -> None:
        self._open_turns -= 1
        self._end_if_done()

    def _line_up(self, request: ChatRequest) -> None:
        if self._sends is None:
            self._sends = deque([request])
            self._begin(self._send_in_order(self._sends))
        else:
            self._sends.append(request)

    async def _send_in_order(self, sends: deque[ChatRequest]) -> None:
        while sends:
            await self._send(sends.popleft())
        self._sends = None

    async def _send(self, request: ChatRequest) -> None:
        try:
            if request.HasField("send"):
                accepted, events = await self._turns.send(self._caller, outgoing_from_proto(request.send))
            else:
                asked = regeneration_from_proto(request.regenerate)
                accepted, events = await self._turns.regenerate(self._caller, asked)
            await self._outbox.put(ChatResponse(accepted=accepted_to_proto(accepted, request.request_id)))
        except Exception as error:
            await self._reject(request.request_id, error)
            self._close_turn()
        else:
            self._follow(request.request_id, events)

    async def _resume(self, request: ChatRequest) -> None:
        resume = request.resume
        try:
            events = await self._turns.follow(
                self._caller, UUID(resume.reply_id), resume.attempt, resume.after_sequence
            )
        except Exception as error:
            await self._reject(request.request_id, error)
            self._close_turn()
        else:
            self._follow(request.request_id, events)

    def _follow(self, request_id: str, events: ReplyReader) -> None:
        def ended(error: Exception | None) -> ChatResponse | None:
            self._close_turn()
            return None if error is None else self._rejection(request_id, error)

        self._outbox.follow(events, _said, ended)

    async def _cancel(self, reply_id: str) -> None:
        stopped = await self._turns.cancel(self._caller, UUID(reply_id))
        await self._outbox.put(ChatResponse(cancelled=CancelReplyResponse(reply_id=reply_id, stopped=stopped)))

    async def _submit(self, request: ChatRequest) -> None:
        submitted = request.tool_results
        try:
            results = results_from_proto(submitted.results)
            await self._turns.submit_tool_results(self._caller, UUID(submitted.reply_id), results)
            await self._outbox.put(ChatResponse(submitted=SubmitToolResultsResponse(reply_id=submitted.reply_id)))
        except Exception as error:
            await self._reject(request.request_id, error)

    async def _reject(self, request_id: str, error: Exception) -> None:
        await self._outbox.put(self._rejection(request_id, error))

    def _rejection(self, request_id: str, error: Exception) -> ChatResponse:
        return ChatResponse(rejected=TurnRejected(request_id=request_id, status=status_of(told(error, self._call))))

    def _end_if_done(self) -> None:
        if self._open_turns == 0:
            if self._half_closed:
                self._outbox.end()
            elif self._policy.drain.deadline is not None:
                self._outbox.end(self._policy.drain.error())

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _said(event: ReplyEvent) -> ChatResponse:
    response = ChatResponse()
    write_event(event, response.reply)
    return response
