"""The nouns of chatrpc: plain immutable values, without I/O and without any library of the outside.

Messages of a conversation form a tree with one active head. A *branch* is a chain of messages; a message is
found by `(branch, depth)`, its depth being its place on its path from the root, which has depth 1. A *path*
is written as segments `(branch, last depth)`, oldest first: a linear conversation of n messages is `((0, n),)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, derived from a verified token and nothing else.

    Attributes:
        user_id: Owner of every row that the call may touch.
        subject: The subject acted for: the token's own, or the one a service acts for.
        issuer: The token's issuer.
        actor: The token's own subject where it acts for somebody else, else None.
        scopes: Scopes of the token.
        expires_at: Seconds since the epoch at which the token ends.
    """

    user_id: UUID
    subject: str
    issuer: str
    actor: str | None
    scopes: frozenset[str]
    expires_at: float


class Role(StrEnum):
    """Who speaks."""

    USER = "user"
    ASSISTANT = "assistant"


class MessageState(StrEnum):
    """How far a message has come. A user's message is COMPLETE at once; a reply starts PENDING."""

    PENDING = "pending"
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    FAILED = "failed"

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


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text of a message."""

    text: str


# A union, so that images, tools and citations become further members.
Part = TextPart


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one reply cost; `estimated` where the provider's own count is missing."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a conversation, the user's or the assistant's.

    Attributes:
        sequence: Order of acceptance within the conversation, over all branches, from 1, gapless.
        branch, depth: Place in the tree.
        tokens: Upper estimate of what the text costs in a prompt.
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
        return "".join(part.text for part in self.parts)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the model draws; None leaves the provider's default."""

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None


class MemoryScope(StrEnum):
    """Where retrieval looks."""

    USER = "user"
    CONVERSATION = "conversation"


class RetrievalMode(StrEnum):
    """CALIBRATED admits hits above the embedding model's floor; STRICT only sure hits."""

    CALIBRATED = "calibrated"
    STRICT = "strict"


@dataclass(frozen=True, slots=True)
class TurnSettings:
    """What a conversation sets for its turns, and a turn may set for itself; None leaves the outer value."""

    system_instruction: str | None = None
    model: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    memory_scope: MemoryScope | None = None
    retrieval_mode: RetrievalMode | None = None

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


@dataclass(frozen=True, slots=True)
class Summary:
    """A version of the rolling summary: all of the path up to and including its anchor, in few words."""

    version: int
    anchor_id: UUID
    anchor_branch: int
    anchor_depth: int
    text: str
    tokens: int
    model: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found by retrieval.

    Attributes:
        cosine: Similarity to the query, -1 to 1.
        rank: Place among the candidates, from 1.
        sure: Whether the cosine exceeds the mark of a sure hit.
        tokens: Upper estimate of its cost in a prompt.
    """

    message_id: UUID
    conversation_id: UUID
    role: Role
    text: str
    created_at: datetime
    cosine: float
    rank: int
    sure: bool
    tokens: int


@dataclass(frozen=True, slots=True)
class HotPath:
    """All that a context of one conversation is built from, apart from retrieval.

    Attributes:
        summary: Newest summary whose anchor lies on the path, or None.
        messages: Messages of the path after the summary's anchor, oldest first, unfinished replies included.
    """

    conversation_id: UUID
    revision: int
    settings: TurnSettings
    path: Path
    summary: Summary | None
    messages: tuple[Message, ...]


class Section(StrEnum):
    """Parts of a prompt, in the order in which they stand."""

    SYSTEM = "system"
    SUMMARY = "summary"
    VERBATIM = "verbatim"
    RETRIEVED = "retrieved"
    QUERY = "query"


class DropReason(StrEnum):
    """Why something did not enter the prompt, or not whole."""

    BUDGET = "budget"
    TRUNCATED = "truncated"
    BELOW_FLOOR = "below_floor"
    NOT_SURE = "not_sure"
    EMPTY = "empty"


class RetrievalOutcome(StrEnum):
    """How the search for relevant passages ended."""

    FOUND = "found"
    NOTHING_RELEVANT = "nothing_relevant"
    DISABLED = "disabled"
    TIMED_OUT = "timed_out"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A message that is not in the prompt, or not whole."""

    message_id: UUID
    reason: DropReason
    tokens: int


@dataclass(frozen=True, slots=True)
class VerbatimRef:
    """A message that stands word for word in the prompt; the query of a dry run has no id and the sequence 0."""

    message_id: UUID | None
    sequence: int
    tokens: int


@dataclass(frozen=True, slots=True)
class ContextReport:
    """Why a reply knew what it knew.

    Attributes:
        revision: Revision of the conversation that the context was built at.
        summary_version, summary_anchor_id: None where no summary was used.
        summarized_through_depth: Messages 1..this of the path are inside the summary; 0 without one.
        verbatim: In the order of the prompt; the query itself is the last.
        section_tokens: Upper estimate, by section.
        budget_tokens: What the prompt might have cost at most.
        assembly_micros: Time spent, embedding apart; `embedding_micros` beside it.
    """

    conversation_id: UUID
    query_message_id: UUID | None
    revision: int
    summary_version: int | None
    summarized_through_depth: int
    verbatim: tuple[VerbatimRef, ...]
    retrieval: RetrievalOutcome
    hits: tuple[Hit, ...]
    dropped: tuple[Dropped, ...]
    section_tokens: dict[Section, int]
    budget_tokens: int
    embedding_model: str
    model: str
    assembly_micros: int = 0
    embedding_micros: int = 0
    summary_anchor_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """One message of the prompt as the model gets it.

    Attributes:
        role: `system`, `user` or `assistant`.
        message_ids: The stored messages whose words stand in it.
    """

    role: str
    content: str
    section: Section
    message_ids: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class AssembledContext:
    """What the model is given, and the account of it."""

    prompt: tuple[PromptMessage, ...]
    report: ContextReport


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message that a caller wants to say; see `chatapi.v1.OutgoingMessage`.

    Attributes:
        coalesce_window: Seconds in which tokens share one delta event; None takes the server's own.
    """

    conversation_id: UUID
    client_message_id: str
    parts: tuple[Part, ...]
    parent_id: UUID | None = None
    settings: TurnSettings = field(default_factory=TurnSettings)
    coalesce_window: float | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message is committed, and its reply has a place.

    Attributes:
        reply: The reply's row; PENDING and of attempt 1 unless `duplicate`.
        path: Path from the root to `message`, itself included.
        parent_pending: Whether the message before is a reply that was not finished when this was read.
        revision_before: Revision that the append found; a cached hot path of this revision is not stale.
        settings: The conversation's settings.
        turn_settings: The settings stored for this turn: those of the first send.
    """

    message: Message
    reply: Message
    path: Path
    duplicate: bool
    parent_pending: bool
    revision_before: int
    settings: TurnSettings
    turn_settings: TurnSettings


@dataclass(frozen=True, slots=True)
class Page:
    """Where a listing goes on.

    Attributes:
        size: Items at most.
        after: Opaque position from the previous page's `next`, or None for the first page.
    """

    size: int
    after: str | None = None
