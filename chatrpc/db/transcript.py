"""The transcript: messages are accepted, replies attempted, checkpointed and finished. One round trip each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from chatrpc.db.codec import (
    MESSAGE_COLUMNS,
    content_hash,
    message_of,
    parts_to_json,
    path_of,
    report_to_json,
    settings_from_json,
    settings_to_json,
    usage_to_json,
)
from chatrpc.db.engine import Database
from chatrpc.domain import (
    Accepted,
    BusyPolicy,
    ContextReport,
    ConversationMemory,
    FinishReason,
    Message,
    MessageState,
    OutgoingMessage,
    Part,
    Role,
    Usage,
)
from chatrpc.errors import AlreadyExists, Conflict, InvalidInput, NotFound, Reason, ResourceExhausted

APPEND = """
SELECT * FROM append_message(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
FINISH = """
SELECT * FROM finish_reply(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
CHECKPOINT = "SELECT checkpoint_replies(%s, %s, %s, %s, %s) AS superseded"
# The text stays, so that the reply can be ended with it.
BEGIN_ATTEMPT = """
UPDATE messages m SET attempt = attempt + 1, owner = %(owner)s
WHERE user_id = %(user)s AND id = %(reply)s AND state = 'pending'
  AND (owner = %(owner)s OR NOT EXISTS (
      SELECT 1 FROM server_processes p WHERE p.id = m.owner AND p.lease_until > now()))
RETURNING attempt
"""
CLAIM = "SELECT * FROM claim_abandoned_replies(%s, %s)"
PENDING = "SELECT id, owner FROM messages WHERE user_id = %s AND conversation_id = %s AND state = 'pending'"
OWNER = "SELECT owner FROM messages WHERE user_id = %s AND id = %s AND state = 'pending'"
REPLY = f"SELECT {MESSAGE_COLUMNS} FROM messages m WHERE user_id = %s AND id = %s AND role = 'assistant'"
TURN = f"""
SELECT {MESSAGE_COLUMNS}, m.turn_settings, c.settings, c.revision, c.memory, coalesce(b.lineage, '{{}}') AS lineage,
       p.state AS parent_state
FROM messages r
JOIN messages m ON m.user_id = r.user_id AND m.id = r.parent_id
JOIN conversations c ON c.user_id = r.user_id AND c.id = r.conversation_id
LEFT JOIN branches b ON b.user_id = m.user_id AND b.conversation_id = m.conversation_id AND b.branch = m.branch
LEFT JOIN messages p ON p.user_id = m.user_id AND p.id = m.parent_id
WHERE r.user_id = %s AND r.id = %s AND r.role = 'assistant'
"""
# A reply stands right after its message on the same branch; a reply's own is itself.
REPLY_OF = """
SELECT r.id FROM messages m
JOIN messages r ON r.user_id = m.user_id AND r.conversation_id = m.conversation_id
               AND r.branch = m.branch AND r.depth = m.depth + (m.role = 'user')::integer
WHERE m.user_id = %s AND m.id = %s
"""


@dataclass(frozen=True, slots=True)
class FinishedReply:
    """What an attempt at a reply came to."""

    conversation_id: UUID
    reply: Message
    attempt: int
    state: MessageState
    parts: tuple[Part, ...]
    tokens: int
    model: str | None
    finish_reason: FinishReason
    error_reason: str | None
    usage: Usage
    delta_ends: tuple[int, ...]
    report: ContextReport | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A pending reply that was taken over, and the number of the attempt that begins."""

    user_id: UUID
    reply_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """How much a user may have running at once.

    Attributes:
        queue: Messages of one conversation that wait for the replies before them.
        pending: Unfinished replies of one user.
    """

    queue: int
    pending: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a running attempt at a reply has so far."""

    user_id: UUID
    reply_id: UUID
    attempt: int
    parts: tuple[Part, ...]
    delta_ends: tuple[int, ...]


UNLIMITED = TurnLimits(queue=2**31 - 1, pending=2**31 - 1)


class Transcript:
    """Writes messages and replies. Safe to use from many tasks at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(
        self,
        user_id: UUID,
        message: OutgoingMessage,
        *,
        tokens: int,
        actor: str | None,
        owner: UUID,
        limits: TurnLimits = UNLIMITED,
    ) -> Accepted:
        """Commit a message and reserve its reply's place, or find those of an earlier send with the same key.

        Args:
            tokens: Upper estimate of the text's cost.
            owner: The process that will write the reply.

        Raises:
            NotFound: No such conversation or parent.
            InvalidInput: The parent is not a reply.
            AlreadyExists: The key was used for other content.
            Conflict: The conversation is busy, and the message asks to be refused then.
            ResourceExhausted: A limit is reached.
        """
        conversation_id = message.conversation_id
        message_id, reply_id = uuid7(), uuid7()
        turn_settings = settings_to_json(message.settings)
        row = await self._database.call(
            APPEND,
            (
                user_id,
                conversation_id,
                message_id,
                reply_id,
                message.client_message_id,
                content_hash(message.parts),
                message.parent_id,
                Jsonb(parts_to_json(message.parts)),
                tokens,
                actor,
                Jsonb(turn_settings) if turn_settings else None,
                owner,
                message.busy_policy is BusyPolicy.REJECT,
                limits.queue,
                limits.pending,
            ),
        )
        assert row is not None  # A function with OUT parameters returns one row.
        match row["outcome"]:
            case "accepted":
                pass
            case "duplicate":
                return await self._accepted_before(user_id, conversation_id, row["message_id"])
            case "reused":
                raise AlreadyExists(
                    Reason.CLIENT_MESSAGE_ID_REUSED,
                    "message",
                    message.client_message_id,
                    f"client_message_id {message.client_message_id!r} was used in this conversation for another "
                    "content; choose a new one for a new message.",
                )
            case "busy":
                raise Conflict(
                    Reason.CONVERSATION_BUSY,
                    "A reply of the conversation is not finished; wait for it, or send with another busy_policy.",
                    id=str(conversation_id),
                )
            case "queue_full":
                raise ResourceExhausted(
                    Reason.TOO_MANY_TURNS,
                    f"{limits.queue} messages wait in the conversation already; wait for a reply to finish.",
                    subject="conversation",
                    retry_after=1.0,
                )
            case "too_many":
                raise ResourceExhausted(
                    Reason.TOO_MANY_TURNS,
                    f"The user has {limits.pending} unfinished replies already; wait for one to finish.",
                    subject="user",
                    retry_after=1.0,
                )
            case "no_conversation":
                raise NotFound(Reason.CONVERSATION_NOT_FOUND, "conversation", str(conversation_id))
            case "no_parent":
                raise NotFound(Reason.MESSAGE_NOT_FOUND, "message", str(message.parent_id))
            case _:
                raise InvalidInput("parent_id", "The parent must be a reply; name an assistant's message.")
        stored = Message(
            id=message_id,
            conversation_id=conversation_id,
            parent_id=row["parent_id"],
            sequence=row["sequence"],
            branch=row["branch"],
            depth=row["depth"],
            role=Role.USER,
            state=MessageState.COMPLETE,
            parts=message.parts,
            tokens=tokens,
            created_at=row["created_at"],
            client_message_id=message.client_message_id,
            actor=actor,
        )
        reply = Message(
            id=reply_id,
            conversation_id=conversation_id,
            parent_id=message_id,
            sequence=row["sequence"] + 1,
            branch=row["branch"],
            depth=row["depth"] + 1,
            role=Role.ASSISTANT,
            state=MessageState.PENDING,
            parts=(),
            tokens=0,
            created_at=row["created_at"],
            attempt=1,
        )
        return Accepted(
            message=stored,
            reply=reply,
            path=path_of(row["lineage"], row["branch"], row["depth"]),
            duplicate=False,
            parent_pending=row["parent_state"] == MessageState.PENDING,
            revision_before=row["revision_before"],
            settings=settings_from_json(row["settings"]),
            turn_settings=message.settings,
            memory=ConversationMemory(row["memory"]),
            queued=row["pending_before"] > 0,
        )

    async def reply_to(self, user_id: UUID, message_id: UUID) -> UUID | None:
        """The reply to a message, or the message itself where it is a reply; None where there is no such message."""
        [replies] = await self._database.query(user_id, (REPLY_OF, (user_id, message_id)))
        return replies[0]["id"] if replies else None

    async def _accepted_before(self, user_id: UUID, conversation_id: UUID, message_id: UUID) -> Accepted:
        reply_id = await self.reply_to(user_id, message_id)
        if reply_id is None:
            raise NotFound(Reason.CONVERSATION_NOT_FOUND, "conversation", str(conversation_id))
        return await self.turn(user_id, reply_id)

    async def turn(self, user_id: UUID, reply_id: UUID) -> Accepted:
        """The turn of a reply as it is stored.

        Raises:
            NotFound: No such reply.
        """
        turns, replies = await self._database.query(user_id, (TURN, (user_id, reply_id)), (REPLY, (user_id, reply_id)))
        if not turns or not replies:
            raise NotFound(Reason.REPLY_NOT_FOUND, "reply", str(reply_id))
        row = turns[0]
        message = message_of(row)
        return Accepted(
            message=message,
            reply=message_of(replies[0]),
            path=path_of(row["lineage"], message.branch, message.depth),
            duplicate=True,
            parent_pending=row["parent_state"] == MessageState.PENDING,
            revision_before=row["revision"],
            settings=settings_from_json(row["settings"]),
            turn_settings=settings_from_json(row["turn_settings"]),
            memory=ConversationMemory(row["memory"]),
        )

    async def begin_attempt(self, user_id: UUID, reply_id: UUID, owner: UUID) -> int | None:
        """Start a new attempt at a pending reply whose process is gone (or is `owner` itself).

        Returns:
            Its number, or None where the reply is finished or a living process is at work on it.
        """
        [rows] = await self._database.query(
            user_id, (BEGIN_ATTEMPT, {"user": user_id, "reply": reply_id, "owner": owner})
        )
        return rows[0]["attempt"] if rows else None

    async def claim_abandoned(self, owner: UUID, limit: int) -> list[Claim]:
        """Start a new attempt at pending replies of any users whose processes are gone, for a process with a lease."""
        [rows] = await self._database.calls((CLAIM, (owner, limit)))
        return [Claim(row["user_id"], row["reply_id"], row["attempt"]) for row in rows]

    async def owner(self, user_id: UUID, reply_id: UUID) -> UUID | None:
        """The process that writes a reply; None where it is finished or there is none."""
        [rows] = await self._database.query(user_id, (OWNER, (user_id, reply_id)))
        return rows[0]["owner"] if rows else None

    async def pending(self, user_id: UUID, conversation_id: UUID) -> dict[UUID, UUID | None]:
        """The unfinished replies of a conversation and the processes that write them."""
        [rows] = await self._database.query(user_id, (PENDING, (user_id, conversation_id)))
        return {row["id"]: row["owner"] for row in rows}

    async def checkpoint_replies(self, checkpoints: Sequence[Checkpoint]) -> set[UUID]:
        """Store what running replies have so far, of all users in one statement.

        Returns:
            The replies whose attempt is not the current one any more, or that are gone.
        """
        [rows] = await self._database.calls(
            (
                CHECKPOINT,
                (
                    [checkpoint.user_id for checkpoint in checkpoints],
                    [checkpoint.reply_id for checkpoint in checkpoints],
                    [checkpoint.attempt for checkpoint in checkpoints],
                    [json.dumps(parts_to_json(checkpoint.parts)) for checkpoint in checkpoints],
                    ["{" + ",".join(map(str, checkpoint.delta_ends)) + "}" for checkpoint in checkpoints],
                ),
            )
        )
        return {row["superseded"] for row in rows}

    async def finish_reply(self, user_id: UUID, finished: FinishedReply) -> tuple[Message, int] | None:
        """Store a finished reply, once.

        Returns:
            The stored reply and the revision before; None where another attempt holds the reply or it is gone.
        """
        row = await self._database.call(
            FINISH,
            (
                user_id,
                finished.conversation_id,
                finished.reply.id,
                finished.attempt,
                finished.state.value,
                Jsonb(parts_to_json(finished.parts)),
                finished.tokens,
                finished.model,
                finished.finish_reason.value,
                finished.error_reason,
                Jsonb(usage_to_json(finished.usage)),
                list(finished.delta_ends),
                None if finished.report is None else report_to_json(finished.report),
            ),
        )
        assert row is not None  # A function with OUT parameters returns one row.
        if not row["finished"]:
            return None
        reply = finished.reply
        stored = Message(
            id=reply.id,
            conversation_id=reply.conversation_id,
            parent_id=reply.parent_id,
            sequence=reply.sequence,
            branch=reply.branch,
            depth=reply.depth,
            role=reply.role,
            state=finished.state,
            parts=finished.parts,
            tokens=finished.tokens,
            created_at=reply.created_at,
            attempt=finished.attempt,
            model=finished.model,
            finish_reason=finished.finish_reason,
            usage=finished.usage,
            finished_at=row["finished_at"],
            delta_ends=finished.delta_ends,
            error_reason=finished.error_reason,
        )
        return stored, row["revision_before"]
