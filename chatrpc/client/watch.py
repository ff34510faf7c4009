"""A conversation watched over calls that come and go."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import grpc
from chatapi.v1.conversation_service_pb2 import WatchConversationRequest, WatchConversationResponse

from chatrpc.client.credentials import Credentials, Metadata
from chatrpc.client.errors import CallError
from chatrpc.client.retry import Backoff

if TYPE_CHECKING:
    # Only the type hints know this class.
    from chatapi.v1.conversation_service_pb2_grpc import ConversationServiceAsyncStub


async def watch_conversation(
    stub: ConversationServiceAsyncStub,
    credentials: Credentials,
    backoff: Backoff,
    conversation_id: str,
    after_revision: int,
) -> AsyncGenerator[WatchConversationResponse, None]:
    """What happens in a conversation, until it is deleted: messages, events of replies, each once, and changes.

    After a call that was cut, `changed.reload` says that there is more than was told.

    Args:
        after_revision: The revision that the caller knows; 0 for none.

    Raises:
        CallError: The conversation does not exist, or the server cannot be reached for long.
    """
    heard: dict[str, tuple[int, int]] = {}
    while True:
        metadata = await credentials.metadata()
        request = WatchConversationRequest(conversation_id=conversation_id, after_revision=after_revision)
        try:
            async with aclosing(_responses(stub, request, metadata)) as responses:
                async for response in responses:
                    backoff.progressed()
                    match response.WhichOneof("event"):
                        case "reply":
                            place = (response.reply.attempt, response.reply.sequence)
                            if place <= heard.get(response.reply.reply_id, (0, 0)):
                                continue
                            heard[response.reply.reply_id] = place
                        case "changed":
                            after_revision = response.changed.conversation.revision
                        case "pong" | "going_away":
                            continue
                    yield response
                    if response.HasField("deleted"):
                        return
        except grpc.aio.AioRpcError as error:
            await backoff.pause(CallError.from_call(error), metadata)


async def _responses(
    stub: ConversationServiceAsyncStub, request: WatchConversationRequest, metadata: Metadata
) -> AsyncGenerator[WatchConversationResponse, None]:
    call = stub.WatchConversation(request, metadata=metadata)
    try:
        async for response in call:
            yield response
    finally:
        # A call that is given up is never collected.
        call.cancel()
