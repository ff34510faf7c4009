"""The composition root: build, register, serve, drain. The one place where the parts meet."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from chatrpc.context.assembler import ContextAssembler
from chatrpc.context.expiry import Expiry
from chatrpc.context.memory import MemoryWorker
from chatrpc.db.chunks import Chunks, DocumentTasks
from chatrpc.db.collections import Collections
from chatrpc.db.conversations import Conversations
from chatrpc.db.documents import Documents
from chatrpc.db.engine import Database, open_database, require_row_level_security
from chatrpc.db.login import require_role
from chatrpc.db.memory import MemoryTasks
from chatrpc.db.processes import Processes
from chatrpc.db.recall import Recall
from chatrpc.db.reports import Reports
from chatrpc.db.summaries import Summaries
from chatrpc.db.transcript import Transcript, TurnLimits
from chatrpc.db.usage import UsageLedger
from chatrpc.db.vectors import VectorStore
from chatrpc.errors import Unavailable
from chatrpc.knowledge.ingest import IngestWorker
from chatrpc.knowledge.library import Library
from chatrpc.knowledge.parser import Parser
from chatrpc.knowledge.search import DocumentSearch
from chatrpc.models.chat import build_chat_model
from chatrpc.models.embedding import build_embedder, bulk_embedder
from chatrpc.models.embedding.calibrated import CalibratedEmbedder
from chatrpc.models.profiles import ModelProfiles, load_profiles
from chatrpc.models.summary import build_summarizer
from chatrpc.ports import ChatModel, Embedder
from chatrpc.rpc.drain import Drain
from chatrpc.rpc.grpc_server import SERVICES, add_services, bind, drain_and_stop, new_grpc_server
from chatrpc.rpc.health import Health
from chatrpc.rpc.identity import TokenVerifier, shared_id_of
from chatrpc.rpc.jwks import KeySet
from chatrpc.rpc.not_ready import NotReady
from chatrpc.settings import (
    AuthSettings,
    ContextSettings,
    DatabaseSettings,
    EmbedderSettings,
    KnowledgeSettings,
    ModelSettings,
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
class MemorySettings:
    """What the background work needs to know."""

    database: DatabaseSettings
    model: ModelSettings
    embedder: EmbedderSettings
    context: ContextSettings
    knowledge: KnowledgeSettings

    @classmethod
    def load(cls) -> MemorySettings:
        """From the environment. Raises SettingsError."""
        return cls(
            load(DatabaseSettings),
            load(ModelSettings),
            load(EmbedderSettings),
            load(ContextSettings),
            load(KnowledgeSettings),
        )


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
class Memory:
    """What conversations are remembered with; the server and the worker alike stand on it.

    Attributes:
        bulk_embedder: The embedder for work that has time, which lets queries pass.
    """

    database: Database
    embedder: Embedder
    chat_model: ChatModel
    space_id: int
    profiles: ModelProfiles
    bulk_embedder: Embedder

    def worker(self, settings: MemorySettings) -> MemoryWorker:
        return MemoryWorker(
            MemoryTasks(self.database),
            VectorStore(self.database),
            Summaries(self.database),
            Recall(self.database),
            self.embedder,
            build_summarizer(settings.model, self.chat_model, self.profiles),
            self.space_id,
            settings.context,
            lambda model: self.profiles.of(self.chat_model.model_name(model)).budget,
        )

    def ingest_worker(self, settings: MemorySettings) -> IngestWorker:
        return IngestWorker(
            DocumentTasks(self.database),
            Documents(self.database),
            Chunks(self.database),
            VectorStore(self.database),
            Parser(settings.knowledge, self.embedder.space.max_tokens),
            self.bulk_embedder,
            self.space_id,
        )

    async def background(self, settings: MemorySettings, worker: MemoryWorker, ingest: IngestWorker) -> None:
        """All background work, until cancelled."""
        expiry = Expiry(Conversations(self.database), timedelta(seconds=settings.context.temporary_age))
        async with asyncio.TaskGroup() as work:
            work.create_task(worker.run(), name="memory worker")
            work.create_task(ingest.run(), name="ingest")
            work.create_task(expiry.run(), name="expiry")

    def library(self, auth: AuthSettings, settings: KnowledgeSettings, on_accepted: Callable[[], None]) -> Library:
        return Library(
            Documents(self.database),
            Collections(self.database),
            shared_id_of(auth.issuer),
            auth.knowledge_scope,
            settings.max_bytes,
            on_accepted,
        )

    def document_search(self, auth: AuthSettings) -> DocumentSearch:
        return DocumentSearch(Recall(self.database), self.embedder, self.space_id, shared_id_of(auth.issuer))

    def assembler(self, settings: MemorySettings, auth: AuthSettings) -> ContextAssembler:
        return ContextAssembler(
            Recall(self.database),
            self.embedder,
            self.space_id,
            settings.context,
            self.profiles,
            self.chat_model.model_name,
            shared_id_of(auth.issuer),
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
        memory = await stack.enter_async_context(open_memory(settings.memory))
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


@asynccontextmanager
async def open_memory(settings: MemorySettings) -> AsyncIterator[Memory]:
    """Load the models and reach the database, however long that takes.

    Raises:
        SettingsError: The models or the database are not what the settings say.
    """
    profiles = await asyncio.to_thread(load_profiles, settings.model)
    async with (
        build_embedder(settings.embedder) as built,
        open_database(settings.database) as database,
        aclosing(build_chat_model(settings.model, profiles)) as chat_model,
    ):
        space_id, floor = await _once_reachable(settings.database, database, built)
        embedder: Embedder = built
        if floor is not None and settings.embedder.floor is None:
            embedder = CalibratedEmbedder(built, floor)
        yield Memory(database, embedder, chat_model, space_id, profiles, bulk_embedder(built))


async def _once_reachable(
    settings: DatabaseSettings, database: Database, embedder: Embedder
) -> tuple[int, float | None]:
    """The embedder's space in the database, and the floor that was recorded for it."""
    vectors = VectorStore(database)
    for pause in itertools.chain((0.2, 0.5), itertools.repeat(1.0)):
        try:
            await require_role(settings)
            await require_row_level_security(database)
            space_id = await vectors.register_space(embedder.space)
            return space_id, await vectors.floor(space_id)
        except Unavailable as error:
            log.warning("database_unreachable", problem=str(error.__cause__ or error), retry_in=pause)
        await asyncio.sleep(pause)
    raise AssertionError  # The loop above does not end.
