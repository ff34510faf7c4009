"""The passages that context reports quote, taken out where their source is deleted."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(CAST(:user AS text), 0))")
UNQUOTE = text("""
    UPDATE context_reports r SET report = without_passages(r.report, CAST(:sources AS uuid[]))
    WHERE r.user_id = :user AND EXISTS (
        SELECT 1 FROM jsonb_array_elements((r.report->'hits') || (r.report->'dropped')) AS item
        WHERE (item->>'message_id')::uuid = ANY (:sources) OR (item->'citation'->>'document_id')::uuid = ANY (:sources))
""")


async def lock_quotes(session: AsyncConnection, user_id: UUID) -> None:
    """Let no reply be finished with a passage of the user's until the transaction ends, as finish_reply does in SQL.

    It comes before any lock on a conversation.
    """
    await session.execute(LOCK, {"user": user_id})


async def unquote(session: AsyncConnection, user_id: UUID, sources: Sequence[UUID]) -> None:
    """Take the passages of messages and documents out of all the user's reports; `lock_quotes` comes before."""
    if sources:
        await session.execute(UNQUOTE, {"user": user_id, "sources": list(sources)})
