"""The hard token budget of a prompt: what enters, what is cut and what is left out.

The shares are guarantees, not walls: whatever a section does not need, the others may use. Only the head of the
prompt, system instruction and summary, has limits that hold whatever else there is, since everything behind it moves
when it changes, and a provider's prompt cache with it.

What does not fit yields in this order:

1. retrieved passages, the least relevant first, down to their guarantee;
2. verbatim messages, the oldest first, down to theirs. A message longer than half of the room behind the head is cut to
   that half first; one that is long goes by way of a half, a quarter and an eighth of the room, a short one at once;
3. the query, which is then cut to what is left; it is always there.

Verbatim messages yield in steps: where one token too many has to go, so much goes that a step is free. Else every turn
would drop a message or two, and no prompt would begin like the one before. How much has to go never falls from turn to
turn while the summary stands, and the order is fixed, so no state is needed: every process drops the same. What a step
has freed, retrieved passages may use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from chatrpc.context import prompt
from chatrpc.context.cut import Count, cut_middle
from chatrpc.context.exchange import MESSAGE_OVERHEAD
from chatrpc.domain import Dropped, DropReason, Hit, Message, PromptMessage, Section, Summary, TextPart, VerbatimRef
from chatrpc.models.summary.facts import fit as fit_facts
from chatrpc.tokens import estimate_tokens

SYSTEM_SHARE = 1 / 2
"""Part of the budget that the system instruction may take; a longer one is cut to it."""
SUMMARY_SHARE = 1 / 4
"""Part of the budget that the summary may take; a longer one is cut to it."""
RETRIEVED_SHARE = 1 / 8
"""Part of the room behind the head that retrieved passages have, if they need it."""
VERBATIM_SHARE = 1 / 8
"""Part of that room that verbatim messages have, if they need it."""
STEP_SHARE = 1 / 4
"""Part of that room by which verbatim messages yield."""
CUT_SHARES = (1 / 2, 1 / 4, 1 / 8)
"""Parts of that room to which a long message is cut before it goes."""


@dataclass(frozen=True, slots=True)
class Query:
    """The message to answer.

    Attributes:
        id: None in a dry run.
        sequence: Its number in the conversation, or the one that it would get.
        tokens: What the text costs.
    """

    id: UUID | None
    sequence: int
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Material:
    """What there is to put into a prompt.

    Attributes:
        messages: The path after the summary's anchor and before the query, oldest first.
        hits: Best first; `Hit.tokens` is each one's cost.
    """

    instruction: str
    summary: Summary | None
    messages: tuple[Message, ...]
    hits: tuple[Hit, ...]
    query: Query

    @property
    def tokens(self) -> int:
        """What all of it costs, but for the system instruction."""
        summary = 0 if self.summary is None else self.summary.tokens + prompt.SUMMARY_OVERHEAD
        messages = sum(prompt.message_cost(message) for message in self.messages if not prompt.is_empty(message))
        return summary + messages + _block(self.hits) + self.query.tokens + prompt.QUERY_OVERHEAD

    @property
    def longest(self) -> int:
        """Characters of its longest text."""
        texts = (self.instruction, self.query.text, *(message.text for message in self.messages))
        return max(map(len, texts))


@dataclass(frozen=True, slots=True)
class Fitted:
    """What enters the prompt.

    Attributes:
        messages: Verbatim messages, oldest first, without the query; those that were cut with their new text.
        verbatim: The same for the report, and the query as the last.
        tokens: By section; the sum is never above the budget.
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

    @property
    def written(self) -> tuple[PromptMessage, ...]:
        """The prompt; see `chatrpc.context.prompt`."""
        messages = [prompt.system_prompt(self.instruction)]
        if self.summary is not None:
            messages.append(prompt.summary_prompt(self.summary))
        for message in self.messages:
            messages.extend(prompt.verbatim_prompts(message))
        if self.hits:
            messages.append(prompt.retrieved_prompt(self.hits))
        messages.append(prompt.query_prompt(self.query_text, self.verbatim[-1].message_id))
        return tuple(messages)


def fit(budget: int, material: Material, count: Count = estimate_tokens) -> Fitted:
    """Fit a context into its budget, by the rules above.

    Args:
        budget: Tokens of the whole prompt, at least 512.
        count: What the tokens of `material` were counted with.
    """
    instruction, system_tokens = _system(material.instruction, int(budget * SYSTEM_SHARE), count)
    summary, summary_tokens, summary_dropped = _summary(material.summary, int(budget * SUMMARY_SHARE), count)
    room = budget - system_tokens - summary_tokens
    spoken = [message for message in material.messages if not prompt.is_empty(message)]
    costs = [prompt.message_cost(message) for message in spoken]
    # Guarantees are taken from what is there, so that nothing is kept free for what does not need it.
    retrieved = _block(_passages(material.hits, int(room * RETRIEVED_SHARE)))
    verbatim = min(sum(costs), int(room * VERBATIM_SHARE))
    query_text, query_tokens, query_dropped = _query(material.query, room - retrieved - verbatim, count)
    allowed = _allowed(costs, room - query_tokens - retrieved, room)
    kept, verbatim_dropped = _shortened(material.messages, zip(costs, allowed, strict=True), count)
    verbatim_tokens = sum(cost for _, cost in kept)
    hits = _passages(material.hits, room - query_tokens - verbatim_tokens)
    return Fitted(
        instruction=instruction,
        summary=summary,
        messages=tuple(message for message, _ in kept),
        hits=hits,
        query_text=query_text,
        verbatim=(
            *(VerbatimRef(message.id, message.sequence, cost) for message, cost in kept),
            VerbatimRef(material.query.id, material.query.sequence, query_tokens),
        ),
        tokens={
            Section.SYSTEM: system_tokens,
            Section.SUMMARY: summary_tokens,
            Section.VERBATIM: verbatim_tokens,
            Section.RETRIEVED: _block(hits),
            Section.QUERY: query_tokens,
        },
        dropped=(
            *summary_dropped,
            *verbatim_dropped,
            *(
                Dropped(hit.message_id, DropReason.BUDGET, hit.tokens, hit.citation)
                for hit in material.hits
                if hit not in hits
            ),
            *query_dropped,
        ),
    )


