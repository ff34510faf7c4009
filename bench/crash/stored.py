"""What the database holds, read by its owner, past all of the product's own code."""

from __future__ import annotations

import psycopg
from psycopg.rows import DictRow, dict_row

from bench.crash.history import Booked, Ending, Orphan, Stored, Tokens

MESSAGES = """
SELECT id::text, conversation_id::text, coalesce(parent_id::text, '') AS parent_id, sequence, role, state, attempt,
       coalesce(client_message_id, '') AS key, coalesce(finish_reason, '') AS finish_reason,
       coalesce(error_reason, '') AS error_reason, parts, usage
FROM messages
"""
BOOKED = """
SELECT id::text, attempt, prompt_tokens, completion_tokens, estimated, reserved_tokens FROM usage_entries
WHERE kind = 'turn'
"""
SUMS = """
SELECT coalesce(e.user_id, h.user_id)::text, coalesce(e.tokens, 0), coalesce(h.tokens, 0)
FROM (
    SELECT user_id, sum(prompt_tokens + completion_tokens + embedding_tokens) AS tokens FROM usage_entries GROUP BY 1
) e
FULL JOIN (
    SELECT user_id, sum(prompt_tokens + completion_tokens + embedding_tokens) AS tokens FROM usage_hours GROUP BY 1
) h ON h.user_id = e.user_id
WHERE coalesce(e.tokens, 0) <> coalesce(h.tokens, 0)
"""
PENDING = "SELECT id::text, attempt FROM messages WHERE state = 'pending'"


async def read_messages(url: str) -> list[Stored]:
    """All messages of all users."""
    async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:
        cursor = await connection.execute(MESSAGES)
        return [_stored(row) async for row in cursor]


async def read_bookings(url: str) -> list[Booked]:
    """The ledger of all replies."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute(BOOKED)
        return [Booked(row[0], row[1], Tokens(*row[2:5]), row[5]) async for row in cursor]


async def read_sums(url: str) -> list[tuple[str, int, int]]:
    """Users whose sums by the hour are not those of their bookings."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute(SUMS)
        return [(user_id, int(booked), int(summed)) async for user_id, booked, summed in cursor]


async def pending(url: str, owners: set[str] | None = None) -> list[tuple[str, int]]:
    """Id and attempt of the replies that are not finished, or of those among them that some leases own."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        if owners is None:
            cursor = await connection.execute(PENDING)
        else:
            cursor = await connection.execute(f"{PENDING} AND owner = ANY (%s::uuid[])", (list(owners),))
        return await cursor.fetchall()


async def orphans(url: str, owners: set[str], killed: float) -> list[Orphan]:
    """The replies of a process that was just killed."""
    return [Orphan(reply_id, attempt, killed) for reply_id, attempt in await pending(url, owners)]


def _stored(row: DictRow) -> Stored:
    text = "".join(part.get("text", "") for part in row["parts"])
    ending = None
    if row["role"] != "user":
        usage = row["usage"] or {}
        tokens = Tokens(
            usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0), bool(usage.get("estimated", False))
        )
        ending = Ending(row["attempt"], row["state"], row["finish_reason"], row["error_reason"], text, tokens)
    return Stored(
        row["id"],
        row["conversation_id"],
        row["parent_id"],
        row["sequence"],
        row["role"],
        row["key"],
        text,
        ending,
    )
