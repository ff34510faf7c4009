"""The composition root: build, register, serve, drain. The one place where the parts meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import structlog

from chatrpc.db.conversations import Conversations
from chatrpc.db.processes import Processes
from chatrpc.db.reports import Reports
from chatrpc.db.transcript import Transcript, TurnLimits
from chatrpc.db.usage import UsageLedger
from chatrpc.memory import MemorySettings, open_memory
from chatrpc.rpc.drain import Drain
from chatrpc.rpc.grpc_server import SERVICES, add_services, bind, drain_and_stop, new_grpc_server
from chatrpc.rpc.health import Health
from chatrpc.rpc.identity import TokenVerifier
from chatrpc.rpc.jwks import KeySet
from chatrpc.rpc.not_ready import NotReady
from chatrpc.settings import (
    AuthSettings,
    QuotaSettings,
    RedisSettings,
    ServerSettings,
    load,
)
from chatrpc.streams.streams import open_streams
from chatrpc.turns.admission import Admission
from chatrpc.turns.generation import TurnParts
from chatrpc.turns.lease import process_lease
from chatrpc.turns.reply_logs import LocalReplyLogs, ReplyLogs
from chatrpc.turns.rounds import RoundLimits
from chatrpc.turns.service import Turns
from chatrpc.turns.shared_logs import share_reply_logs
from chatrpc.turns.stored import StoredReplies
from chatrpc.turns.takeover import Takeover

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server needs to know."""

    memory: MemorySettings
    auth: AuthSettings
    server: ServerSettings
    # By default, the server shares nothing with others.
    redis: RedisSettings = field(default_factory=lambda: RedisSettings(url=None))
    quota: QuotaSettings = field(default_factory=lambda: QuotaSettings(tokens=None, turns=None))

    @classmethod
    def load(cls) -> Settings:
        """From the environment. Raises SettingsError."""
        return cls(
            MemorySettings.load(), load(AuthSettings), load(ServerSettings), load(RedisSettings), load(QuotaSettings)
        )


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that listens.

    Attributes:
        port: Where it listens.
    """

    port: int
    _serving: asyncio.Task[None]
    _stopping: asyncio.Event

    async def failed(self) -> None:
        """Wait until the server ends before it is told to, and raise what ended it."""
        await asyncio.shield(self._serving)

    async def drain(self) -> None:
        """Drain the server before its block ends, for what stands in front of it and must outlive it."""
        self._stopping.set()
        await asyncio.wait({self._serving})


@asynccontextmanager
async def run_server(settings: Settings, *, wait_ready: bool = True) -> AsyncIterator[RunningServer]:
    """Run a server until the end of the block, then drain it.

    It listens at once; until the database can be reached, calls are answered with UNAVAILABLE and RetryInfo.

    Args:
        wait_ready: Whether to wait for the database before the block begins.

    Raises:
        SettingsError: Settings contradict the machine or the database.
    """
    async with KeySet(settings.auth) as keys:
        doors = _Doors(settings, keys)
        port = bind(doors.server, settings.server)
        await doors.server.start()
        log.info("listening", port=port)
        serving = asyncio.create_task(_serve(settings, doors), name="server")
        ready = asyncio.create_task(doors.ready.wait(), name="server ready")
        try:
            if wait_ready:
                await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                await serving
            yield RunningServer(port, serving, doors.stopping)
        finally:
            ready.cancel()
            doors.stopping.set()
            if not doors.ready.is_set():
                serving.cancel()
            try:
                with suppress(asyncio.CancelledError):
                    await serving
            finally:
                await doors.server.stop(None)


class _Doors:
    """The gRPC server, and what tells it and the rest of the server about each other."""

    def __init__(self, settings: Settings, keys: KeySet) -> None:
        self.health = Health()
        self.drain = Drain()
        self.ready = asyncio.Event()
        self.stopping = asyncio.Event()
        self.admission = Admission(settings.server.target_delay_ms / 1000, settings.memory.database.pool_size)
        verifier = TokenVerifier(settings.auth, keys, settings.quota)
        self.server = new_grpc_server(settings.server, verifier, self.health, self.admission)
        self._not_ready = NotReady(SERVICES)
        self.server.add_generic_rpc_handlers((self._not_ready,))

    def open(self) -> None:
        self._not_ready.done()
        self.health.set_serving(True)
        self.ready.set()


async def _serve(settings: Settings, doors: _Doors) -> None:
    """Reach the database, put the parts together, answer until told to stop, and drain."""
    async with AsyncExitStack() as stack:
        memory = await stack.enter_async_context(open_memory(settings.memory, settings.auth.issuer))
        lease = await stack.enter_async_context(process_lease(Processes(memory.database)))
        worker, ingest = memory.worker(settings.memory), memory.ingest_worker(settings.memory)
        assembler = memory.assembler(settings.memory, settings.auth)
        reports, transcript = Reports(memory.database), Transcript(memory.database)
        stored = StoredReplies(transcript, reports)
        logs = await stack.enter_async_context(open_reply_logs(settings.redis, stored))
        parts = TurnParts(
            transcript=transcript,
            assembler=assembler,
            model=memory.chat_model,
            coalesce_window=settings.server.coalesce_ms / 1000,
            on_finished=worker.wake,
            limits=TurnLimits(queue=settings.server.max_queue, pending=settings.server.max_turns_per_user),
            round_limits=RoundLimits(
                settings.server.max_turn_seconds,
                settings.memory.model.tool_rounds,
                settings.memory.model.tool_timeout,
            ),
            admission=doors.admission,
        )
        turns = Turns(parts, stored, lease, logs)
        takeover = Takeover(turns, transcript, lease, interrupt=settings.server.takeover == "interrupt")
        taking_over = asyncio.create_task(takeover.run(), name="takeover")
        conversations = Conversations(memory.database)
        library = memory.library(settings.auth, settings.memory.knowledge, ingest.wake)
        search = memory.document_search(settings.auth)
        add_services(
            doors.server,
            settings.server,
            turns,
            conversations,
            reports,
            assembler,
            library,
            search,
            UsageLedger(memory.database),
            doors.drain,
        )
        working = None
        if settings.server.embedded_worker:
            working = asyncio.create_task(memory.background(settings.memory, worker, ingest), name="background work")
        try:
            doors.open()
            log.info("ready")
            await doors.stopping.wait()
            doors.health.drain()
            await asyncio.sleep(settings.server.drain_delay)
            taking_over.cancel()
            await drain_and_stop(doors.server, doors.health, doors.drain, turns, settings.server.drain_grace)
        finally:
            background = {taking_over} if working is None else {taking_over, working}
            for task in background:
                task.cancel()
            await asyncio.wait(background)


@asynccontextmanager
async def open_reply_logs(settings: RedisSettings, stored: StoredReplies) -> AsyncIterator[ReplyLogs]:
    """The logs of running replies: shared through Redis, if there is one. It is reached when it is there."""
    if settings.url is None:
        yield LocalReplyLogs()
    else:
        async with open_streams(settings) as streams, share_reply_logs(streams, stored) as logs:
            yield logs
