"""A turn: what is said, and what is committed of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from chatrpc.domain.conversation import ConversationMemory, Path, TurnSettings
from chatrpc.domain.message import Message, Part


class BusyPolicy(StrEnum):
    """What becomes of a message while replies of its conversation are not finished; see `chatapi.v1.BusyPolicy`."""

    QUEUE = "queue"
    INTERRUPT = "interrupt"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message that a caller wants to say; see `chatapi.v1.OutgoingMessage`.

    Attributes:
        coalesce_window: Seconds in which tokens share one delta event; None takes the server's own.
        at_root: Whether it follows nothing, whatever there is; then it has no parent.
    """

    conversation_id: UUID
    client_message_id: str
    parts: tuple[Part, ...]
    parent_id: UUID | None = None
    settings: TurnSettings = field(default_factory=TurnSettings)
    coalesce_window: float | None = None
    busy_policy: BusyPolicy = BusyPolicy.QUEUE
    at_root: bool = False


@dataclass(frozen=True, slots=True)
class Regeneration:
    """A further reply that a caller wants; see `chatapi.v1.RegenerateReplyRequest`.

    Attributes:
        message_id: The user's message, or one of its replies.
        settings: Over those of the reply or message that is named.
        coalesce_window: As in OutgoingMessage.
    """

    conversation_id: UUID
    message_id: UUID
    client_message_id: str
    settings: TurnSettings = field(default_factory=TurnSettings)
    coalesce_window: float | None = None
    busy_policy: BusyPolicy = BusyPolicy.QUEUE


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message is committed, or an earlier one is to be replied to anew, and the reply has a place.

    Attributes:
        reply: The reply's row; PENDING and of attempt 1 unless `duplicate`.
        path: Path from the root to `message`, itself included.
        queued: Whether other replies of the conversation were not finished; False where `duplicate`.
        parent_pending: Whether the message before is a reply that was not finished when this was read.
        revision_before: Revision that the append found; a cached hot path of this revision is not stale.
        settings: The conversation's settings.
        turn_settings: The settings stored for this turn: those of the first send.
        memory: The conversation's.
    """

    message: Message
    reply: Message
    path: Path
    duplicate: bool
    parent_pending: bool
    revision_before: int
    settings: TurnSettings
    turn_settings: TurnSettings
    memory: ConversationMemory = ConversationMemory.REMEMBERED
    queued: bool = False
