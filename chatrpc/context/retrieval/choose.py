"""Which of the units that a search found enter a context, and how each is accounted for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from chatrpc.context.prompt import passage_cost
from chatrpc.context.retrieval.fusion import Scores
from chatrpc.context.retrieval.lexicon import terms
from chatrpc.db.search import Passage, Pool
from chatrpc.domain import Dropped, DropReason, Hit, RetrievalMode

SURE_COSINE = 0.7
"""The product's definition of a sure hit: a cosine above this. Small embedding models rarely exceed it for a question
and its answer (on LoCoMo 82 % of questions find nothing by it), so CALIBRATED goes lower."""

ENOUGH_EVIDENCE = 1.0
"""Evidence, in standard deviations, by which a unit enters that is not near enough by itself: it has the query's words,
stands beside what bears on it, or was said when the query says. On the conversations of LoCoMo that were tuned on, it
keeps out at most 0.1 points of recall among the first 25."""

# Repetitions are left out, so the texts of more are fetched than may enter.
_PER_HIT = 2
# Two short texts of the same words may say the opposite: "I love you" and "you love me".
_FEWEST_TERMS = 4

_WORDS = re.compile(r"\w+")
_NEGATION = re.compile(r"\b(?:no|not|nor)\b|n['\u2019]t\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A unit with its place among all that were found, and what it has it from.

    Attributes:
        row: In the pool.
        evidence: The part of the score that admits it.
        rank, dense_rank, lexical_rank: By the score, by the cosine, by BM25; from 1. The last is 0 where it has none of
            the query's words.
        neighbours: The part of the evidence that comes from the units beside it.
    """

    # In the order in which `shortlist` gives them.
    row: int
    unit_id: UUID
    cosine: float
    score: float
    evidence: float
    lexical: float
    neighbours: float
    rank: int
    dense_rank: int
    lexical_rank: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the policy decided.

    Attributes:
        hits: Best first.
        dropped: What had a place but was not near enough, or repeated another, best first.
    """

    hits: tuple[Hit, ...]
    dropped: tuple[Dropped, ...]


def shortlist(
    pool: Pool,
    scores: Scores,
    *,
    mode: RetrievalMode,
    limit: int,
    verbatim_ids: Collection[UUID],
    verbatim_places: Collection[tuple[float, int]] = (),
) -> list[Ranked]:
    """The best units, whose texts are needed to choose `limit` of them; none that stands verbatim in the window.

    A conversation and its forks hold copies of the same messages, said at the same moment and at the same depth. They
    must not take the places of others: of each one enters, and none whose copy stands in the window.

    Best by score, of equals the nearest, of those the newest; in STRICT mode by cosine, which alone decides there.
    """
    total, evidence = scores.total, scores.evidence
    dense = np.lexsort((-pool.created, -pool.cosine))
    # A cosine just at the floor scores as little as those below, and must not lose its place to them.
    rank = dense[np.argsort(-total[dense], kind="stable")]
    order = dense if mode is RetrievalMode.STRICT else rank
    verbatim = {each.bytes for each in verbatim_ids}
    rows: list[int] = []
    copies: dict[tuple[float, ...], int] = {}
    wanted = limit * _PER_HIT
    for row, unit, created, depth, container, *saying in _sayings(pool, order, wanted + 1):
        if len(rows) == wanted:
            break
        is_copy = (created, depth) in verbatim_places
        is_copy = is_copy or copies.setdefault((created, depth, *saying), container) != container
        if not is_copy and unit not in verbatim:
            rows.append(row)
    places = np.empty(len(rank), np.intp)
    places[rank] = np.arange(1, len(rank) + 1)
    lexical_ranks = np.where(scores.lexical[rows] == 0, 0, _ranks(scores.lexical, rows))
    numbers = (
        pool.cosine[rows], total[rows], evidence[rows], scores.lexical[rows], scores.neighbours[rows],
        places[rows], _ranks(pool.cosine, rows), lexical_ranks,
    )  # fmt: skip
    listed = zip(*(each.tolist() for each in numbers), strict=True)
    return [Ranked(row, pool.unit_id(row), *each) for row, each in zip(rows, listed, strict=True)]


def _sayings(pool: Pool, order: NDArray[np.intp], step: int) -> Iterator[tuple[Any, ...]]:
    """Row, unit, time, place, container, cosine and length of units in an order, made `step` at a time: most of a large
    pool are never looked at."""
    for start in range(0, len(order), step):
        part = order[start : start + step]
        columns = (pool.unit, pool.created, pool.place, pool.container, pool.cosine, pool.length)
        yield from zip(part.tolist(), *(column[part].tolist() for column in columns), strict=True)


def _ranks(values: NDArray[Any], rows: list[int]) -> NDArray[np.intp]:
    """Places of some rows by their values, from 1, the highest first; equal ones share theirs."""
    higher: NDArray[np.intp] = len(values) - np.searchsorted(np.sort(values), values[rows], side="right")
    return higher + 1


def choose(
    ranked: Sequence[Ranked],
    passages: Mapping[int, Passage],
    *,
    mode: RetrievalMode,
    floor: float,
    limit: int,
    verbatim_texts: Sequence[str],
    tokens: int | None = None,
) -> Chosen:
    """Choose what enters a context.

    A unit enters that is a sure hit. In CALIBRATED mode one enters, too, whose cosine reaches the floor, or which has
    enough evidence otherwise. A text that repeats one in the context, whatever its case, punctuation and the order of
    its words, is dropped and takes no place.

    Args:
        ranked: Best first.
        passages: Their texts by row; a row without one was deleted meanwhile.
        floor: Lowest cosine that may enter by itself.
        limit: Passages that enter at most.
        verbatim_texts: The messages that stand in the window, the query among them.
        tokens: What hits may cost together, but for the best, which enters whatever it costs.
    """
    longest = max((len(passage.text) for passage in passages.values()), default=0)
    # A much longer text is no repetition; splitting it into words would cost more than all the rest.
    said = _Said(text for text in verbatim_texts if len(text) <= 2 * longest)
    hits: list[Hit] = []
    dropped: list[Dropped] = []
    taken = 0
    for each in ranked:
        passage = passages.get(each.row)
        if passage is None:
            continue
        if taken == limit:
            break
        if said.repeats(passage.text):
            dropped.append(_dropped(each, passage, DropReason.NEAR_DUPLICATE))
            continue
        taken += 1
        sure = each.cosine > SURE_COSINE
        if sure:
            hits.append(_hit(each, passage, sure=True))
        elif mode is RetrievalMode.STRICT:
            dropped.append(_dropped(each, passage, DropReason.NOT_SURE))
        elif each.cosine >= floor or each.evidence >= ENOUGH_EVIDENCE:
            hits.append(_hit(each, passage, sure=False))
        else:
            dropped.append(_dropped(each, passage, DropReason.BELOW_FLOOR))
    return _within(tokens, hits, dropped)


def _within(tokens: int | None, hits: list[Hit], dropped: list[Dropped]) -> Chosen:
    """What may cost so much together: of a hit that is too long for what is left, a shorter one takes the place."""
    kept: list[Hit] = []
    spent = 0
    for hit in hits:
        if tokens is None or not kept or spent + hit.tokens <= tokens:
            kept.append(hit)
            spent += hit.tokens
        else:
            dropped.append(Dropped(hit.message_id, DropReason.BUDGET, hit.tokens, hit.citation))
    return Chosen(tuple(kept), tuple(dropped))


def _words(text: str) -> tuple[str, ...]:
    # A text without words, such as an emoji, is itself.
    return tuple(_WORDS.findall(text.casefold())) or (text.strip(),)


class _Said:
    """Texts that stand in a context: some word for word, and the passages that have entered."""

    def __init__(self, verbatim: Iterable[str]) -> None:
        self._words = {_words(text) for text in verbatim}
        self._passages: dict[frozenset[str], list[str]] = {}

    def repeats(self, passage: str) -> bool:
        """Whether a passage repeats one of them; if not, it enters.

        Passages of the same terms say the same, whatever the order of their words and those that tell nothing, unless
        one of them denies more, or the terms are few.
        """
        words = _words(passage)
        if words in self._words:
            return True
        content = frozenset(terms(passage))
        if len(content) >= _FEWEST_TERMS:
            others = self._passages.setdefault(content, [])
            if others and _negations(passage) in map(_negations, others):
                return True
            others.append(passage)
        self._words.add(words)
        return False


def _negations(text: str) -> int:
    return len(_NEGATION.findall(text))


def _hit(ranked: Ranked, passage: Passage, *, sure: bool) -> Hit:
    said = passage.citation is None
    return Hit(
        message_id=passage.unit if said else None,
        conversation_id=passage.container if said else None,
        role=passage.role,
        text=passage.text,
        created_at=passage.created_at,
        cosine=ranked.cosine,
        rank=ranked.rank,
        sure=sure,
        tokens=passage_cost(passage.text, passage.citation),
        score=ranked.score,
        lexical_score=ranked.lexical,
        dense_rank=ranked.dense_rank,
        lexical_rank=ranked.lexical_rank,
        neighbour_score=ranked.neighbours,
        citation=passage.citation,
    )


def _dropped(ranked: Ranked, passage: Passage, reason: DropReason) -> Dropped:
    said = passage.citation is None
    cost = passage_cost(passage.text, passage.citation)
    return Dropped(passage.unit if said else None, reason, cost, passage.citation)
