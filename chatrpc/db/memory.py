"""Background work of conversations: one narrow row each, written with the message, claimed for a while."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from chatrpc.db.codec import MESSAGE_COLUMNS, message_of
from chatrpc.db.engine import Database
from chatrpc.domain import Message

CLAIM = "SELECT * FROM claim_memory_tasks(%s, %s)"
# Work that came after the claim has moved `due_at`, and stays due. The watermark does not pass a reply that was
# finished meanwhile and may not have been seen.
COMPLETE = """
UPDATE memory_tasks SET
    embedded_sequence = least(%(embedded)s, finished_after),
    due_at = CASE WHEN due_at = %(due_at)s THEN NULL ELSE due_at END,
    claimed_until = NULL, attempts = 0
WHERE user_id = %(user)s AND conversation_id = %(conversation)s
"""
RETRY = """
UPDATE memory_tasks SET
    embedded_sequence = least(%(embedded)s, finished_after),
    claimed_until = now() + %(delay)s
WHERE user_id = %(user)s AND conversation_id = %(conversation)s
"""
UNEMBEDDED = f"""
SELECT {MESSAGE_COLUMNS} FROM messages m JOIN conversations c ON c.user_id = m.user_id AND c.id = m.conversation_id
WHERE m.user_id = %(user)s AND m.conversation_id = %(conversation)s AND m.sequence > %(after)s
  AND m.state NOT IN ('pending', 'erased') AND c.memory <> 'temporary'
ORDER BY m.sequence LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class MemoryTask:
    """A claim on one conversation's background work.

    Attributes:
        embedded_sequence: All messages up to this sequence are embedded.
        attempts: Claims since the work was last done, this one included.
        due_at: When the work was asked for; tells newer work from the claimed.
    """

    user_id: UUID
    conversation_id: UUID
    embedded_sequence: int
    attempts: int
    due_at: datetime


class MemoryTasks:
    """The queue of background work."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, limit: int, lease: timedelta) -> list[MemoryTask]:
        """Claim due tasks, the oldest first; nobody else claims them until the lease is over."""
        async with self._database.unbound() as connection:
            cursor = await connection.execute(CLAIM, (limit, lease))
            return [MemoryTask(**row) for row in await cursor.fetchall()]

    async def complete(self, task: MemoryTask, embedded_sequence: int) -> None:
        """Give back a task that is done; it stays due where new work came meanwhile."""
        await self._database.query(
            task.user_id,
            (
                COMPLETE,
                {
                    "user": task.user_id,
                    "conversation": task.conversation_id,
                    "embedded": embedded_sequence,
                    "due_at": task.due_at,
                },
            ),
        )

    async def retry(self, task: MemoryTask, embedded_sequence: int, delay: timedelta) -> None:
        """Give back a task that failed; it is claimed again after the delay."""
        await self._database.query(
            task.user_id,
            (
                RETRY,
                {
                    "user": task.user_id,
                    "conversation": task.conversation_id,
                    "embedded": embedded_sequence,
                    "delay": delay,
                },
            ),
        )

    async def unembedded(self, task: MemoryTask, after_sequence: int, limit: int) -> list[Message]:
        """Finished messages after a sequence, over all branches, in order.

        Unfinished replies are passed over: when one is finished, the watermark goes back to its place.
        """
        params = {
            "user": task.user_id,
            "conversation": task.conversation_id,
            "after": after_sequence,
            "limit": limit,
        }
        [rows] = await self._database.query(task.user_id, (UNEMBEDDED, params))
        return [message_of(row) for row in rows]
