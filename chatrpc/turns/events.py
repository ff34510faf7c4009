"""The events of a reply, as every reader sees them.

An event is named by `(reply_id, attempt, sequence)`; sequences of an attempt run from 1 without gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from chatrpc.domain import Citation, ContextReport, Message, ToolCallPart, ToolResultPart
from chatrpc.errors import ChatError


@dataclass(frozen=True, slots=True)
class ContextBuilt:
    """What the model is given."""

    report: ContextReport


@dataclass(frozen=True, slots=True)
class Delta:
    """Further text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model calls a tool; all calls of a round come before the first of their results."""

    part: ToolCallPart


@dataclass(frozen=True, slots=True)
class ToolResult:
    """A call is answered, by a client or by the server."""

    part: ToolResultPart


@dataclass(frozen=True, slots=True)
class Completed:
    """The reply is stored, complete, cancelled or erased since; the last event.

    Attributes:
        citations: The documents' passages that stood in the prompt, in its order.
    """

    message: Message
    citations: tuple[Citation, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The reply is stored as failed; the last event."""

    error: ChatError
    message: Message


@dataclass(frozen=True, slots=True)
class Restarted:
    """A new attempt begins; what was shown of the reply is void. Always the first event of an attempt above 1."""


Event = ContextBuilt | Delta | ToolCall | ToolResult | Completed | Failed | Restarted


@dataclass(frozen=True, slots=True)
class ReplyEvent:
    """One event of a reply."""

    reply_id: UUID
    attempt: int
    sequence: int
    event: Event

    @property
    def last(self) -> bool:
        return isinstance(self.event, Completed | Failed)
