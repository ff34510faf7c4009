"""A small real gRPC server that answers every method and remembers what arrived."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_status import rpc_status

CHAT = "/chatapi.v1.ChatService/Chat"
SEND_MESSAGE = "/chatapi.v1.ChatService/SendMessage"
LIST_MESSAGES = "/chatapi.v1.ConversationService/ListMessages"
REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"

# Requests that make a handler do something else than echo.
HANG = b"hang"
FAIL = b"fail"
REFUSE = b"refuse"

# What an overloaded server answers: UNAVAILABLE, and a time to come again.
REFUSAL = Status(code=14, message="overloaded")
REFUSAL.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=2)))


@dataclass(slots=True)
class Arrival:
    """One call as the server saw it."""

    method: str
    metadata: dict[str, str | bytes]
    time_remaining: float | None


@dataclass(slots=True)
class Upstream:
    """The server's port, and the calls that it got, oldest first."""

    port: int = 0
    arrivals: list[Arrival] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    health: HealthServicer = field(default_factory=HealthServicer)
    server: grpc.aio.Server | None = None

    @property
    def last(self) -> Arrival:
        return self.arrivals[-1]


class _Handler(grpc.GenericRpcHandler):
    """Streams echo each message as it comes; unary methods echo the one."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method.startswith("/grpc.health."):
            return None
        if details.method in (CHAT, REFLECT):
            return grpc.stream_stream_rpc_method_handler(self._stream(details))
        if details.method == SEND_MESSAGE:
            return grpc.unary_stream_rpc_method_handler(self._three_times(details))
        return grpc.unary_unary_rpc_method_handler(self._unary(details))

    def _note(self, details: grpc.HandlerCallDetails, context: grpc.aio.ServicerContext) -> None:
        remaining = context.time_remaining()
        self._upstream.arrivals.append(Arrival(details.method, dict(details.invocation_metadata), remaining))
        self._upstream.arrived.set()

    def _stream(self, details: grpc.HandlerCallDetails):
        async def handle(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
            self._note(details, context)
            async for request in requests:
                yield request

        return handle

    def _three_times(self, details: grpc.HandlerCallDetails):
        async def handle(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
            self._note(details, context)
            for _ in range(3):
                yield request

        return handle

    def _unary(self, details: grpc.HandlerCallDetails):
        async def handle(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            self._note(details, context)
            if request == HANG:
                await asyncio.Event().wait()
            if request == FAIL:
                await context.abort(grpc.StatusCode.UNKNOWN, "as asked")
            if request == REFUSE:
                await context.abort_with_status(rpc_status.to_status(REFUSAL))
            return request

        return handle


@asynccontextmanager
async def serve_upstream() -> AsyncIterator[Upstream]:
    """Serve on a free loopback port, healthy from the start."""
    upstream = Upstream()
    # Both are needed for Envoy's pings; the first is for silent streams, the second for connections without a stream.
    server = grpc.aio.server(
        options=[("grpc.http2.min_ping_interval_without_data_ms", 1), ("grpc.keepalive_permit_without_calls", 1)]
    )
    health_pb2_grpc.add_HealthServicer_to_server(upstream.health, server)
    server.add_generic_rpc_handlers((_Handler(upstream),))
    upstream.port = server.add_insecure_port("127.0.0.1:0")
    upstream.server = server
    await upstream.health.set("", health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    try:
        yield upstream
    finally:
        await server.stop(None)
