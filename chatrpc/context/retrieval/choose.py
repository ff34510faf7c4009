"""Which of the units that a search found enter a context, and how each is accounted for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from chatrpc.context.prompt import passage_cost
from chatrpc.context.retrieval.fusion import Scores
from chatrpc.context.retrieval.lexicon import initials, terms
from chatrpc.db.search import Passage, Pool
from chatrpc.domain import Dropped, DropReason, Hit, RetrievalMode
from chatrpc.models.words import all_words

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

_NEGATION = re.compile(r"\b(?:no|not|nor)\b|n['\u2019]t\b", re.IGNORECASE)


class Ranked(NamedTuple):
    """A unit with its place among all that were found, and what it has it from.

    Attributes:
        row: In the pool.
        evidence: The part of the score that admits it.
        rank, dense_rank, lexical_rank: By the score, by the cosine, by BM25; from 1. The last is 0 where it has none of
            the query's words.
        neighbours: The part of the evidence that comes from the units beside it.
    """

    row: int
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
    wanted = limit * _PER_HIT
    key = pool.cosine if mode is RetrievalMode.STRICT else scores.total
    # Most of a large pool are never looked at, unless all the best are copies.
    for count in (2 * wanted, len(pool)):
        order = _best(pool, key, count)
        found = _without_copies(pool, order, wanted, verbatim_ids, verbatim_places)
        if len(found) == wanted or len(order) == len(pool):
            break
    rows = np.array(found, np.intp)
    ranking = _best(pool, scores.total, len(pool)) if mode is RetrievalMode.STRICT else order
    places = np.empty(len(pool), np.intp)
    places[ranking] = np.arange(1, len(ranking) + 1)
    lexical = scores.lexical[rows]
    numbers = (
        rows, pool.cosine[rows], scores.total[rows], scores.evidence[rows], lexical, scores.neighbours[rows],
        places[rows], _ranks(pool.cosine, rows), _ranks(scores.lexical, rows) * (lexical != 0),
    )  # fmt: skip
    return list(map(Ranked, *(each.tolist() for each in numbers)))


def _best(pool: Pool, key: NDArray[Any], count: int) -> NDArray[np.intp]:
    """The first rows by a key, best first; of equals the nearest, of those the newest."""
    order: NDArray[np.intp] = (-key).argsort()
    best = key[order[: count + 1]]
    if (best[1:] == best[:-1]).any():
        # A cosine just at the floor scores as little as those below, and must not lose its place to them.
        order = np.lexsort((-pool.created, -pool.cosine, -key))
    return order[:count]


def _without_copies(
    pool: Pool,
    order: NDArray[np.intp],
    wanted: int,
    verbatim_ids: Collection[UUID],
    verbatim_places: Collection[tuple[float, int]],
) -> list[int]:
    """The first rows in an order, but for copies and for what stands in the window."""
    verbatim = {each.bytes for each in verbatim_ids}
    rows: list[int] = []
    seen: dict[tuple[float, int], list[int]] = {}
    columns = (order, pool.unit[order], pool.created[order], pool.place[order])
    for row, unit, created, place in zip(*(each.tolist() for each in columns), strict=True):
        if len(rows) == wanted:
            break
        if (created, place) in verbatim_places:
            continue
        others = seen.setdefault((created, place), [])
        if others and any(_is_copy(pool, row, other) for other in others):
            continue
        others.append(row)
        if unit not in verbatim:
            rows.append(row)
    return rows


def _is_copy(pool: Pool, row: int, other: int) -> bool:
    """Whether a unit of the same moment and depth as another says the same elsewhere."""
    alike = pool.cosine[row] == pool.cosine[other] and pool.length[row] == pool.length[other]
    return bool(alike) and bool(pool.container[row] != pool.container[other])


def _ranks(values: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Places of some rows by their values, from 1, the highest first; equal ones share theirs."""
    higher: NDArray[np.intp] = len(values) - np.sort(values).searchsorted(values[rows], side="right")
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


def _wording(text: str) -> str:
    """The words of a text, whatever its case and punctuation."""
    # A text without words, such as an emoji, is itself.
    return " ".join(all_words(text)) or text.strip()


class _Said:
    """Texts that stand in a context: some word for word, and the passages that have entered."""

    def __init__(self, verbatim: Iterable[str]) -> None:
        self._wordings = {_wording(text) for text in verbatim}
        self._passages: dict[frozenset[str], list[str]] = {}

    def repeats(self, passage: str) -> bool:
        """Whether a passage repeats one of them; if not, it enters.

        Passages of the same terms say the same, whatever the order of their words and those that tell nothing, unless
        one of them denies more, or the terms are few.
        """
        wording = _wording(passage)
        if wording in self._wordings:
            return True
        others = self._passages.setdefault(initials(passage), [])
        if any(_say_the_same(passage, other) for other in others):
            return True
        others.append(passage)
        self._wordings.add(wording)
        return False


def _say_the_same(one: str, other: str) -> bool:
    content = terms(one).keys()
    return len(content) >= _FEWEST_TERMS and content == terms(other).keys() and _negations(one) == _negations(other)


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