def _system(instruction: str, room: int, count: Count) -> tuple[str, int]:
    overhead = MESSAGE_OVERHEAD + prompt.POLICY_TOKENS
    instruction = cut_middle(instruction, room - overhead, count)
    return instruction, overhead + count(instruction)


def _summary(summary: Summary | None, room: int, count: Count) -> tuple[Summary | None, int, tuple[Dropped, ...]]:
    if summary is None:
        return None, 0, ()
    tokens = summary.tokens + prompt.SUMMARY_OVERHEAD
    if tokens <= room:
        return summary, tokens, ()
    room -= prompt.SUMMARY_OVERHEAD
    facts, _ = fit_facts(summary.facts, room // 2)
    facts_tokens = count(prompt.summary_body("", facts))
    text = cut_middle(summary.text, room - facts_tokens, count)
    if not text:
        return None, 0, (Dropped(summary.anchor_id, DropReason.BUDGET, tokens),)
    cut = replace(summary, text=text, facts=facts, tokens=facts_tokens + count(text))
    return cut, cut.tokens + prompt.SUMMARY_OVERHEAD, (Dropped(summary.anchor_id, DropReason.TRUNCATED, tokens),)


def _query(query: Query, room: int, count: Count) -> tuple[str, int, tuple[Dropped, ...]]:
    tokens = query.tokens + prompt.QUERY_OVERHEAD
    if tokens <= room:
        return query.text, tokens, ()
    text = cut_middle(query.text, room - prompt.QUERY_OVERHEAD, count)
    # A dry run's message has no id to be reported by; its text in the answer bears the mark.
    dropped = () if query.id is None else (Dropped(query.id, DropReason.TRUNCATED, tokens),)
    return text, count(text) + prompt.QUERY_OVERHEAD, dropped


def _allowed(costs: Sequence[int], available: int, room: int) -> list[int]:
    """What each message may cost, oldest first: all of it, less where it is to be cut, nothing where it goes."""
    allowed = list(costs)
    total = sum(costs)
    over = total - available
    if over <= 0:
        return allowed
    step = max(int(room * STEP_SHARE), 1)
    # A whole step, unless that would take more than half of what messages have.
    goal = max(over, min(-(-over // step) * step, total - available // 2))
    limits = [int(room * share) for share in CUT_SHARES]
    for index, cost in enumerate(costs):
        if total - sum(allowed) >= goal:
            return allowed
        allowed[index] = min(cost, limits[0])
    saved = total - sum(allowed)
    for index in range(len(allowed)):
        for limit in (*limits, 0):
            if saved >= goal:
                return allowed
            if limit < allowed[index]:
                saved += allowed[index] - limit
                allowed[index] = limit
    return allowed


def _shortened(
    messages: Sequence[Message], costs: Iterator[tuple[int, int]], count: Count
) -> tuple[list[tuple[Message, int]], list[Dropped]]:
    """The messages as they may enter, each with its cost, and what became of the others.

    Args:
        costs: What each message that is not empty costs, and what it may cost.
    """
    kept: list[tuple[Message, int]] = []
    dropped: list[Dropped] = []
    for message in messages:
        if prompt.is_empty(message):
            dropped.append(Dropped(message.id, DropReason.EMPTY, 0))
            continue
        cost, limit = next(costs)
        if cost <= limit:
            kept.append((message, cost))
            continue
        text = cut_middle(message.text, limit - (cost - message.tokens), count) if limit else ""
        if text:
            cut = replace(message, parts=(TextPart(text),), tokens=count(text))
            kept.append((cut, prompt.message_cost(cut)))
        dropped.append(Dropped(message.id, DropReason.TRUNCATED if text else DropReason.BUDGET, cost))
    return kept, dropped


def _passages(hits: Sequence[Hit], room: int) -> tuple[Hit, ...]:
    """The best that fit together with the block's own lines."""
    kept: list[Hit] = []
    used = prompt.RETRIEVED_OVERHEAD
    for hit in hits:
        if used + hit.tokens <= room:
            kept.append(hit)
            used += hit.tokens
    return tuple(kept)


def _block(hits: Sequence[Hit]) -> int:
    """What passages cost as one block."""
    return prompt.RETRIEVED_OVERHEAD + sum(hit.tokens for hit in hits) if hits else 0
