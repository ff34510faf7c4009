"""Conversations, their settings, and the paths through their trees of messages."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the model draws; None leaves the provider's default."""

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """Something that the model may ask the client to do; `parameters` is JSON Schema as text, empty for none."""

    name: str
    description: str
    parameters: str = ""


class ToolMode(StrEnum):
    """Whether the model calls tools."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model calls tools; REQUIRED binds the first round of a reply, to one tool if it is named."""

    mode: ToolMode
    tool: str | None = None


class ConversationMemory(StrEnum):
    """What becomes of what is said in a conversation: PRIVATE is found from nowhere else, TEMPORARY from nowhere."""

    REMEMBERED = "remembered"
    PRIVATE = "private"
    TEMPORARY = "temporary"


class MemoryScope(StrEnum):
    """Where retrieval looks: everywhere, or in this conversation alone."""

    USER = "user"
    CONVERSATION = "conversation"


class RetrievalMode(StrEnum):
    """CALIBRATED admits hits above the embedding model's floor; STRICT only sure hits."""

    CALIBRATED = "calibrated"
    STRICT = "strict"


@dataclass(frozen=True, slots=True)
class TurnSettings:
    """What a conversation sets for its turns, and a turn may set for itself; None leaves the outer value.

    Attributes:
        documents: Whether retrieval looks into documents; None everywhere leaves it to the memory scope.
        response_schema: JSON Schema of the reply's text, as text.
    """

    system_instruction: str | None = None
    model: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    memory_scope: MemoryScope | None = None
    retrieval_mode: RetrievalMode | None = None
    documents: bool | None = None
    tools: tuple[Tool, ...] | None = None
    tool_choice: ToolChoice | None = None
    response_schema: str | None = None

    def over(self, outer: TurnSettings) -> TurnSettings:
        """These settings, with the outer ones where these say nothing."""

        def pick(inner: _T | None, fallback: _T | None) -> _T | None:
            return fallback if inner is None else inner

        return TurnSettings(
            system_instruction=pick(self.system_instruction, outer.system_instruction),
            model=pick(self.model, outer.model),
            sampling=Sampling(
                temperature=pick(self.sampling.temperature, outer.sampling.temperature),
                top_p=pick(self.sampling.top_p, outer.sampling.top_p),
                max_output_tokens=pick(self.sampling.max_output_tokens, outer.sampling.max_output_tokens),
            ),
            memory_scope=pick(self.memory_scope, outer.memory_scope),
            retrieval_mode=pick(self.retrieval_mode, outer.retrieval_mode),
            documents=pick(self.documents, outer.documents),
            tools=pick(self.tools, outer.tools),
            tool_choice=pick(self.tool_choice, outer.tool_choice),
            response_schema=pick(self.response_schema, outer.response_schema),
        )


@dataclass(frozen=True, slots=True)
class Reach:
    """How far one turn's retrieval reaches beyond the older part of its own conversation.

    Attributes:
        elsewhere: Into the active paths of the user's other conversations, as far as these are REMEMBERED.
        documents: Into documents.
    """

    elsewhere: bool
    documents: bool

    @classmethod
    def of(cls, settings: TurnSettings, memory: ConversationMemory) -> Reach:
        """The reach of a turn with these settings, the conversation's included, in a conversation of this memory."""
        everywhere = settings.memory_scope is not MemoryScope.CONVERSATION
        return cls(
            elsewhere=everywhere and memory is not ConversationMemory.TEMPORARY,
            documents=everywhere if settings.documents is None else settings.documents,
        )


Path = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation's own row.

    Attributes:
        revision: Raised by every write that can change a context; a cached hot path is valid only at its own.
        head_id, path: The active head, None and empty before the first message.
    """

    id: UUID
    title: str
    settings: TurnSettings
    labels: dict[str, str]
    revision: int
    head_id: UUID | None
    path: Path
    message_count: int
    created_at: datetime
    updated_at: datetime
    memory: ConversationMemory = ConversationMemory.REMEMBERED


@dataclass(frozen=True, slots=True)
class Page:
    """Where a listing goes on.

    Attributes:
        size: Items at most.
        after: Opaque position from the previous page's `next`, or None for the first page.
    """

    size: int
    after: str | None = None
