"""Conversations, the listing of their messages and what erases them, by SQLAlchemy Core."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, or_, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from uuid_utils.compat import uuid7

from chatrpc.db.branches import Branches
from chatrpc.db.codec import message_of, settings_to_json
from chatrpc.db.engine import Database
from chatrpc.db.pages import bad_position, cut_page
from chatrpc.db.quotes import lock_quotes, unquote
from chatrpc.db.recall import conversation_of
from chatrpc.db.tables import ContextReportRow, ConversationRow, EmbeddingRow, MessageRow, SummaryRow
from chatrpc.db.watched import Watched
from chatrpc.domain import Conversation, ConversationMemory, Message, Page, TurnSettings, texts_of
from chatrpc.errors import AlreadyExists, Conflict, FailedPrecondition, NotFound, Reason

# Other conversations find the active path of a remembered one, and nothing of a private one.
ACTIVATE = {
    ConversationMemory.REMEMBERED: text("""
        UPDATE embeddings e SET active = on_path(e.branch, e.depth, c.lineage || ARRAY[c.head_branch, c.head_depth])
        FROM conversations c
        WHERE c.user_id = :user AND c.id = :conversation AND e.user_id = c.user_id AND e.conversation_id = c.id
    """),
    ConversationMemory.PRIVATE: text("""
        UPDATE embeddings SET active = false WHERE user_id = :user AND conversation_id = :conversation AND active
    """),
}
ERASE = "SELECT * FROM erase_message(%s, %s, %s)"
# What is stopped by an erasure or a deletion is booked in its transaction.
BOOK_STOPPED = "SELECT book_stopped(%s, NULL, %s)"
BOOK_DELETED = text("SELECT book_stopped(:user, :conversation, NULL)")
EXPIRED = "SELECT * FROM expired_conversations(%s, %s)"


@dataclass(frozen=True, slots=True)
class ConversationChanges:
    """New values; None leaves the old."""

    title: str | None = None
    settings: TurnSettings | None = None
    labels: dict[str, str] | None = None
    memory: ConversationMemory | None = None


@dataclass(frozen=True, slots=True)
class DeletionCounts:
    """What a deletion removed."""

    messages: int
    summaries: int
    vectors: int
    context_reports: int


@dataclass(frozen=True, slots=True)
class Erased:
    """What the erasure of a message removed.

    Attributes:
        messages: Whose text is gone; 0 where it was gone before.
        vectors: With the index of their words.
        passages: Taken out of context reports.
        context_reports: Removed as a whole: those of erased replies.
        summaries: Versions that covered the messages.
        title: Whether the conversation's title was the beginning of an erased text, and was emptied.
    """

    conversation_id: UUID
    messages: int
    vectors: int
    passages: int
    context_reports: int
    summaries: int
    title: bool


class Conversations:
    """Creates, reads, lists, changes and deletes conversations.

    Attributes:
        branches: Of any of them.
        watched: What those who watch them read.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.branches = Branches(database)
        self.watched = Watched(database)

    async def create(
        self,
        user_id: UUID,
        *,
        title: str,
        settings: TurnSettings,
        labels: dict[str, str],
        request_id: str | None,
        memory: ConversationMemory = ConversationMemory.REMEMBERED,
    ) -> Conversation:
        """Create a conversation, or return that of an earlier request with the same id and content.

        Raises:
            AlreadyExists: The request id was used for other content.
        """
        values: dict[str, Any] = {"title": title, "settings": settings_to_json(settings), "labels": labels}
        if memory is not ConversationMemory.REMEMBERED:
            values["memory"] = memory.value
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()
        async with self._database.session(user_id) as session:
            statement = upsert(ConversationRow).values(
                user_id=user_id, id=uuid7(), request_id=request_id, request_hash=digest, **values
            )
            created = await session.execute(statement.on_conflict_do_nothing().returning(ConversationRow))
            row = created.mappings().one_or_none()
            if row is None:
                found = await session.execute(
                    select(ConversationRow).where(
                        ConversationRow.user_id == user_id, ConversationRow.request_id == request_id
                    )
                )
                row = found.mappings().one()
                # Erasing a message may have taken the title along, and what was made of it.
                if row["request_hash"] not in (None, digest):
                    raise AlreadyExists(
                        Reason.REQUEST_ID_REUSED,
                        "conversation",
                        str(request_id),
                        f"request_id {request_id!r} was used for another conversation; choose a new one.",
                    )
            return conversation_of(dict(row))

    async def get(self, user_id: UUID, conversation_id: UUID) -> Conversation:
        """Raises NotFound."""
        async with self._database.session(user_id) as session:
            rows = await session.execute(select(ConversationRow).where(*_key(user_id, conversation_id)))
            row = rows.mappings().one_or_none()
        if row is None:
            raise _not_found(conversation_id)
        return conversation_of(dict(row))

    async def list(
        self, user_id: UUID, page: Page, *, title_contains: str = "", labels: dict[str, str] | None = None
    ) -> tuple[Sequence[Conversation], str | None]:
        """A page of conversations, the most recently changed first, and where the next begins."""
        query = (
            select(ConversationRow)
            .where(ConversationRow.user_id == user_id)
            .order_by(ConversationRow.updated_at.desc(), ConversationRow.id.desc())
            .limit(page.size + 1)
        )
        if title_contains:
            query = query.where(ConversationRow.title.icontains(title_contains, autoescape=True))
        if labels:
            query = query.where(ConversationRow.labels.contains(labels))
        if page.after is not None:
            updated_at, conversation_id = _position(page.after)
            query = query.where(tuple_(ConversationRow.updated_at, ConversationRow.id) < (updated_at, conversation_id))
        async with self._database.session(user_id) as session:
            rows = (await session.execute(query)).mappings().all()
        found = [conversation_of(dict(row)) for row in rows]
        shown, more = cut_page(found, page.size, _characters)
        return shown, f"{shown[-1].updated_at.isoformat()} {shown[-1].id}" if more else None

    async def update(
        self,
        user_id: UUID,
        conversation_id: UUID,
        changes: ConversationChanges,
        expected_revision: int | None = None,
    ) -> Conversation:
        """Change a conversation.

        Raises:
            NotFound: No such conversation.
            Conflict: It is not at the expected revision.
            FailedPrecondition: It is to become temporary, or to be no longer.
        """
        values: dict[str, Any] = {}
        if changes.title is not None:
            values["title"] = changes.title
        if changes.settings is not None:
            values["settings"] = settings_to_json(changes.settings)
        if changes.labels is not None:
            values["labels"] = changes.labels
        async with self._database.session(user_id) as session:
            key = _key(user_id, conversation_id)
            columns = (ConversationRow.revision, ConversationRow.memory)
            row = (await session.execute(select(*columns).where(*key).with_for_update())).one_or_none()
            if row is None:
                raise _not_found(conversation_id)
            revision, memory = row
            if expected_revision is not None and revision != expected_revision:
                raise Conflict(
                    Reason.REVISION_CONFLICT,
                    f"The conversation is at revision {revision}, not {expected_revision}; read it again.",
                )
            if changes.memory is not None and changes.memory != memory:
                if ConversationMemory.TEMPORARY in (changes.memory, memory):
                    raise FailedPrecondition(
                        Reason.MEMORY_FIXED,
                        "Whether a conversation is temporary is decided when it is created; create another one.",
                    )
                values["memory"] = changes.memory.value
                await session.execute(ACTIVATE[changes.memory], {"user": user_id, "conversation": conversation_id})
            statement = update(ConversationRow).where(*key).values(revision=revision + 1, **values)
            changed = await session.execute(statement.values(updated_at=func.now()).returning(ConversationRow))
            return conversation_of(dict(changed.mappings().one()))

    async def delete(
        self, user_id: UUID, conversation_id: UUID, *, unchanged_for: timedelta | None = None
    ) -> DeletionCounts:
        """Delete a conversation with all that was derived from it. Raises NotFound.

        Args:
            unchanged_for: Only if its last change is longer ago; else NotFound.
        """
        async with self._database.session(user_id) as session:
            key = _key(user_id, conversation_id)
            await lock_quotes(session, user_id)
            query = select(ConversationRow.memory).where(*key).with_for_update()
            if unchanged_for is not None:
                query = query.where(ConversationRow.updated_at < func.now() - unchanged_for)
            memory = (await session.execute(query)).scalar_one_or_none()
            if memory is None:
                raise _not_found(conversation_id)
            await session.execute(BOOK_DELETED, {"user": user_id, "conversation": conversation_id})
            counts = []
            for table in (SummaryRow, EmbeddingRow, ContextReportRow):
                removed = await session.execute(
                    delete(table).where(table.user_id == user_id, table.conversation_id == conversation_id)
                )
                counts.append(removed.rowcount)
            of_conversation = MessageRow.user_id == user_id, MessageRow.conversation_id == conversation_id
            messages = await session.execute(delete(MessageRow).where(*of_conversation).returning(MessageRow.id))
            message_ids = messages.scalars().all()
            # Nobody else has ever found a passage of a temporary conversation.
            if memory != ConversationMemory.TEMPORARY:
                await unquote(session, user_id, message_ids)
            await session.execute(delete(ConversationRow).where(*key))
        return DeletionCounts(len(message_ids), *counts)

    async def expired(self, unchanged_for: timedelta, limit: int) -> Sequence[tuple[UUID, UUID]]:
        """Temporary conversations of any user whose last change is longer ago, as `(user, conversation)`."""
        async with self._database.unbound() as connection:
            cursor = await connection.execute(EXPIRED, (unchanged_for, limit))
            return [(row["user_id"], row["conversation_id"]) for row in await cursor.fetchall()]

    async def erase_message(self, user_id: UUID, message_id: UUID, *, include_reply: bool) -> Erased:
        """Erase the text of a message, and of its reply if asked to, with all that was derived from them.

        Raises:
            NotFound: No such message.
        """
        _, [row] = await self._database.query(
            user_id, (BOOK_STOPPED, (user_id, message_id)), (ERASE, (user_id, message_id, include_reply))
        )
        if row["conversation"] is None:
            raise NotFound(Reason.MESSAGE_NOT_FOUND, "message", str(message_id))
        return Erased(
            conversation_id=row["conversation"],
            messages=row["erased_messages"],
            vectors=row["erased_vectors"],
            passages=row["erased_passages"],
            context_reports=row["erased_reports"],
            summaries=row["erased_summaries"],
            title=row["erased_title"],
        )

    async def messages(
        self,
        user_id: UUID,
        conversation_id: UUID,
        page: Page,
        *,
        newest_first: bool = False,
        all_branches: bool = False,
    ) -> tuple[Sequence[Message], str | None]:
        """A page of messages of the active path by depth, or of all branches by sequence, and where the next begins.

        Raises:
            NotFound: No such conversation.
            InvalidInput: The position is none of this listing's.
        """
        async with self._database.session(user_id) as session:
            rows = await session.execute(select(ConversationRow).where(*_key(user_id, conversation_id)))
            row = rows.mappings().one_or_none()
            if row is None:
                raise _not_found(conversation_id)
            place = MessageRow.sequence if all_branches else MessageRow.depth
            query = select(MessageRow).where(
                MessageRow.user_id == user_id, MessageRow.conversation_id == conversation_id
            )
            if not all_branches:
                segments: list[ColumnElement[bool]] = [
                    (MessageRow.branch == branch) & (MessageRow.depth <= depth)
                    for branch, depth in conversation_of(dict(row)).path
                ]
                query = query.where(or_(False, *segments))
            if page.after is not None:
                after = _number(page.after)
                query = query.where(place < after if newest_first else place > after)
            query = query.order_by(place.desc() if newest_first else place.asc()).limit(page.size + 1)
            found = [message_of(dict(message)) for message in (await session.execute(query)).mappings()]
        shown, more = cut_page(found, page.size, _message_characters)
        if not more:
            return shown, None
        return shown, str(shown[-1].sequence if all_branches else shown[-1].depth)


def _message_characters(message: Message) -> int:
    return sum(len(text) for part in message.parts for text in texts_of(part))


def _characters(conversation: Conversation) -> int:
    settings = conversation.settings
    texts = [
        conversation.title,
        settings.system_instruction or "",
        settings.model or "",
        settings.response_schema or "",
    ]
    for tool in settings.tools or ():
        texts += (tool.name, tool.description, tool.parameters)
    for label in conversation.labels.items():
        texts += label
    return sum(map(len, texts))


def _key(user_id: UUID, conversation_id: UUID) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return ConversationRow.user_id == user_id, ConversationRow.id == conversation_id


def _not_found(conversation_id: UUID) -> NotFound:
    return NotFound(Reason.CONVERSATION_NOT_FOUND, "conversation", str(conversation_id))


def _position(after: str) -> tuple[datetime, UUID]:
    try:
        moment, _, conversation_id = after.partition(" ")
        return datetime.fromisoformat(moment), UUID(conversation_id)
    except ValueError:
        raise bad_position() from None


def _number(after: str) -> int:
    try:
        return int(after)
    except ValueError:
        raise bad_position() from None
