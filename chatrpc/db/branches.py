"""The branches of conversations: what stands beside what, which path is the active one, and copies of paths."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from uuid_utils.compat import uuid7

from chatrpc.db.engine import Database
from chatrpc.db.recall import CONVERSATION, CONVERSATION_COLUMNS, conversation_of
from chatrpc.domain import Conversation, Message
from chatrpc.errors import AlreadyExists, FailedPrecondition, NotFound, Reason

LONGEST_FORK = 20_000
"""Messages that a fork copies at most. With a vector each and 500 summaries it takes 4 s on a shared core, in which
nothing can be said in the source."""

# What stands beside another message stands where a branch begins, or right behind the place where it leaves another.
SIBLINGS = """
WITH beginnings AS (
    SELECT branch, coalesce(lineage[cardinality(lineage) - 1], 0) AS left_branch,
           coalesce(lineage[cardinality(lineage)], 0) + 1 AS depth
    FROM branches WHERE user_id = %(user)s AND conversation_id = %(conversation)s
), places AS (
    SELECT branch, depth FROM beginnings UNION SELECT left_branch, depth FROM beginnings
)
SELECT m.parent_id, array_agg(m.id ORDER BY m.sequence) AS ids
FROM places p
JOIN messages m ON m.user_id = %(user)s AND m.conversation_id = %(conversation)s
               AND m.branch = p.branch AND m.depth = p.depth
WHERE m.parent_id = ANY (%(parents)s::uuid[]) OR (m.parent_id IS NULL AND %(first)s)
GROUP BY m.parent_id HAVING count(*) > 1
ORDER BY min(m.sequence)
"""
SWITCH = "SELECT * FROM switch_branch(%s, %s)"
FORK = "SELECT * FROM fork_conversation(%s, %s, %s, %s, %s, %s::integer)"
# The erasure of a title takes the hash along.
FORKED = f"""
SELECT {CONVERSATION_COLUMNS} FROM conversations c
WHERE c.user_id = %s AND c.request_id = %s AND coalesce(c.request_hash = %s, true)
"""
OF_MESSAGE = f"""
SELECT {CONVERSATION_COLUMNS} FROM messages m
CROSS JOIN LATERAL (SELECT * FROM conversations WHERE user_id = %(user)s AND id = m.conversation_id LIMIT 1) c
WHERE m.user_id = %(user)s AND m.id = %(message)s
"""


@dataclass(frozen=True, slots=True)
class Siblings:
    """Messages that follow the same message, in order of acceptance; None for the first of a conversation."""

    parent_id: UUID | None
    message_ids: tuple[UUID, ...]


class Branches:
    """Reads, switches and forks branches."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def siblings(self, user_id: UUID, conversation_id: UUID, messages: Sequence[Message]) -> Sequence[Siblings]:
        """Those of the messages that are not the only ones behind their parents, with all that stand beside them."""
        params = {
            "user": user_id,
            "conversation": conversation_id,
            "parents": [message.parent_id for message in messages if message.parent_id is not None],
            "first": any(message.parent_id is None for message in messages),
        }
        [rows] = await self._database.query(user_id, (SIBLINGS, params))
        return [Siblings(row["parent_id"], tuple(row["ids"])) for row in rows]

    async def switch(self, user_id: UUID, message_id: UUID) -> Conversation:
        """Make the path to the newest message at or below `message_id` the active one.

        Raises:
            NotFound: No such message.
        """
        _, rows = await self._database.query(
            user_id, (SWITCH, (user_id, message_id)), (OF_MESSAGE, {"user": user_id, "message": message_id})
        )
        if not rows:
            raise NotFound(Reason.MESSAGE_NOT_FOUND, "message", str(message_id))
        return conversation_of(rows[0])

    async def forked(self, user_id: UUID, message_id: UUID, *, request_id: str) -> Conversation | None:
        """The conversation that an earlier request with the same id has begun, if it asked for the same."""
        [rows] = await self._database.query(user_id, (FORKED, (user_id, request_id, _digest(message_id))))
        return conversation_of(rows[0]) if rows else None

    async def fork(self, user_id: UUID, message_id: UUID, *, request_id: str | None) -> Conversation:
        """Begin a conversation with copies of the path to a message, or return that of an earlier request with the same
        id.

        Raises:
            NotFound: No such message.
            FailedPrecondition: A reply on the path is not finished, or the path is too long.
            AlreadyExists: The request id was used for something else.
        """
        params = (user_id, message_id, uuid7(), request_id, _digest(message_id), LONGEST_FORK)
        row = await self._database.call(FORK, params)
        assert row is not None  # A function with OUT parameters returns one row.
        match row["outcome"]:
            case "no_message":
                raise NotFound(Reason.MESSAGE_NOT_FOUND, "message", str(message_id))
            case "unfinished":
                raise FailedPrecondition(
                    Reason.REPLY_UNFINISHED,
                    "A reply on the path to the message is not finished; wait for it, or stop it.",
                    id=str(row["unfinished"]),
                )
            case "too_long":
                raise FailedPrecondition(
                    Reason.PATH_TOO_LONG,
                    f"More than {LONGEST_FORK} messages lead to the message; fork from an earlier one.",
                    id=str(message_id),
                )
            case "reused":
                raise AlreadyExists(
                    Reason.REQUEST_ID_REUSED,
                    "conversation",
                    str(request_id),
                    f"request_id {request_id!r} was used for another conversation; choose a new one.",
                )
        [rows] = await self._database.query(user_id, (CONVERSATION, (user_id, row["conversation"])))
        if not rows:
            raise NotFound(Reason.CONVERSATION_NOT_FOUND, "conversation", str(row["conversation"]))
        return conversation_of(rows[0])


def _digest(message_id: UUID) -> bytes:
    return hashlib.sha256(b"fork " + message_id.bytes).digest()
