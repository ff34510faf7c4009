"""Refuses new turns while the server is overloaded, at a tenth of the cost of a turn.

The call ends before its token is looked at, its request is read and its headers are answered, and it has no line in the
log: there may be thousands a second.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

import grpc
from chatapi.v1 import chat_service_pb2
from grpc_status import rpc_status

from chatrpc.rpc.status import status_of
from chatrpc.turns.admission import overloaded

# On Chat, whose streams stay, each request is looked at when it comes.
NEW_TURNS = frozenset(
    f"/{chat_service_pb2.DESCRIPTOR.services_by_name['ChatService'].full_name}/{method}"
    for method in ("SendMessage", "RegenerateReply")
)

# Statuses are made beforehand; so many differ in the time after which to come back.
_VARIETY = 64


def refusals() -> Iterator[grpc.RpcMethodHandler[bytes, bytes]]:
    """Handlers that refuse, without end."""
    return itertools.cycle([_refusal() for _ in range(_VARIETY)])


def _refusal() -> grpc.RpcMethodHandler[bytes, bytes]:
    status = rpc_status.to_status(status_of(overloaded()))

    async def refuse(
        requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[bytes, None]:
        await context.abort_with_status(status)
        yield b""  # This makes the function a generator, as every streaming handler is.

    # A handler of single requests would wait for the request.
    return grpc.stream_stream_rpc_method_handler(refuse, request_deserializer=bytes, response_serializer=bytes)
