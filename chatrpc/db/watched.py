"""What has changed in watched conversations since they were looked at."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from chatrpc.db.codec import MESSAGE_COLUMNS, message_of
from chatrpc.db.engine import Database
from chatrpc.db.recall import CONVERSATION_COLUMNS, conversation_of
from chatrpc.domain import Conversation, Message

CHANGED = "SELECT * FROM changed_conversations(%s::uuid[], %s::uuid[], %s::bigint[])"
STATE = f"SELECT {CONVERSATION_COLUMNS}, c.erasures FROM conversations c WHERE c.user_id = %s AND c.id = %s"
PENDING = "SELECT id FROM messages WHERE user_id = %s AND conversation_id = %s AND state = 'pending' ORDER BY sequence"
# Numbers rise along a branch, so what is new stands at the ends of the branches, and is found without reading the rest.
NEW = f"""
SELECT {MESSAGE_COLUMNS}
FROM (
    SELECT 0 AS branch
    UNION ALL
    SELECT branch FROM branches WHERE user_id = %(user)s AND conversation_id = %(conversation)s) b
CROSS JOIN LATERAL (
    SELECT * FROM messages
    WHERE user_id = %(user)s AND conversation_id = %(conversation)s AND branch = b.branch
    ORDER BY depth DESC
    LIMIT (SELECT greatest(least(c.last_sequence - %(after)s, %(most)s), 0) FROM conversations c
           WHERE c.user_id = %(user)s AND c.id = %(conversation)s)) m
WHERE m.sequence > %(after)s
ORDER BY m.sequence DESC
LIMIT %(most)s
"""
ERASED = "SELECT id FROM messages WHERE user_id = %s AND conversation_id = %s AND state = 'erased'"
MESSAGES = f"SELECT {MESSAGE_COLUMNS} FROM messages m WHERE m.user_id = %s AND m.id = ANY (%s) ORDER BY m.sequence"


@dataclass(frozen=True, slots=True)
class WatchedState:
    """A conversation as it is, and what is new in it.

    Attributes:
        erasures: Rises with each erasure.
        pending: Replies that are not finished.
        messages: Behind the number that was seen, in order; the newest where they are many. They may be newer than the
            conversation.
    """

    conversation: Conversation
    erasures: int
    pending: tuple[UUID, ...]
    messages: tuple[Message, ...]


class Watched:
    """Reads for those who watch."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def changed(self, told: Sequence[tuple[UUID, UUID, int]]) -> list[int]:
        """Which of `(user, conversation, revision)` are not at their revision any more, or gone; by index, in one
        statement."""
        users, conversations, revisions = zip(*told, strict=True)
        rows = await self._database.rows(CHANGED, (list(users), list(conversations), list(revisions)))
        return [row["place"] - 1 for row in rows]

    async def state(
        self, user_id: UUID, conversation_id: UUID, after_sequence: int | None, most: int
    ) -> WatchedState | None:
        """What there is, in one round trip; None where the conversation is gone.

        Args:
            after_sequence: The newest message that was seen; None asks for no messages.
            most: Messages at most.
        """
        key = (user_id, conversation_id)
        params = {"user": user_id, "conversation": conversation_id, "after": after_sequence or 0, "most": most}
        if after_sequence is None:
            params["most"] = 0
        # What is read later is as new as the state at least, so that nothing falls between them.
        states, new, pending = await self._database.query(user_id, (STATE, key), (NEW, params), (PENDING, key))
        if not states:
            return None
        return WatchedState(
            conversation=conversation_of(states[0]),
            erasures=states[0]["erasures"],
            pending=tuple(row["id"] for row in pending),
            messages=tuple(message_of(row) for row in reversed(new)),
        )

    async def erased(self, user_id: UUID, conversation_id: UUID) -> set[UUID]:
        """The messages whose text was erased."""
        [rows] = await self._database.query(user_id, (ERASED, (user_id, conversation_id)))
        return {row["id"] for row in rows}

    async def messages(self, user_id: UUID, message_ids: Collection[UUID]) -> list[Message]:
        """Messages as they are, in order."""
        [rows] = await self._database.query(user_id, (MESSAGES, (user_id, list(message_ids))))
        return [message_of(row) for row in rows]
