"""Passages of documents have numbers by which a model can cite them, and by which clients find what it means."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from chatrpc.context.prompt import RETRIEVED_OVERHEAD, passage_cost, retrieved_prompt
from chatrpc.domain import Citation, ContextReport, Hit, Message, MessageState, RetrievalOutcome, Role, TextPart
from chatrpc.tokens import estimate_tokens
from chatrpc.turns.events import Completed
from chatrpc.turns.replay import replay

MOMENT = datetime(2024, 1, 1, tzinfo=UTC)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
CITATIONS = st.builds(
    Citation,
    document_id=st.uuids(),
    collection_id=st.none() | st.uuids(),
    title=TEXTS,
    headings=st.lists(TEXTS, max_size=3).map(tuple),
    start=st.just(0),
    end=st.just(9),
)
HITS = st.lists(st.tuples(TEXTS, st.none() | CITATIONS), min_size=1, max_size=5)


def hit(text: str, citation: Citation | None) -> Hit:
    message_id = uuid4() if citation is None else None
    role = Role.USER if citation is None else None
    cost = passage_cost(text, citation)
    return Hit(message_id, message_id, role, text, MOMENT, 0.5, 1, False, cost, citation=citation)


def report(*hits: Hit) -> ContextReport:
    return ContextReport(
        conversation_id=uuid4(),
        query_message_id=None,
        revision=1,
        summary_version=None,
        summarized_through_depth=0,
        verbatim=(),
        retrieval=RetrievalOutcome.FOUND,
        hits=hits,
        dropped=(),
        section_tokens={},
        budget_tokens=0,
        embedding_model="e",
        model="m",
    )


@given(HITS)
def test_documents_are_numbered_in_the_order_of_the_reports_citations(found: list[tuple[str, Citation | None]]) -> None:
    hits = [hit(*each) for each in found]
    prompt = retrieved_prompt(hits)
    numbers = [int(number) for number in re.findall(r'<passage number="(\d+)" document=', prompt.content)]
    citations = report(*hits).citations
    assert numbers == list(range(1, len(citations) + 1))
    assert citations == tuple(citation for _, citation in found if citation is not None)
    assert ("such as [1]" in prompt.content) == bool(citations)
    assert prompt.message_ids == tuple(each.message_id for each in hits if each.message_id)


@given(HITS)
def test_the_block_costs_no_more_than_is_said_of_it(found: list[tuple[str, Citation | None]]) -> None:
    hits = [hit(*each) for each in found]
    assert estimate_tokens(retrieved_prompt(hits).content) <= RETRIEVED_OVERHEAD + sum(each.tokens for each in hits)


REPLY = Message(
    id=UUID(int=1),
    conversation_id=UUID(int=2),
    parent_id=UUID(int=3),
    sequence=2,
    branch=0,
    depth=2,
    role=Role.ASSISTANT,
    state=MessageState.COMPLETE,
    parts=(TextPart("Thirty days [1]."),),
    tokens=9,
    created_at=MOMENT,
    attempt=1,
    delta_ends=(16,),
)


def test_a_reply_that_is_told_again_ends_with_its_citations() -> None:
    citation = Citation(uuid4(), None, "Handbook", ("Leave",), 0, 9)
    said = report(hit("I like holidays", None), hit("Leave is thirty days.", citation))
    assert replay(REPLY, said)[-1].event == Completed(REPLY, (citation,))
    assert replay(REPLY, None)[-1].event == Completed(REPLY, ())


def test_of_an_erased_reply_only_its_end_is_told() -> None:
    erased = replace(REPLY, state=MessageState.ERASED, parts=(), delta_ends=(), attempt=3)
    [only] = replay(erased, None)
    assert (only.attempt, only.sequence, only.event) == (3, 1, Completed(erased, ()))
