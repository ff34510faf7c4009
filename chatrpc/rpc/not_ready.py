"""Answers calls that come while the server still waits for its database: UNAVAILABLE, with a time to come again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc

from chatrpc.errors import Reason, Unavailable


class NotReady(grpc.GenericRpcHandler):
    """Stands in for every method of some services until `done` is called.

    It is registered first and asked first; what is registered later answers once it steps aside.
    """

    def __init__(self, services: tuple[str, ...]) -> None:
        self._services = services
        self._handler: grpc.RpcMethodHandler[bytes, bytes] | None = grpc.stream_stream_rpc_method_handler(
            _refuse, request_deserializer=bytes, response_serializer=bytes
        )

    def done(self) -> None:
        self._handler = None

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        service = handler_call_details.method.lstrip("/").partition("/")[0]
        return self._handler if service in self._services else None


async def _refuse(
    requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
) -> AsyncGenerator[bytes, None]:
    raise Unavailable(Reason.DATABASE_UNAVAILABLE, "The server waits for its database; try again.", retry_after=1.0)
    yield b""  # This makes the function a generator, as every streaming handler is.
