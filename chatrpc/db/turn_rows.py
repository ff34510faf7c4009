"""Turns as they are stored, and why one is not accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from chatrpc.db.codec import MESSAGE_COLUMNS, message_of, path_of, settings_from_json
from chatrpc.domain import Accepted, ConversationMemory, MessageState, counted
from chatrpc.errors import (
    AlreadyExists,
    ChatError,
    Conflict,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    Reason,
    ResourceExhausted,
)

if TYPE_CHECKING:
    from chatrpc.db.transcript import TurnLimits

REPLY = f"""
SELECT {MESSAGE_COLUMNS} FROM messages m WHERE user_id = %(user)s AND id = %(reply)s AND role = 'assistant'
"""
# The settings of a regenerated reply that has its own stand with it, else with the message. Each row is looked for by
# itself: a join that is planned while the tables are new, as plans of connections are kept, reads all rows of the user.
TURN = f"""
SELECT {MESSAGE_COLUMNS}, coalesce(r.turn_settings, m.turn_settings) AS turn_settings, c.settings, c.revision, c.memory,
       coalesce(b.lineage, '{{}}') AS lineage, p.state AS parent_state
FROM messages r
CROSS JOIN LATERAL (SELECT * FROM messages WHERE user_id = %(user)s AND id = r.parent_id LIMIT 1) m
CROSS JOIN LATERAL (SELECT * FROM conversations WHERE user_id = %(user)s AND id = r.conversation_id LIMIT 1) c
LEFT JOIN branches b ON b.user_id = m.user_id AND b.conversation_id = m.conversation_id AND b.branch = m.branch
LEFT JOIN LATERAL (SELECT state FROM messages WHERE user_id = %(user)s AND id = m.parent_id LIMIT 1) p ON true
WHERE r.user_id = %(user)s AND r.id = %(reply)s AND r.role = 'assistant'
"""


def stored_turn(
    turn: dict[str, Any],
    reply: dict[str, Any],
    *,
    duplicate: bool,
    revision_before: int | None = None,
    queued: bool = False,
) -> Accepted:
    """A turn from rows of TURN and REPLY."""
    message = message_of(turn)
    return Accepted(
        message=message,
        reply=message_of(reply),
        path=path_of(turn["lineage"], message.branch, message.depth),
        duplicate=duplicate,
        parent_pending=turn["parent_state"] == MessageState.PENDING,
        revision_before=turn["revision"] if revision_before is None else revision_before,
        settings=settings_from_json(turn["settings"]),
        turn_settings=settings_from_json(turn["turn_settings"]),
        memory=ConversationMemory(turn["memory"]),
        queued=queued,
    )


def refusal(outcome: str, conversation_id: UUID, message_id: UUID | None, key: str, limits: TurnLimits) -> ChatError:
    """The error for an outcome of `append_message` or `regenerate_reply`.

    Args:
        message_id: The message that the request names, if it does.
        key: The client's.
    """
    match outcome:
        case "reused":
            return AlreadyExists(
                Reason.CLIENT_MESSAGE_ID_REUSED,
                "message",
                key,
                f"client_message_id {key!r} was used in this conversation for another content; choose a new one for a "
                "new message.",
            )
        case "busy":
            return Conflict(
                Reason.CONVERSATION_BUSY,
                "A reply of the conversation is not finished; wait for it, or send with another busy_policy.",
                id=str(conversation_id),
            )
        case "queue_full":
            return ResourceExhausted(
                Reason.TOO_MANY_TURNS,
                f"At most {counted(limits.queue, 'message')} may wait in the conversation; wait for a reply to finish.",
                subject="conversation",
                retry_after=1.0,
            )
        case "too_many":
            unfinished = counted(limits.pending, "unfinished reply", "unfinished replies")
            return ResourceExhausted(
                Reason.TOO_MANY_TURNS,
                f"The user has {unfinished} already; wait for one to finish.",
                subject="user",
                retry_after=1.0,
            )
        case "no_conversation":
            return NotFound(Reason.CONVERSATION_NOT_FOUND, "conversation", str(conversation_id))
        case "no_parent" | "no_message":
            return NotFound(Reason.MESSAGE_NOT_FOUND, "message", str(message_id))
        case "erased":
            return FailedPrecondition(
                Reason.MESSAGE_ERASED, "The message was erased; there is nothing left to reply to.", id=str(message_id)
            )
        case _:
            return InvalidInput("parent_id", "The parent must be a reply; name an assistant's message.")
