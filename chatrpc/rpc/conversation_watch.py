"""WatchConversation as a stream: what a watch tells, with the signs of life and the notices of every stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import UUID

from chatapi.v1 import conversation_service_pb2 as pb

from chatrpc.domain import Caller
from chatrpc.rpc.convert import conversation_to_proto, message_to_proto
from chatrpc.rpc.convert_event import write_event
from chatrpc.rpc.outbox import Outbox, StreamPolicy
from chatrpc.turns.events import ReplyEvent
from chatrpc.turns.reply_log import ReplyReader
from chatrpc.turns.watch import (
    ConversationChanged,
    ConversationDeleted,
    Ended,
    MessageChanged,
    Watches,
    WatchEvent,
    WatchReader,
)


class WatchStream:
    """One client's watch. While the server drains it lasts as long as the replies that it tells of."""

    def __init__(self, watches: Watches, caller: Caller, policy: StreamPolicy) -> None:
        self._watches = watches
        self._caller = caller
        self._policy = policy
        self._outbox = Outbox(pb.WatchConversationResponse, caller, policy, on_drain=self._end_if_drained)
        self._replies = 0

    async def responses(
        self, conversation_id: UUID, after_revision: int
    ) -> AsyncGenerator[pb.WatchConversationResponse, None]:
        """All that is said on the stream.

        Raises:
            NotFound, ResourceExhausted, Unavailable: As `Watches.open`.
            Unauthenticated, Unavailable: As `Outbox.stream`.
        """
        reader = WatchReader(self._tell, self._follow, self._outbox.end)
        watch = await self._watches.open(self._caller, conversation_id, after_revision, reader)
        try:
            async with aclosing(self._outbox.stream()) as stream:
                async for response in stream:
                    yield response
        finally:
            await self._watches.close(watch)

    async def _tell(self, event: WatchEvent) -> None:
        await self._outbox.put(_said(event))

    def _follow(self, events: ReplyReader, ended: Ended) -> None:
        def done(error: Exception | None) -> None:
            self._replies -= 1
            ended(error)
            self._end_if_drained()

        self._replies += 1
        self._outbox.follow(events, _told, done)

    def _end_if_drained(self) -> None:
        if not self._replies and self._policy.drain.deadline is not None:
            self._outbox.end(self._policy.drain.error())


def _told(event: ReplyEvent) -> pb.WatchConversationResponse:
    response = pb.WatchConversationResponse()
    write_event(event, response.reply)
    return response


def _said(event: WatchEvent) -> pb.WatchConversationResponse:
    match event:
        case MessageChanged(message):
            return pb.WatchConversationResponse(message=message_to_proto(message))
        case ConversationChanged(conversation, reload):
            changed = pb.ConversationChanged(conversation=conversation_to_proto(conversation), reload=reload)
            return pb.WatchConversationResponse(changed=changed)
        case ConversationDeleted():
            return pb.WatchConversationResponse(deleted=pb.ConversationDeleted())
