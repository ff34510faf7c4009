"""grpc.health.v1 over an async generator, as all streams here.

The servicer of grpcio-health-checking writes to its context, past an interceptor that wraps iterations, and holds a
lock over all watchers while it writes to one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
from chatapi.v1 import account_service_pb2, chat_service_pb2, conversation_service_pb2, knowledge_service_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

_Context = grpc.aio.ServicerContext[Any, Any]

# The server as a whole is the empty name.
NAMES = (
    "",
    chat_service_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name,
    conversation_service_pb2.DESCRIPTOR.services_by_name["ConversationService"].full_name,
    knowledge_service_pb2.DESCRIPTOR.services_by_name["KnowledgeService"].full_name,
    account_service_pb2.DESCRIPTOR.services_by_name["AccountService"].full_name,
)


class Health(HealthServicer):
    """NOT_SERVING until told otherwise. All services stand on the same database, so they share one status."""

    def __init__(self) -> None:
        self._serving = False
        self._draining = False
        self._watchers: set[asyncio.Event] = set()

    def set_serving(self, serving: bool) -> None:
        """Tell all watchers. After `drain` it changes nothing."""
        self._serving = serving and not self._draining
        for changed in self._watchers:
            changed.set()

    def drain(self) -> None:
        """NOT_SERVING for good."""
        self._draining = True
        self.set_serving(False)

    async def Check(self, request: HealthCheckRequest, context: _Context) -> HealthCheckResponse:
        if request.service not in NAMES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "The server has no such service.")
        return HealthCheckResponse(status=self._status(request.service))

    async def Watch(self, request: HealthCheckRequest, context: _Context) -> AsyncGenerator[HealthCheckResponse, None]:
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            last = None
            while True:
                status = self._status(request.service)
                if status != last:
                    yield HealthCheckResponse(status=status)
                    last = status
                await changed.wait()
                changed.clear()
        finally:
            self._watchers.discard(changed)

    def _status(self, service: str) -> int:
        if service not in NAMES:
            return HealthCheckResponse.SERVICE_UNKNOWN
        return HealthCheckResponse.SERVING if self._serving else HealthCheckResponse.NOT_SERVING
