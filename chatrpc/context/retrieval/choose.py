"""Which of the passages that a search finds enter a context."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from chatrpc.context.prompt import passage_cost
from chatrpc.db.recall import Candidate
from chatrpc.domain import Dropped, DropReason, Hit, RetrievalMode

SURE_COSINE = 0.7
"""The product's definition of a sure hit: a cosine above this. Small embedding models rarely exceed it for a question
and its answer (on LoCoMo 82 % of questions find nothing by it), so CALIBRATED goes lower, to the model's own floor."""

# Passages of one message are merged and repetitions left out, so more are fetched than may enter.
_CANDIDATES_PER_HIT = 2

_WORDS = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the policy decided.

    Attributes:
        hits: Best first.
        dropped: Passages that had a place but were not near enough, best first.
    """

    hits: tuple[Hit, ...]
    dropped: tuple[Dropped, ...]


def candidates_for(limit: int) -> int:
    """How many passages to search for so that `limit` may enter."""
    return limit * _CANDIDATES_PER_HIT


def choose(
    candidates: Sequence[Candidate],
    *,
    mode: RetrievalMode,
    floor: float,
    limit: int,
    verbatim_ids: Collection[UUID],
    verbatim_texts: Sequence[str],
) -> Chosen:
    """Choose the passages that enter a context.

    Left out without a word, because what they say is in the context already: messages that are verbatim in the
    window, further passages of a message whose best is a candidate, and texts that repeat another in the context
    word for word, whatever their case and punctuation.

    Args:
        candidates: Best first.
        floor: Lowest cosine that may enter in CALIBRATED mode.
        limit: Passages that enter at most.
        verbatim_ids, verbatim_texts: The messages that stand in the window, the query among them.
    """
    longest = max((len(candidate.text) for candidate in candidates), default=0)
    # A much longer text is no repetition; splitting it into words would cost more than all the rest.
    said = {_words(text) for text in verbatim_texts if len(text) <= 2 * longest}
    seen: set[UUID] = set()
    hits: list[Hit] = []
    dropped: list[Dropped] = []
    for candidate in candidates:
        if len(hits) + len(dropped) == limit:
            break
        if candidate.message_id in seen:
            continue
        seen.add(candidate.message_id)
        if candidate.message_id in verbatim_ids:
            continue
        words = _words(candidate.text)
        if words in said:
            continue
        said.add(words)
        sure = candidate.cosine > SURE_COSINE
        if sure or (mode is RetrievalMode.CALIBRATED and candidate.cosine >= floor):
            hits.append(_hit(candidate, rank=len(seen), sure=sure))
        else:
            reason = DropReason.NOT_SURE if mode is RetrievalMode.STRICT else DropReason.BELOW_FLOOR
            dropped.append(Dropped(candidate.message_id, reason, passage_cost(candidate.text)))
    return Chosen(tuple(hits), tuple(dropped))


def _words(text: str) -> tuple[str, ...]:
    # A text without words, such as an emoji, is itself.
    return tuple(_WORDS.findall(text.casefold())) or (text.strip(),)


def _hit(candidate: Candidate, *, rank: int, sure: bool) -> Hit:
    return Hit(
        message_id=candidate.message_id,
        conversation_id=candidate.conversation_id,
        role=candidate.role,
        text=candidate.text,
        created_at=candidate.created_at,
        cosine=candidate.cosine,
        rank=rank,
        sure=sure,
        tokens=passage_cost(candidate.text),
    )
