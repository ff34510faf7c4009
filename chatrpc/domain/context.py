"""Contexts: what they are built from, what the model gets, and the account of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from chatrpc.domain.conversation import Path, TurnSettings
from chatrpc.domain.message import Message, Role, ToolCallPart


class FactKind(StrEnum):
    """What a durable fact is about, the most worth keeping first."""

    NAME = "name"
    PREFERENCE = "preference"
    DECISION = "decision"
    DETAIL = "detail"
    OPEN_QUESTION = "open_question"


@dataclass(frozen=True, slots=True)
class Fact:
    """Something to be remembered for as long as nothing contradicts it.

    Attributes:
        key: Names what the fact is about, such as `user.name`; a newer fact of the same key takes its place.
        text: One line.
        source_id, source_sequence: The message that it was first drawn from.
        changed_id, changed_sequence: The message that its present text was drawn from.
    """

    key: str
    kind: FactKind
    text: str
    source_id: UUID
    source_sequence: int
    changed_id: UUID
    changed_sequence: int


@dataclass(frozen=True, slots=True)
class Summary:
    """A version of the rolling summary: all of the path up to and including its anchor, in few words.

    Attributes:
        text: What has happened, as a narrative.
        facts: What is to be remembered word for word, in the order in which it was first said; no two share a key.
        tokens: Upper estimate of what both cost in a prompt.
    """

    version: int
    anchor_id: UUID
    anchor_branch: int
    anchor_depth: int
    text: str
    tokens: int
    model: str
    created_at: datetime
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True)
class Citation:
    """A place in a document.

    Attributes:
        headings: Those above the place, outermost first.
        start, end: In characters of the document's text.
        page: From 1; 0 where the document has no pages.
        shared: Whether the document is the shared owner's, and so not its reader's to erase.
    """

    document_id: UUID
    collection_id: UUID | None
    title: str
    headings: tuple[str, ...]
    start: int
    end: int
    page: int = 0
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found by retrieval, of a message or, where it has a citation, of a document.

    Attributes:
        message_id, conversation_id, role: None where it is of a document.
        created_at: When it was said, or when the document was ingested.
        cosine: Similarity to the query, -1 to 1.
        rank: Place among all that was searched, by score, from 1.
        sure: Whether the cosine exceeds the mark of a sure hit.
        tokens: Upper estimate of its cost in a prompt.
        score: What it was ranked by.
        lexical_score: BM25 of the query's words; 0 where it holds none.
        dense_rank, lexical_rank: Places by each score alone, from 1; 0 where it has none.
        neighbour_score: The part of the score that came from the messages beside it.
    """

    message_id: UUID | None
    conversation_id: UUID | None
    role: Role | None
    text: str
    created_at: datetime
    cosine: float
    rank: int
    sure: bool
    tokens: int
    score: float = 0.0
    lexical_score: float = 0.0
    dense_rank: int = 0
    lexical_rank: int = 0
    neighbour_score: float = 0.0
    citation: Citation | None = None


@dataclass(frozen=True, slots=True)
class HotPath:
    """All that a context of one conversation is built from, apart from retrieval.

    Attributes:
        summary: Newest summary whose anchor lies on the path, or None.
        messages: Messages of the path after the summary's anchor, oldest first, unfinished replies included.
        rebuilding: Whether a version that covered more of the path was erased and is not made anew yet.
        erasures: Erasures of messages so far; a summary drawn from what stood before one must not be stored.
    """

    conversation_id: UUID
    revision: int
    settings: TurnSettings
    path: Path
    summary: Summary | None
    messages: tuple[Message, ...]
    rebuilding: bool = False
    erasures: int = 0


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
    NEAR_DUPLICATE = "near_duplicate"


class RetrievalOutcome(StrEnum):
    """How the search for relevant passages ended."""

    FOUND = "found"
    NOTHING_RELEVANT = "nothing_relevant"
    DISABLED = "disabled"
    TIMED_OUT = "timed_out"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A message, or where it has a citation a passage of a document, that is not in the prompt, or not whole."""

    message_id: UUID | None
    reason: DropReason
    tokens: int
    citation: Citation | None = None


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
        summary_rebuilding: Whether a newer summary was erased and is being made anew; an older one, or none, stood in.
        fact_count: Durable facts that stood in the prompt.
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
    summary_rebuilding: bool = False
    fact_count: int = 0

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The documents' passages of the prompt, in its order: the first is number 1."""
        return tuple(hit.citation for hit in self.hits if hit.citation is not None)


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """One message of the prompt as the model gets it.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        message_ids: The stored messages whose words stand in it.
        tool_calls: Of an assistant's message.
        tool_call_id: Of a tool's message, which follows the assistant's that has the call.
    """

    role: str
    content: str
    section: Section
    message_ids: tuple[UUID, ...] = ()
    tool_calls: tuple[ToolCallPart, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class AssembledContext:
    """What the model is given, and the account of it.

    Attributes:
        output_reserve: Tokens of the model's window kept for the reply.
        exchange_room: Tokens that the reply's own tool calls and their results may cost behind the prompt.
        unfinished: Replies of the path that are still being written, and so are missing, oldest first.
    """

    prompt: tuple[PromptMessage, ...]
    report: ContextReport
    output_reserve: int
    exchange_room: int = 0
    unfinished: tuple[UUID, ...] = ()
