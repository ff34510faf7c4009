"""The gRPC server: what is registered, with which limits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import grpc
from chatapi.v1.account_service_pb2_grpc import add_AccountServiceServicer_to_server
from chatapi.v1.chat_service_pb2_grpc import add_ChatServiceServicer_to_server
from chatapi.v1.conversation_service_pb2_grpc import add_ConversationServiceServicer_to_server
from chatapi.v1.knowledge_service_pb2_grpc import add_KnowledgeServiceServicer_to_server
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from chatrpc.context.assembler import ContextAssembler
from chatrpc.db.conversations import Conversations
from chatrpc.db.reports import Reports
from chatrpc.db.usage import UsageLedger
from chatrpc.errors import SettingsError
from chatrpc.knowledge.library import Library
from chatrpc.knowledge.search import DocumentSearch
from chatrpc.rpc.account_servicer import AccountServicer
from chatrpc.rpc.chat_servicer import ChatServicer
from chatrpc.rpc.conversation_servicer import ConversationServicer
from chatrpc.rpc.drain import Drain
from chatrpc.rpc.health import NAMES, Health
from chatrpc.rpc.identity import TokenVerifier
from chatrpc.rpc.interceptor import CallInterceptor
from chatrpc.rpc.knowledge_servicer import KnowledgeServicer
from chatrpc.rpc.outbox import StreamPolicy
from chatrpc.rpc.reflection import add_reflection
from chatrpc.settings import ServerSettings
from chatrpc.turns.admission import Admission
from chatrpc.turns.forks import Forks
from chatrpc.turns.service import Turns
from chatrpc.turns.watch import Watches

SERVICES = tuple(name for name in NAMES if name)

# Seconds in which calls that are no streams of ours may end once the drain is over: queries, watchers of health.
STOP_GRACE = 1.0
# Seconds in which readers take the last events of replies that the drain has stopped.
TELL_GRACE = 2.0


def new_grpc_server(
    settings: ServerSettings, verifier: TokenVerifier, health: Health, admission: Admission | None = None
) -> grpc.aio.Server:
    """A server with health and reflection, not yet listening; call it inside the running event loop.

    Args:
        admission: What new turns pass; absent, all are admitted.
    """
    interceptor = CallInterceptor(verifier, settings.max_message_bytes, admission or Admission())
    server = grpc.aio.server(interceptors=[interceptor], options=_options(settings))
    add_HealthServicer_to_server(health, server)
    add_reflection(server, (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name))
    return server


def add_services(
    server: grpc.aio.Server,
    settings: ServerSettings,
    turns: Turns,
    conversations: Conversations,
    reports: Reports,
    assembler: ContextAssembler,
    library: Library,
    search: DocumentSearch,
    ledger: UsageLedger,
    drain: Drain,
    *,
    clock: Callable[[], float] = time.time,
) -> None:
    """Register the services of the contract; the server may have started before.

    Args:
        clock: Seconds since the epoch; streams end with their token by it.
    """
    late = cast("grpc.aio.Server", _LateRegistration(server))
    policy = StreamPolicy(drain, settings.heartbeat, settings.max_turns_per_stream, clock, settings.idle_limit)
    add_ChatServiceServicer_to_server(ChatServicer(turns, policy), late)
    forks = Forks(turns, conversations.branches, settings.max_forked_messages)
    watches = Watches(turns, conversations.watched, settings.max_watches_per_user)
    add_ConversationServiceServicer_to_server(
        ConversationServicer(conversations, reports, assembler, turns, forks, watches, policy), late
    )
    add_KnowledgeServiceServicer_to_server(KnowledgeServicer(library, search, policy), late)
    add_AccountServiceServicer_to_server(AccountServicer(ledger), late)


class _LateRegistration:
    """The server for the generated registration functions. A server that has started takes generic handlers alone."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: object) -> None:
        pass


def bind(server: grpc.aio.Server, settings: ServerSettings) -> int:
    """Open the server's port, and say which one it is.

    Raises:
        SettingsError: The port is in use, or the address is none of this machine's.
    """
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        return server.add_insecure_port(f"{host}:{settings.port}")
    except RuntimeError:
        raise SettingsError(
            f"The server cannot listen on {host}:{settings.port}: the port is in use or the address is not of this "
            "machine; set CHATRPC_SERVER_HOST and CHATRPC_SERVER_PORT."
        ) from None


async def drain_and_stop(server: grpc.aio.Server, health: Health, drain: Drain, turns: Turns, grace: float) -> None:
    """Refuse new turns, let running replies come to their end and be told, and stop.

    Args:
        grace: Seconds that running replies get; what they have by then is stored, and their readers are told.
    """
    health.drain()
    drain.begin(grace + TELL_GRACE)
    await turns.drain(grace)
    await drain.streams_ended()
    # A message that was being accepted when the drain began may have started a reply after all.
    await turns.drain(0)
    await server.stop(STOP_GRACE)


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    return [
        # Up to twice the limit is read and answered with a typed error; beyond, grpc itself refuses with a bare
        # RESOURCE_EXHAUSTED, which also ends a stream.
        ("grpc.max_receive_message_length", 2 * settings.max_message_bytes),
        ("grpc.max_concurrent_streams", settings.max_streams),
        # A client behind a NAT that drops idle connections is found out within a minute and a half.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Envoy pings its connections every few seconds, also those without calls; by default grpc takes more than
        # two pings in five minutes for an attack and closes the connection.
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Without this, a second server on the same port starts without a word and takes half of the connections.
        ("grpc.so_reuseport", 0),
    ]
