"""One user's conversations, written to as the rooms above the database do, and the search of all tables for a text."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid4

import numpy as np

from chatrpc.db.conversations import Conversations, Erased
from chatrpc.db.engine import Database
from chatrpc.db.transcript import FinishedReply, Transcript
from chatrpc.db.vectors import NewVector, VectorStore
from chatrpc.domain import (
    Accepted,
    Citation,
    ContextReport,
    Dropped,
    DropReason,
    FinishReason,
    Hit,
    Message,
    MessageState,
    Page,
    RetrievalOutcome,
    TurnSettings,
    Usage,
)
from tests.db.helpers import said
from tests.db.test_transcript import append
from tests.support.embedder import WordEmbedder

MOMENT = datetime(2024, 1, 1, tzinfo=UTC)
OF_A_DOCUMENT = "thirty days of leave"


def hit(rank: int, source: Message | Citation) -> Hit:
    """A passage of a message, or of a document."""
    if isinstance(source, Citation):
        return Hit(None, None, None, OF_A_DOCUMENT, MOMENT, 0.8, rank, True, 9, citation=source)
    return Hit(source.id, source.conversation_id, source.role, source.text, MOMENT, 0.8, rank, True, 9)


def report_quoting(turn: Accepted, *sources: Message | Citation) -> ContextReport:
    return ContextReport(
        conversation_id=turn.message.conversation_id,
        query_message_id=turn.message.id,
        revision=1,
        summary_version=None,
        summarized_through_depth=0,
        verbatim=(),
        retrieval=RetrievalOutcome.FOUND,
        hits=tuple(hit(rank, source) for rank, source in enumerate(sources, start=1)),
        dropped=tuple(
            Dropped(None, DropReason.BUDGET, 9, citation=source) for source in sources if isinstance(source, Citation)
        ),
        section_tokens={},
        budget_tokens=100,
        embedding_model="words",
        model="m",
    )


@dataclass
class Home:
    """One user's conversations, written to as the rooms above do."""

    database: Database
    user_id: UUID = field(default_factory=uuid4)

    def __post_init__(self) -> None:
        self.conversations = Conversations(self.database)
        self.transcript = Transcript(self.database)
        self.vectors = VectorStore(self.database)

    async def open(self, **fields: object) -> UUID:
        values = {"title": "", "settings": TurnSettings(), "labels": {}, "request_id": None} | fields
        return (await self.conversations.create(self.user_id, **values)).id

    async def talk(self, conversation_id: UUID, text: str, reply: str, *quoted: Message | Citation) -> Accepted:
        turn = await append(self.database, self.user_id, conversation_id, uuid4().hex, text)
        assert await self.finish(turn, reply, *quoted) is not None
        return turn

    async def finish(self, turn: Accepted, reply: str, *quoted: Message | Citation) -> tuple[Message, int] | None:
        return await self.transcript.finish_reply(
            self.user_id,
            FinishedReply(
                conversation_id=turn.message.conversation_id,
                reply=turn.reply,
                attempt=1,
                state=MessageState.COMPLETE,
                parts=said(reply),
                tokens=9,
                model="m",
                finish_reason=FinishReason.STOP,
                error_reason=None,
                usage=Usage(1, 0, 1),
                delta_ends=(len(reply),),
                report=report_quoting(turn, *quoted),
            ),
        )

    async def embed(self, *messages: Message) -> None:
        space = await self.vectors.register_space(WordEmbedder().space)
        vector = np.ones(384, np.float32) / np.sqrt(384).astype(np.float32)
        new = [NewVector(m.id, m.conversation_id, 0, (0, len(m.text)), vector) for m in messages]
        await self.vectors.add(self.user_id, space, new)

    async def erase(self, message_id: UUID, *, include_reply: bool = False) -> Erased:
        return await self.conversations.erase_message(self.user_id, message_id, include_reply=include_reply)

    async def messages(self, conversation_id: UUID) -> list[Message]:
        return list((await self.conversations.messages(self.user_id, conversation_id, Page(100)))[0])

    async def holds(self, text: str) -> list[str]:
        """The tables that hold a text, in whatever column."""
        return await tables_holding(self.database, self.user_id, text)

    async def rows(self, table: str) -> int:
        [[row]] = await self.database.query(self.user_id, (f"SELECT count(*) AS n FROM {table}", ()))
        return int(row["n"])


async def tables_holding(database: Database, user_id: UUID, text: str) -> list[str]:
    """The tables with a row of a user's, or of nobody's, that holds a text, in whatever column."""
    names = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    [found] = await database.query(user_id, (f"{names} AND has_table_privilege(oid, 'SELECT')", ()))
    tables = [row["relname"] for row in found if "_partition_" not in row["relname"]]
    counts = await database.query(
        user_id, *((f"SELECT count(*) AS n FROM {table} t WHERE strpos(t::text, %s) > 0", (text,)) for table in tables)
    )
    return [table for table, [row] in zip(tables, counts, strict=True) if row["n"]]
