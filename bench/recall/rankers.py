"""The ways to rank that are compared: the server's policy, what it is without its ingredients, and plain BM25."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.recall.dataset import Question
from bench.recall.offline import Index
from chatrpc.context.retrieval.choose import Ranked, choose, shortlist
from chatrpc.context.retrieval.fusion import WEIGHTS, Weights, fuse
from chatrpc.context.retrieval.lexicon import ASKS, SPEAKER, query_terms
from chatrpc.context.retrieval.moments import spans
from chatrpc.db.search import Passage, Pool
from chatrpc.domain import RetrievalMode

DEEPEST = 50

_NONE = Weights(meaning=0, words=0, before=(), after=(), speaker=0, time=0, length=0, asking=0)
_FUSED = replace(_NONE, meaning=WEIGHTS.meaning, words=WEIGHTS.words)
_NEAR = replace(_FUSED, before=WEIGHTS.before, after=WEIGHTS.after)
_SPEAKER = replace(_NEAR, speaker=WEIGHTS.speaker)
_TIME = replace(_SPEAKER, time=WEIGHTS.time)
_LENGTH = replace(_TIME, length=WEIGHTS.length)

POLICY = "chatrpc"


@dataclass(frozen=True, slots=True)
class Search:
    """A question's search: what it found, and where the rows stand for."""

    index: Index
    question: Question
    terms: tuple[str, ...]
    pool: Pool
    floor: float

    def by(self, weights: Weights) -> list[int]:
        """Rows by their fused score, of equals the newest first."""
        scores = fuse(self.pool, self.terms, spans(self.question.text, self.question.asked_at), self.floor, weights)
        return _best(scores.total, self.pool)

    def by_policy(self) -> list[int]:
        """Rows that the server would give to a context that takes so many."""
        ranked = self.shortlist()
        return delivered(ranked, {each.row: self.index.passage(each.row) for each in ranked}, self.question, self.floor)

    def shortlist(self) -> list[Ranked]:
        return shortlisted(self.pool, self.terms, self.question, self.floor)


def search(
    index: Index, question: Question, vector: np.ndarray[tuple[int], np.dtype[np.float32]], floor: float
) -> Search:
    asked = query_terms(question.text)
    return Search(index, question, asked, index.pool(asked, vector), floor)


def shortlisted(pool: Pool, terms: Sequence[str], question: Question, floor: float) -> list[Ranked]:
    scores = fuse(pool, terms, spans(question.text, question.asked_at), floor)
    return shortlist(pool, scores, mode=RetrievalMode.CALIBRATED, limit=DEEPEST, verbatim_ids=())


def delivered(ranked: Sequence[Ranked], passages: dict[int, Passage], question: Question, floor: float) -> list[int]:
    """Rows of what the policy chooses; a message's id is the number of its row."""
    chosen = choose(
        ranked,
        passages,
        mode=RetrievalMode.CALIBRATED,
        floor=floor,
        limit=DEEPEST,
        verbatim_texts=[question.text],
    )
    return [hit.message_id.int for hit in chosen.hits if hit.message_id is not None]


def bm25(each: Search) -> list[int]:
    """BM25 as it is usually set (k1 1.2, b 0.75), over the same terms without the marks."""
    pool = each.pool
    words = np.array([not term.endswith((SPEAKER, ASKS)) for term in each.terms])
    held = pool.document_frequency
    idf = np.log1p((pool.population - held + 0.5) / (held + 0.5)) * words
    relative = pool.length[pool.match_row] / pool.mean_length
    saturated = pool.match_frequency * 2.2 / (pool.match_frequency + 1.2 * (0.25 + 0.75 * relative))
    scores = np.zeros(len(pool))
    np.add.at(scores, pool.match_row, idf[pool.match_term] * saturated)
    return _best(scores, pool)


def _best(scores: np.ndarray[tuple[int], np.dtype[np.float64]], pool: Pool) -> list[int]:
    rows: list[int] = np.lexsort((-pool.created, -scores))[:DEEPEST].tolist()
    return rows


RANKERS: dict[str, Callable[[Search], list[int]]] = {
    "BM25": bm25,
    "dense": lambda each: _best(each.pool.cosine.astype(np.float64), each.pool),
    "lexical": lambda each: each.by(replace(_NONE, words=1.0)),
    "fused": lambda each: each.by(_FUSED),
    "+ neighbours": lambda each: each.by(_NEAR),
    "+ speaker": lambda each: each.by(_SPEAKER),
    "+ time": lambda each: each.by(_TIME),
    "+ length": lambda each: each.by(_LENGTH),
    "+ asking": lambda each: each.by(WEIGHTS),
    POLICY: Search.by_policy,
}
"""Beside BM25: each score alone, then ingredient upon ingredient, then what is delivered: without repetitions and what
lies below the floor."""

WITHOUT: dict[str, Callable[[Search], list[int]]] = {
    "without meaning": lambda each: each.by(replace(WEIGHTS, meaning=0)),
    "without words": lambda each: each.by(replace(WEIGHTS, words=0)),
    "without neighbours": lambda each: each.by(replace(WEIGHTS, before=(), after=())),
    "without speaker": lambda each: each.by(replace(WEIGHTS, speaker=0)),
    "without time": lambda each: each.by(replace(WEIGHTS, time=0)),
    "without length": lambda each: each.by(replace(WEIGHTS, length=0)),
    "without asking": lambda each: each.by(replace(WEIGHTS, asking=0)),
}
"""The whole ranking but for one ingredient."""
