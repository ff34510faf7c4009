"""The hard token budget of a prompt: what enters, what is cut and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from chatrpc.context import prompt
from chatrpc.domain import Dropped, DropReason, Hit, Message, Section, Summary, VerbatimRef
from chatrpc.tokens import cut_to_tokens, estimate_tokens

SYSTEM_SHARE = 0.5
"""Part of the budget that the system instruction may take. A longer one is cut to it whatever else there is, so that
the beginning of the prompt does not depend on the query."""
RETRIEVED_SHARE = 0.25
"""Part of the budget that retrieved passages may take, if so much is left."""


@dataclass(frozen=True, slots=True)
class Query:
    """The message to answer.

    Attributes:
        id: None in a dry run.
        sequence: Its number in the conversation, or the one that it would get.
        tokens: Upper estimate of the text's cost.
    """

    id: UUID | None
    sequence: int
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Fitted:
    """What enters the prompt.

    Attributes:
        messages: Verbatim messages, oldest first, without the query.
        verbatim: The same for the report, and the query as the last.
        tokens: Upper estimate by section; the sum is never above the budget.
        dropped: What did not enter, or not whole. The summary has no id of its own and goes by its anchor's.
    """

    instruction: str
    summary: Summary | None
    messages: tuple[Message, ...]
    hits: tuple[Hit, ...]
    query_text: str
    verbatim: tuple[VerbatimRef, ...]
    tokens: dict[Section, int]
    dropped: tuple[Dropped, ...]


def fit(
    budget: int,
    *,
    instruction: str,
    summary: Summary | None,
    messages: Sequence[Message],
    hits: Sequence[Hit],
    query: Query,
) -> Fitted:
    """Fit a context into its budget.

    What one section leaves, the next may take: system instruction (up to its share), query, summary, the newest
    verbatim messages, retrieved passages (up to theirs). Only verbatim messages that do not fit are left out, oldest
    first; one that fits stays, unless a newer one had to go.

    Args:
        budget: Tokens of the whole prompt, at least 512.
        messages: The path after the summary's anchor and before the query, oldest first.
        hits: Best first; `Hit.tokens` is each one's cost.
    """
    instruction, system_tokens = _system(instruction, int(budget * SYSTEM_SHARE))
    left = budget - system_tokens
    query_text, query_tokens, dropped = _query(query, left)
    left -= query_tokens
    summary, summary_tokens, summary_dropped = _summary(summary, left)
    left -= summary_tokens
    kept, verbatim_tokens, verbatim_dropped = _newest(messages, left)
    left -= verbatim_tokens
    chosen, retrieved_tokens, hits_dropped = _passages(hits, min(left, int(budget * RETRIEVED_SHARE)))
    return Fitted(
        instruction=instruction,
        summary=summary,
        messages=kept,
        hits=chosen,
        query_text=query_text,
        verbatim=(
            *(VerbatimRef(message.id, message.sequence, prompt.message_cost(message)) for message in kept),
            VerbatimRef(query.id, query.sequence, query_tokens),
        ),
        tokens={
            Section.SYSTEM: system_tokens,
            Section.SUMMARY: summary_tokens,
            Section.VERBATIM: verbatim_tokens,
            Section.RETRIEVED: retrieved_tokens,
            Section.QUERY: query_tokens,
        },
        dropped=(*summary_dropped, *verbatim_dropped, *hits_dropped, *dropped),
    )


def _system(instruction: str, room: int) -> tuple[str, int]:
    overhead = prompt.MESSAGE_OVERHEAD + prompt.POLICY_TOKENS
    tokens = estimate_tokens(instruction)
    if overhead + tokens > room:
        instruction, tokens = _cut(instruction, room - overhead)
    return instruction, overhead + tokens


def _query(query: Query, room: int) -> tuple[str, int, tuple[Dropped, ...]]:
    tokens = query.tokens + prompt.QUERY_OVERHEAD
    if tokens <= room:
        return query.text, tokens, ()
    text, cut_tokens = _cut(query.text, room - prompt.QUERY_OVERHEAD)
    # A dry run's message has no id to be reported by; its text in the answer bears the mark.
    dropped = () if query.id is None else (Dropped(query.id, DropReason.TRUNCATED, tokens),)
    return text, cut_tokens + prompt.QUERY_OVERHEAD, dropped


def _summary(summary: Summary | None, room: int) -> tuple[Summary | None, int, tuple[Dropped, ...]]:
    if summary is None:
        return None, 0, ()
    tokens = summary.tokens + prompt.SUMMARY_OVERHEAD
    if tokens <= room:
        return summary, tokens, ()
    text, cut_tokens = _cut(summary.text, room - prompt.SUMMARY_OVERHEAD)
    if not text:
        return None, 0, (Dropped(summary.anchor_id, DropReason.BUDGET, tokens),)
    cut = replace(summary, text=text, tokens=cut_tokens)
    return cut, cut_tokens + prompt.SUMMARY_OVERHEAD, (Dropped(summary.anchor_id, DropReason.TRUNCATED, tokens),)


def _newest(messages: Sequence[Message], room: int) -> tuple[tuple[Message, ...], int, tuple[Dropped, ...]]:
    kept: list[Message] = []
    dropped: list[Dropped] = []
    used, full = 0, False
    for message in reversed(messages):
        if prompt.is_empty(message):
            dropped.append(Dropped(message.id, DropReason.EMPTY, 0))
            continue
        cost = prompt.message_cost(message)
        full = full or used + cost > room
        if full:
            dropped.append(Dropped(message.id, DropReason.BUDGET, cost))
        else:
            kept.append(message)
            used += cost
    return tuple(reversed(kept)), used, tuple(reversed(dropped))


def _passages(hits: Sequence[Hit], room: int) -> tuple[tuple[Hit, ...], int, tuple[Dropped, ...]]:
    kept: list[Hit] = []
    dropped: list[Dropped] = []
    used = prompt.RETRIEVED_OVERHEAD
    for hit in hits:
        if used + hit.tokens <= room:
            kept.append(hit)
            used += hit.tokens
        else:
            dropped.append(Dropped(hit.message_id, DropReason.BUDGET, hit.tokens))
    return tuple(kept), used if kept else 0, tuple(dropped)


def _cut(text: str, room: int) -> tuple[str, int]:
    """The beginning of a text with the mark of a cut, in at most `room` tokens, and its cost; empty without room."""
    beginning = cut_to_tokens(text, room - prompt.TRUNCATED_TOKENS)
    if not beginning:
        return "", 0
    return beginning + prompt.TRUNCATED, estimate_tokens(beginning) + prompt.TRUNCATED_TOKENS
