"""Messages: what was said, and how far a reply has come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class Role(StrEnum):
    """Who speaks."""

    USER = "user"
    ASSISTANT = "assistant"


class MessageState(StrEnum):
    """How far a message has come: a user's is COMPLETE at once, a reply starts PENDING, and ERASED is a tombstone."""

    PENDING = "pending"
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    FAILED = "failed"
    ERASED = "erased"

    @property
    def finished(self) -> bool:
        return self is not MessageState.PENDING


class FinishReason(StrEnum):
    """Why a reply ended."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    CANCELLED = "cancelled"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text of a message."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A call that the model makes of a tool.

    Attributes:
        id: Nine letters and digits, which every provider takes, unique in the reply.
        arguments: JSON text as the model wrote it.
        problem: Why the arguments were refused; empty in a call that waits for its result.
    """

    id: str
    name: str
    arguments: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    """What came of a call; `failed` where the tool did, or the call was refused."""

    call_id: str
    content: str
    failed: bool = False


# A union, so that images become further members.
Part = TextPart | ToolCallPart | ToolResultPart


def text_of(parts: Iterable[Part]) -> str:
    """The text of a message, without its tool calls and their results."""
    return "".join(part.text for part in parts if isinstance(part, TextPart))


def texts_of(part: Part) -> tuple[str, ...]:
    """All that somebody wrote of a part, by which its size is told."""
    match part:
        case TextPart(text):
            return (text,)
        case ToolCallPart():
            return part.name, part.arguments, part.problem
        case ToolResultPart():
            return (part.content,)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one reply cost; `estimated` where the provider's own count is missing."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.estimated or other.estimated,
        )


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a conversation, the user's or the assistant's.

    Attributes:
        sequence: Order of acceptance within the conversation, over all branches, from 1, gapless.
        branch, depth: Place in the tree.
        parts: Of a reply: in the order in which they came; all calls of a round before the first of their results.
        tokens: Upper estimate of what the parts cost in a prompt.
        attempt: Of a reply: number of the generation that this row accepts events of, from 1.
        delta_ends: Of a finished reply: text length in code points after each delta event, so that the events
            can be told again from any sequence; see `chatrpc.turns`.
        error_reason: Of a FAILED reply: the `Reason` that its readers saw.
    """

    id: UUID
    conversation_id: UUID
    parent_id: UUID | None
    sequence: int
    branch: int
    depth: int
    role: Role
    state: MessageState
    parts: tuple[Part, ...]
    tokens: int
    created_at: datetime
    client_message_id: str | None = None
    actor: str | None = None
    attempt: int = 0
    model: str | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    finished_at: datetime | None = None
    delta_ends: tuple[int, ...] = ()
    error_reason: str | None = None

    @property
    def text(self) -> str:
        return text_of(self.parts)
