"""Turns over a real database and a real language model client; the provider on loopback does what a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import pytest_asyncio

from chatrpc.context.assembler import ContextAssembler
from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.processes import Processes
from chatrpc.db.recall import Recall
from chatrpc.db.reports import Reports
from chatrpc.db.transcript import Transcript
from chatrpc.db.vectors import VectorStore
from chatrpc.domain import Accepted, Caller, OutgoingMessage, TextPart, TurnSettings
from chatrpc.models.chat import build_chat_model
from chatrpc.models.profiles import load_profiles
from chatrpc.ports import ChatModel
from chatrpc.server import open_reply_logs
from chatrpc.settings import ContextSettings, ModelSettings, RedisSettings
from chatrpc.turns.events import ReplyEvent
from chatrpc.turns.generation import TurnParts
from chatrpc.turns.lease import ProcessLease, process_lease
from chatrpc.turns.reply_log import ReplyReader
from chatrpc.turns.service import Turns
from chatrpc.turns.stored import StoredReplies
from chatrpc.turns.takeover import Takeover
from tests.support.embedder import WordEmbedder
from tests.support.provider import Provider


def caller(user_id: UUID) -> Caller:
    return Caller(user_id, "alice", "https://issuer", None, frozenset(), 2e9)


@dataclass
class Process:
    """One server process's turns, for one user in one conversation."""

    turns: Turns
    database: Database
    provider: Provider
    process_id: UUID
    caller: Caller
    conversation_id: UUID
    lease: ProcessLease
    takeover: Takeover

    async def send(self, text: str, key: str | None = None, **fields: object) -> tuple[Accepted, ReplyReader]:
        message = OutgoingMessage(
            self.conversation_id, key or uuid4().hex, (TextPart(text),), coalesce_window=0.0, **fields
        )
        return await self.turns.send(self.caller, message)

    async def said(self, text: str, key: str | None = None) -> tuple[Accepted, list[ReplyEvent]]:
        """Send, and read the reply to its end."""
        accepted, events = await self.send(text, key)
        return accepted, [event async for event in events]

    async def followed(self, reply_id: UUID, attempt: int = 0, after: int = 0) -> list[ReplyEvent]:
        return [event async for event in await self.turns.follow(self.caller, reply_id, attempt, after)]


def model_settings(provider: Provider) -> ModelSettings:
    return ModelSettings(base_url=provider.base_url, name="test-model", max_retries=0)


@asynccontextmanager
async def running(
    database: Database,
    provider: Provider,
    user_id: UUID,
    conversation_id: UUID,
    *,
    redis_url: str | None = None,
    interrupt: bool = False,
    model: ChatModel | None = None,
    hits: int = 8,
    **parts_fields: Any,
) -> AsyncIterator[Process]:
    """The turns of a process of its own, with a lease; replies still running at the end are stopped.

    Args:
        interrupt: Whether replies of dead processes are ended rather than generated anew.
        hits: Passages that are retrieved; without any, a turn takes half the time.
        model: One that is shared, and closed by whoever made it; to make one takes longer than a turn.
    """
    settings, own = model_settings(provider), None
    if model is None:
        model = own = build_chat_model(settings)
    embedder = WordEmbedder()
    space_id = await VectorStore(database).register_space(embedder.space)
    assembler = ContextAssembler(
        Recall(database), embedder, space_id, ContextSettings(hits=hits), load_profiles(settings), model.model_name
    )
    parts = TurnParts(Transcript(database), assembler, model, 0.0, lambda: None)
    parts = replace(parts, **parts_fields)
    stored = StoredReplies(parts.transcript, Reports(database))
    async with (
        process_lease(Processes(database)) as lease,
        open_reply_logs(RedisSettings(url=redis_url), stored) as logs,
    ):
        turns = Turns(parts, stored, lease, logs)
        takeover = Takeover(turns, parts.transcript, lease, interrupt=interrupt)
        try:
            yield Process(
                turns, database, provider, lease.process_id, caller(user_id), conversation_id, lease, takeover
            )
        finally:
            await turns.drain(0)
            if own is not None:
                await own.aclose()


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as opened:
        yield opened


@pytest_asyncio.fixture
async def conversation_id(database: Database, user_id: UUID) -> UUID:
    conversations = Conversations(database)
    made = await conversations.create(user_id, title="", settings=TurnSettings(), labels={}, request_id=None)
    return made.id


@pytest_asyncio.fixture
async def process(
    database: Database, provider: Provider, user_id: UUID, conversation_id: UUID
) -> AsyncIterator[Process]:
    async with running(database, provider, user_id, conversation_id) as opened:
        yield opened
