"""Puts together what conversations are remembered with, and the background work on it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
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
from chatrpc.db.issuer import require_issuer
from chatrpc.db.login import require_role
from chatrpc.db.memory import MemoryTasks
from chatrpc.db.recall import Recall, plan_searches
from chatrpc.db.summaries import Summaries
from chatrpc.db.vectors import VectorStore
from chatrpc.errors import Unavailable
from chatrpc.knowledge.ingest import IngestWorker
from chatrpc.knowledge.library import Library
from chatrpc.knowledge.parser import Parser
from chatrpc.knowledge.search import DocumentSearch
from chatrpc.models.chat import build_chat_model
from chatrpc.models.embedding import build_embedder, bulk_embedder, query_embedder
from chatrpc.models.embedding.calibrated import CalibratedEmbedder
from chatrpc.models.profiles import ModelProfiles, load_profiles
from chatrpc.models.summary import build_summarizer
from chatrpc.ports import ChatModel, Embedder
from chatrpc.rpc.identity import shared_id_of
from chatrpc.settings import (
    AuthSettings,
    ContextSettings,
    DatabaseSettings,
    EmbedderSettings,
    KnowledgeSettings,
    ModelSettings,
    load,
)

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
class Memory:
    """What conversations are remembered with; the server and the worker alike stand on it.

    Attributes:
        bulk_embedder: The embedder for work that has time, which lets queries pass.
        query_embedder: The embedder for what is searched for.
    """

    database: Database
    embedder: Embedder
    chat_model: ChatModel
    space_id: int
    profiles: ModelProfiles
    bulk_embedder: Embedder
    query_embedder: Embedder

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
        return DocumentSearch(Recall(self.database), self.query_embedder, self.space_id, shared_id_of(auth.issuer))

    def assembler(self, settings: MemorySettings, auth: AuthSettings) -> ContextAssembler:
        return ContextAssembler(
            Recall(self.database),
            self.query_embedder,
            self.space_id,
            settings.context,
            self.profiles,
            self.chat_model.model_name,
            shared_id_of(auth.issuer),
        )


@asynccontextmanager
async def open_memory(settings: MemorySettings, issuer: str | None = None) -> AsyncIterator[Memory]:
    """Load the models and reach the database, however long that takes.

    Args:
        issuer: Whose users are served; None where none are.

    Raises:
        SettingsError: The models or the database are not what the settings say.
    """
    profiles = await asyncio.to_thread(load_profiles, settings.model)
    async with (
        build_embedder(settings.embedder) as built,
        open_database(settings.database, None if issuer is None else plan_searches) as database,
        aclosing(build_chat_model(settings.model, profiles)) as chat_model,
    ):
        space_id, floor = await _once_reachable(settings.database, database, built, issuer)
        embedder: Embedder = built
        queries = query_embedder(built)
        if floor is not None and settings.embedder.floor is None:
            embedder, queries = CalibratedEmbedder(built, floor), CalibratedEmbedder(queries, floor)
        yield Memory(database, embedder, chat_model, space_id, profiles, bulk_embedder(built), queries)


async def _once_reachable(
    settings: DatabaseSettings, database: Database, embedder: Embedder, issuer: str | None
) -> tuple[int, float | None]:
    """The embedder's space in the database, and the floor that was recorded for it."""
    vectors = VectorStore(database)
    for pause in itertools.chain((0.2, 0.5), itertools.repeat(1.0)):
        try:
            await require_role(settings)
            await require_row_level_security(database)
            if issuer is not None:
                await require_issuer(database, issuer)
            space_id = await vectors.register_space(embedder.space)
            return space_id, await vectors.floor(space_id)
        except Unavailable as error:
            log.warning("database_unreachable", problem=str(error.__cause__ or error), retry_in=pause)
        await asyncio.sleep(pause)
    raise AssertionError  # The loop above does not end.
