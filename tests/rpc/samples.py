"""Hypothesis strategies for the values that cross the wire."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import strategies as st

from chatrpc.domain import (
    Citation,
    ContextReport,
    Conversation,
    ConversationMemory,
    Dropped,
    DropReason,
    FinishReason,
    Hit,
    MemoryScope,
    Message,
    MessageState,
    OutgoingMessage,
    RetrievalMode,
    RetrievalOutcome,
    Role,
    Sampling,
    Section,
    TextPart,
    Tool,
    ToolChoice,
    ToolMode,
    TurnSettings,
    Usage,
    VerbatimRef,
)
from chatrpc.errors import Reason

ids = st.uuids()
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
optional_texts = st.none() | texts
counts = st.integers(0, 2**31 - 1)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
parts = st.lists(st.builds(TextPart, texts), min_size=1, max_size=3).map(tuple)
samplings = st.builds(
    Sampling,
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0.01, 1),
    max_output_tokens=st.none() | st.integers(1, 1_000_000),
)
tools = st.builds(
    Tool,
    name=st.text("abcdefgh_-09", min_size=1, max_size=12),
    description=st.just("") | texts,
    parameters=st.sampled_from(["", '{"type": "object", "properties": {"city": {"type": "string"}}}']),
)
turn_settings = st.builds(
    TurnSettings,
    system_instruction=optional_texts,
    model=optional_texts,
    sampling=samplings,
    memory_scope=st.none() | st.sampled_from(MemoryScope),
    retrieval_mode=st.none() | st.sampled_from(RetrievalMode),
    documents=st.none() | st.booleans(),
    tools=st.none() | st.lists(tools, min_size=1, max_size=3, unique_by=lambda tool: tool.name).map(tuple),
    tool_choice=st.none() | st.builds(ToolChoice, st.sampled_from(ToolMode)),
    response_schema=st.none() | st.just('{"type": "array"}'),
)
usages = st.builds(Usage, counts, counts, counts, st.booleans())
messages = st.builds(
    Message,
    id=ids,
    conversation_id=ids,
    parent_id=st.none() | ids,
    sequence=st.integers(1, 2**62),
    branch=counts,
    depth=counts,
    role=st.sampled_from(Role),
    state=st.sampled_from(MessageState),
    parts=st.just(()) | parts,
    tokens=counts,
    created_at=moments,
    client_message_id=optional_texts,
    actor=optional_texts,
    attempt=counts,
    model=optional_texts,
    finish_reason=st.none() | st.sampled_from(FinishReason),
    usage=st.none() | usages,
    finished_at=st.none() | moments,
    error_reason=st.none() | st.sampled_from(Reason).map(str),
)
outgoing = st.builds(
    OutgoingMessage,
    conversation_id=ids,
    client_message_id=texts,
    parts=parts,
    parent_id=st.none() | ids,
    settings=turn_settings,
    # Whole microseconds, as a Duration made of a timedelta has them.
    coalesce_window=st.none() | st.integers(0, 1_000_000).map(lambda micros: micros / 1e6),
)
labels = st.dictionaries(texts, texts, max_size=3)
conversations = st.builds(
    Conversation,
    id=ids,
    title=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    settings=turn_settings,
    labels=labels,
    revision=counts,
    head_id=st.none() | ids,
    path=st.just(()),
    message_count=counts,
    created_at=moments,
    updated_at=moments,
    memory=st.sampled_from(ConversationMemory),
)
citations = st.builds(
    Citation,
    document_id=ids,
    collection_id=st.none() | ids,
    title=texts,
    headings=st.lists(texts, max_size=3).map(tuple),
    start=counts,
    end=counts,
    page=counts,
)
hits = st.builds(
    Hit,
    message_id=ids,
    conversation_id=ids,
    role=st.sampled_from(Role),
    text=texts,
    created_at=moments,
    cosine=st.floats(-1, 1),
    rank=counts,
    sure=st.booleans(),
    tokens=counts,
)


@st.composite
def reports(draw: st.DrawFn) -> ContextReport:
    summary = draw(st.none() | st.integers(1, 2**40))
    sections = draw(st.dictionaries(st.sampled_from(Section), st.integers(1, 2**30)))
    return ContextReport(
        conversation_id=draw(ids),
        query_message_id=draw(st.none() | ids),
        revision=draw(counts),
        summary_version=summary,
        summarized_through_depth=draw(counts) if summary else 0,
        verbatim=tuple(draw(st.lists(st.builds(VerbatimRef, st.none() | ids, counts, counts), max_size=3))),
        retrieval=draw(st.sampled_from(RetrievalOutcome)),
        hits=tuple(draw(st.lists(hits, max_size=3))),
        dropped=tuple(draw(st.lists(st.builds(Dropped, ids, st.sampled_from(DropReason), counts), max_size=3))),
        section_tokens=sections,
        budget_tokens=draw(counts),
        embedding_model=draw(texts),
        model=draw(texts),
        assembly_micros=draw(counts),
        embedding_micros=draw(counts),
        summary_anchor_id=draw(ids) if summary else None,
    )
