"""The transcript: messages are accepted, replies attempted, checkpointed and finished. One round trip each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from psycopg import Rollback
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from chatrpc.db.codec import (
    content_hash,
    parts_to_json,
    path_of,
    report_to_json,
    settings_from_json,
    settings_to_json,
    usage_to_json,
)
from chatrpc.db.engine import Database, Params
from chatrpc.db.quota import over_quota
from chatrpc.db.turn_rows import REPLY, TURN, refusal, stored_turn
from chatrpc.domain import (
    NO_QUOTA,
    NOTHING_RESERVED,
    Accepted,
    BusyPolicy,
    ContextReport,
    ConversationMemory,
    FinishReason,
    Message,
    MessageState,
    OutgoingMessage,
    Part,
    Quota,
    Regeneration,
    Reservation,
    Role,
    Served,
    Usage,
)
from chatrpc.errors import NotFound, Reason

APPEND = """
SELECT * FROM append_message(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
LEAVE_PATH = "SELECT leave_path(%s, %s)"
REGENERATE = """
SELECT * FROM regenerate_reply(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
FINISH = """
SELECT * FROM finish_reply(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
CHECKPOINT = "SELECT checkpoint_replies(%s, %s, %s, %s, %s) AS superseded"
BEGIN_ATTEMPT = "SELECT * FROM begin_attempt(%s, %s, %s, %s, %s)"
BOOK_ATTEMPT = "SELECT book_usage(%s, %s, %s, 'turn', %s, %s, %s, 0, 0)"
CLAIM = "SELECT * FROM claim_abandoned_replies(%s, %s)"
PENDING = """
SELECT id, owner FROM messages WHERE user_id = %s AND conversation_id = %s AND state = 'pending' AND sequence < %s
"""
OWNER = "SELECT owner FROM messages WHERE user_id = %s AND id = %s AND state = 'pending'"
# The first reply stands right after its message on the same branch; a reply's own is itself.
REPLY_OF = """
SELECT r.id FROM messages m
JOIN messages r ON r.user_id = m.user_id AND r.conversation_id = m.conversation_id
               AND r.branch = m.branch AND r.depth = m.depth + (m.role = 'user')::integer
WHERE m.user_id = %s AND m.id = %s
"""
# The others begin branches there.
REPLIES_OF = """
WITH message AS (SELECT * FROM messages WHERE user_id = %(user)s AND id = %(message)s), place AS (
    SELECT m.branch FROM message m
    UNION
    SELECT b.branch FROM message m
    JOIN branches b ON b.user_id = %(user)s AND b.conversation_id = m.conversation_id)
SELECT r.id FROM message m CROSS JOIN place p
JOIN messages r ON r.user_id = %(user)s AND r.conversation_id = m.conversation_id
               AND r.branch = p.branch AND r.depth = m.depth + 1
WHERE m.role = 'user' AND r.role = 'assistant' AND r.parent_id = m.id
UNION ALL
SELECT m.id FROM message m WHERE m.role <> 'user'
"""


@dataclass(frozen=True, slots=True)
class FinishedReply:
    """What an attempt at a reply came to.

    Attributes:
        usage: None where the attempt asked no model and ends what a dead process left behind: the reply then bears what
            was booked for that one.
        context_tokens: What the last prompt and the reply cost together; None where there was no prompt.
        embedding_tokens: Of the query.
    """

    conversation_id: UUID
    reply: Message
    attempt: int
    state: MessageState
    parts: tuple[Part, ...]
    tokens: int
    model: str | None
    finish_reason: FinishReason
    error_reason: str | None
    usage: Usage | None
    delta_ends: tuple[int, ...]
    report: ContextReport | None
    context_tokens: int | None = None
    embedding_tokens: int = 0


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
        reservation: Reservation = NOTHING_RESERVED,
        quota: Quota = NO_QUOTA,
    ) -> Accepted:
        """Commit a message and reserve its reply's place, or find those of an earlier send with the same key.

        Args:
            tokens: Upper estimate of the text's cost.
            owner: The process that will write the reply.
            reservation: Counts against the quota until the reply is finished, and is booked if the process dies.
            quota: The user's.

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
        params = (
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
            *_quota_params(reservation, quota),
        )
        if message.at_root:
            row = await self._append_at_root(user_id, conversation_id, params)
        else:
            row = await self._database.call(APPEND, params)
        assert row is not None  # A function with OUT parameters returns one row.
        if row["outcome"] == "duplicate":
            return await self._accepted_before(user_id, conversation_id, row["message_id"])
        if row["outcome"] == "over_quota":
            raise over_quota(quota, row["quota"])
        if row["outcome"] != "accepted":
            raise refusal(row["outcome"], conversation_id, message.parent_id, message.client_message_id, limits)
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

    async def _append_at_root(self, user_id: UUID, conversation_id: UUID, params: Params) -> DictRow | None:
        async with self._database.transaction(user_id) as connection:
            async with connection.transaction() as appending:
                await connection.execute(LEAVE_PATH, (user_id, conversation_id))
                row = await (await connection.execute(APPEND, params, binary=True)).fetchone()
                if row is None or row["outcome"] != "accepted":
                    raise Rollback(appending)
            return row

    async def regenerate(
        self,
        user_id: UUID,
        asked: Regeneration,
        *,
        actor: str | None = None,
        owner: UUID,
        limits: TurnLimits = UNLIMITED,
        reservation: Reservation = NOTHING_RESERVED,
        quota: Quota = NO_QUOTA,
    ) -> Accepted:
        """Reserve the place of a further reply to a message, or find that of an earlier request with the same key.

        Args:
            owner: The process that will write the reply.
            reservation: Counts against the quota until the reply is finished, and is booked if the process dies.
            quota: The user's.

        Raises:
            NotFound: No such conversation or message.
            FailedPrecondition: The message was erased.
            AlreadyExists: The key was used for something else.
            Conflict: The conversation is busy, and the request asks to be refused then.
            ResourceExhausted: A limit is reached.
        """
        conversation_id, reply_id = asked.conversation_id, uuid7()
        turn_settings = settings_to_json(asked.settings)
        params = (
            user_id,
            conversation_id,
            asked.message_id,
            reply_id,
            asked.client_message_id,
            actor,
            Jsonb(turn_settings) if turn_settings else None,
            owner,
            asked.busy_policy is BusyPolicy.REJECT,
            limits.queue,
            limits.pending,
            *_quota_params(reservation, quota),
        )
        placed = {"user": user_id, "reply": reply_id}
        [row], turns, replies = await self._database.query(
            user_id, (REGENERATE, params), (TURN, placed), (REPLY, placed)
        )
        if row["outcome"] == "duplicate":
            return await self.turn(user_id, row["reply_id"])
        if row["outcome"] == "over_quota":
            raise over_quota(quota, row["quota"])
        if row["outcome"] != "accepted":
            raise refusal(row["outcome"], conversation_id, asked.message_id, asked.client_message_id, limits)
        return stored_turn(
            turns[0],
            replies[0],
            duplicate=False,
            revision_before=row["revision_before"],
            queued=row["pending_before"] > 0,
        )

    async def reply_to(self, user_id: UUID, message_id: UUID) -> UUID | None:
        """The reply to a message, or the message itself where it is a reply; None where there is no such message."""
        [replies] = await self._database.query(user_id, (REPLY_OF, (user_id, message_id)))
        return replies[0]["id"] if replies else None

    async def replies_to(self, user_id: UUID, message_id: UUID) -> list[UUID]:
        """All replies to a message, or the message itself where it is a reply."""
        [rows] = await self._database.query(user_id, (REPLIES_OF, {"user": user_id, "message": message_id}))
        return [row["id"] for row in rows]

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
        placed = {"user": user_id, "reply": reply_id}
        turns, replies = await self._database.query(user_id, (TURN, placed), (REPLY, placed))
        if not turns or not replies:
            raise NotFound(Reason.REPLY_NOT_FOUND, "reply", str(reply_id))
        return stored_turn(turns[0], replies[0], duplicate=True)

    async def begin_attempt(
        self, user_id: UUID, reply_id: UUID, owner: UUID, used: int | None = None, served: Served | None = None
    ) -> int | None:
        """Start a new attempt at a pending reply whose process is gone (or is `owner` itself), and book the one before.

        Args:
            used: The last attempt of this process, if it may have asked a model.
            served: What that one was served. Of a dead process's attempt, what was reserved is booked.

        Returns:
            Its number, or None where the reply is finished or a living process is at work on it.
        """
        usage = None if served is None else Jsonb({**usage_to_json(served.usage), "model": served.model})
        row = await self._database.call(BEGIN_ATTEMPT, (user_id, reply_id, owner, used, usage))
        assert row is not None  # A function with OUT parameters returns one row.
        attempt: int | None = row["attempt"]
        return attempt

    async def book_attempt(
        self, user_id: UUID, reply_id: UUID, attempt: int, conversation_id: UUID, served: Served
    ) -> None:
        """Book what an attempt used that may not finish its reply, unless whoever took the reply over has done so."""
        usage = Jsonb(usage_to_json(served.usage))
        statement = BOOK_ATTEMPT, (user_id, reply_id, attempt, conversation_id, served.model, usage)
        await self._database.query(user_id, statement)

    async def claim_abandoned(self, owner: UUID, limit: int) -> list[Claim]:
        """Start a new attempt at pending replies of any users whose processes are gone, for a process with a lease."""
        rows = await self._database.rows(CLAIM, (owner, limit))
        return [Claim(row["user_id"], row["reply_id"], row["attempt"]) for row in rows]

    async def owner(self, user_id: UUID, reply_id: UUID) -> UUID | None:
        """The process that writes a reply; None where it is finished or there is none."""
        [rows] = await self._database.query(user_id, (OWNER, (user_id, reply_id)))
        return rows[0]["owner"] if rows else None

    async def pending(self, user_id: UUID, conversation_id: UUID, before: int) -> dict[UUID, UUID | None]:
        """The unfinished replies of a conversation before a sequence, and the processes that write them."""
        [rows] = await self._database.query(user_id, (PENDING, (user_id, conversation_id, before)))
        return {row["id"]: row["owner"] for row in rows}

    async def checkpoint_replies(self, checkpoints: Sequence[Checkpoint]) -> set[UUID]:
        """Store what running replies have so far, of all users in one statement.

        Returns:
            The replies whose attempt is not the current one any more, or that are gone.
        """
        rows = await self._database.rows(
            CHECKPOINT,
            (
                [checkpoint.user_id for checkpoint in checkpoints],
                [checkpoint.reply_id for checkpoint in checkpoints],
                [checkpoint.attempt for checkpoint in checkpoints],
                [json.dumps(parts_to_json(checkpoint.parts)) for checkpoint in checkpoints],
                ["{" + ",".join(map(str, checkpoint.delta_ends)) + "}" for checkpoint in checkpoints],
            ),
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
                None if finished.usage is None else Jsonb(usage_to_json(finished.usage)),
                list(finished.delta_ends),
                None if finished.report is None else report_to_json(finished.report),
                finished.context_tokens,
                finished.embedding_tokens,
            ),
        )
        assert row is not None  # A function with OUT parameters returns one row.
        if not row["finished"]:
            return None
        stored = replace(
            finished.reply,
            state=finished.state,
            parts=finished.parts,
            tokens=finished.tokens,
            attempt=finished.attempt,
            model=finished.model,
            finish_reason=finished.finish_reason,
            usage=Usage(**row["usage"]),
            finished_at=row["finished_at"],
            delta_ends=finished.delta_ends,
            error_reason=finished.error_reason,
        )
        return stored, row["revision_before"]


def _quota_params(reservation: Reservation, quota: Quota) -> tuple[int | str | None, ...]:
    return (
        reservation.prompt_tokens,
        reservation.most_prompt_tokens,
        reservation.completion_tokens,
        quota.window.value if quota.limited else None,
        quota.tokens,
        quota.turns,
    )
