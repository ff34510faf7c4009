"""The ledger: what was used, by attempt, and what is left of a quota. It holds no text, and nothing in it is erased."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from chatrpc.db.codec import usage_to_json
from chatrpc.db.engine import Database
from chatrpc.domain import DayUsage, QuotaWindow, Served, UsageKind, WindowUsage

BOOK = "SELECT book_usage(%s, %s, %s, %s, %s, %s, %s, 0, %s)"
# In one statement, so that a turn that ends meanwhile is seen either as reserved or as booked.
WINDOW = """
WITH w AS (SELECT date_trunc(%(window)s::text, now(), 'UTC') AS starts_at)
SELECT w.starts_at,
       (w.starts_at AT TIME ZONE 'UTC' + ('1 ' || %(window)s::text)::interval) AT TIME ZONE 'UTC' AS ends_at,
       used.*, unfinished.*
FROM w,
     LATERAL (SELECT coalesce(sum(h.prompt_tokens + h.completion_tokens), 0)::bigint AS tokens,
                     coalesce(sum(h.turns) FILTER (WHERE h.kind = 'turn'), 0)::bigint AS turns
              FROM usage_hours h WHERE h.user_id = %(user)s AND h.hour >= w.starts_at) used,
     (SELECT coalesce(sum(m.reserved_prompt_tokens::bigint + m.reserved_completion_tokens), 0)::bigint
                 AS reserved_tokens,
             count(*) AS running_turns
      FROM messages m WHERE m.user_id = %(user)s AND m.state = 'pending') unfinished
"""
DAYS = """
SELECT date_trunc('day', h.hour, 'UTC') AS day, h.kind, h.model, sum(h.turns)::bigint AS count,
       sum(h.prompt_tokens)::bigint AS prompt_tokens, sum(h.cached_tokens)::bigint AS cached_tokens,
       sum(h.completion_tokens)::bigint AS completion_tokens, sum(h.embedding_tokens)::bigint AS embedding_tokens,
       sum(h.estimated_tokens)::bigint AS estimated_tokens
FROM usage_hours h
WHERE h.user_id = %s AND h.hour >= %s AND h.hour < %s
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


class UsageLedger:
    """Books background work, and tells what was booked. Turns are booked with their own writes, in the transcript."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def window(self, user_id: UUID, window: QuotaWindow) -> WindowUsage:
        """What a user has used of the window that runs."""
        [[row]] = await self._database.query(user_id, (WINDOW, {"user": user_id, "window": window.value}))
        return WindowUsage(**row)

    async def days(self, user_id: UUID, start: datetime, end: datetime) -> list[DayUsage]:
        """What a user has used from `start` on, before `end`, by day, kind and model."""
        [rows] = await self._database.query(user_id, (DAYS, (user_id, start, end)))
        return [DayUsage(**{**row, "kind": UsageKind(row["kind"])}) for row in rows]

    async def book(self, user_id: UUID, kind: UsageKind, work_id: UUID, place_id: UUID, served: Served) -> None:
        """Book background work that led to nothing that is stored, as far as is known; once."""
        await self._database.query(user_id, (BOOK, _background(user_id, kind, work_id, place_id, served, 0)))


async def book_background(
    connection: AsyncConnection[Any],
    user_id: UUID,
    kind: UsageKind,
    work_id: UUID,
    place_id: UUID,
    served: Served,
    embedding_tokens: int = 0,
) -> None:
    """Book background work in the transaction that stores what came of it; the last statement in it.

    Args:
        work_id: Of this piece of work.
        place_id: The conversation, or the document.
    """
    await connection.execute(BOOK, _background(user_id, kind, work_id, place_id, served, embedding_tokens))


def _background(
    user_id: UUID, kind: UsageKind, work_id: UUID, place_id: UUID, served: Served, embedding_tokens: int
) -> tuple[object, ...]:
    usage = Jsonb({**usage_to_json(served.usage), "embedding_tokens": embedding_tokens})
    return user_id, work_id, 0, kind.value, place_id, served.model, usage, 1
