"""The score of each unit that a search found: evidence that it bears on the query, and reasons to prefer it.

Two kinds of evidence, nearness in meaning (cosines) and words in common (BM25), are each measured in standard
deviations, summed, and spread to the units beside; that it is from a time that the query names is evidence of its own.
Preferences only order what the evidence has found.

Every number here is a round one, chosen on five conversations of LoCoMo and reported on the five others. What each
ingredient is worth there, as recall of the evidence at 5/10/25/50 in percent with all of them and without one
(`python -m bench.recall --without`):

    all                 74.1  81.4  87.9  91.8
    without meaning     71.1  78.3  85.3  90.2
    without words       59.0  68.1  79.1  86.6
    without neighbours  66.0  74.3  83.8  87.9
    without speaker     70.7  79.3  86.1  91.3
    without time        71.6  78.8  86.4  91.1
    without length      72.1  81.1  87.5  91.4
    without asking      73.2  81.3  87.7  91.6

Tried there and worth nothing: a second vector of each turn with the one before it, feedback from the best hits in
embedding space (Rocchio), diversity among the hits (MMR), other wordings of the question to embed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatrpc.context.retrieval.lexicon import ASKS, SPEAKER
from chatrpc.context.retrieval.moments import Span
from chatrpc.db.search import Pool

Floats = NDArray[np.float64]

SATURATION = 0.9
LENGTH_NORM = 0.4
"""BM25's k1 and b, as usual for short texts: how often a turn repeats a word tells little."""
IDF_POWER = 1.5
"""Words weigh by this power of their IDF: a question's rare word points to the one turn that holds it. The IDF itself
finds 0.3 to 0.5 points less."""
USUAL_STD = 0.1
"""Standard deviation of the cosines of one query to many texts, for users who have too few texts to tell."""
_FEW = 10.0
LEAST_WORDS_STD = 1.0
"""Standard deviation of BM25 that a question has at least. Of words that most texts hold it is near zero, and holding
them would seem telling. Of 760 questions of LoCoMo, one in thirty falls below it."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What each ingredient counts; zero leaves it out.

    Attributes:
        meaning: A standard deviation of the cosines above the model's floor. Below the floor they tell nothing.
        words: A standard deviation of BM25.
        before, after: Share of its evidence that a unit passes on to those that follow, and to those that precede, by
            distance. Answers follow their questions, so more is passed on forwards.
        speaker: Said by one whom the query names.
        time: From a time that the query names.
        length: A unit e times as long as the mean, and no more for longer ones: long ones tell more.
        asking: Ends with a question: it tells less.
    """

    meaning: float = 1.0
    words: float = 0.4
    before: tuple[float, ...] = (0.5, 0.3)
    after: tuple[float, ...] = (0.4, 0.2)
    speaker: float = 2.0
    time: float = 3.0
    length: float = 0.5
    asking: float = -0.5


WEIGHTS = Weights()


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of the units of a pool, as parallel arrays to its own.

    Attributes:
        meaning, words, neighbours, time: The evidence: of the unit itself, of those beside it, and of when it was said.
        speaker, length, asking: The preferences.
        lexical: BM25 of the query's words.
    """

    meaning: Floats
    words: Floats
    neighbours: Floats
    speaker: Floats
    time: Floats
    length: Floats
    asking: Floats
    lexical: Floats

    @property
    def evidence(self) -> Floats:
        return self.meaning + self.words + self.neighbours + self.time

    @property
    def total(self) -> Floats:
        return self.evidence + self.speaker + self.length + self.asking


def fuse(pool: Pool, terms: Sequence[str], spans: Sequence[Span], floor: float, weights: Weights = WEIGHTS) -> Scores:
    """Score all units of a pool.

    Args:
        terms: Of the query, as they were searched for.
        spans: Times that the query names.
        floor: The cosine up to which the embedding model's nearness tells nothing.
    """
    lexical, lexical_std = _bm25(pool, terms)
    meaning = weights.meaning * np.maximum(pool.cosine - floor, 0.0) / _dense_std(pool)
    words = weights.words * lexical / lexical_std
    return Scores(
        meaning=meaning,
        words=words,
        neighbours=_neighbours(pool, meaning + words, weights),
        speaker=weights.speaker * _holds(pool, [each.endswith(SPEAKER) for each in terms]),
        time=weights.time * _within(pool.created, spans),
        length=weights.length * np.clip(np.log(np.maximum(pool.length, 1) / max(pool.mean_length, 1.0)), -1.0, 1.0),
        asking=weights.asking * _holds(pool, [each == ASKS for each in terms]),
        lexical=lexical,
    )


def _dense_std(pool: Pool) -> float:
    """Of few texts the deviation is drawn towards the usual one: that of a single text is 0."""
    variance = (pool.population * pool.dense_std**2 + _FEW * USUAL_STD**2) / (pool.population + _FEW)
    return float(np.sqrt(variance))


def _bm25(pool: Pool, terms: Sequence[str]) -> tuple[Floats, float]:
    """BM25 of each unit, and the standard deviation that it has over all units, found or not.

    The deviation follows from how many units hold each word, taking words as independent: so it is the same however
    few of the units were found.
    """
    # The marks are no words.
    is_word = np.array([not each.endswith((SPEAKER, ASKS)) for each in terms], np.bool_)
    held = np.minimum(pool.document_frequency, pool.population)
    idf = np.log1p((pool.population - held + 0.5) / (held + 0.5)) ** IDF_POWER * is_word
    share = (held + 0.5) / (pool.population + 1.0)
    std = float(np.sqrt(np.sum(share * (1.0 - share) * idf**2)))
    relative = pool.length[pool.match_row] / max(pool.mean_length, 1.0)
    frequency = pool.match_frequency.astype(np.float64)
    saturated = frequency * (SATURATION + 1.0)
    saturated /= frequency + SATURATION * (1.0 - LENGTH_NORM + LENGTH_NORM * relative)
    scores = np.zeros(len(pool))
    np.add.at(scores, pool.match_row, idf[pool.match_term] * saturated)
    return scores, max(std, LEAST_WORDS_STD)


def _neighbours(pool: Pool, evidence: Floats, weights: Weights) -> Floats:
    """What comes to each unit from those beside it in its conversation or document."""
    received = np.zeros(len(pool))
    place = (pool.container.astype(np.int64) << 32) + pool.place
    order = np.argsort(place, kind="stable")
    ordered = place[order]
    for passed_on, direction in ((weights.before, -1), (weights.after, 1)):
        for distance, share in enumerate(passed_on, 1):
            sought = ordered + direction * distance
            index = np.minimum(np.searchsorted(ordered, sought), len(pool) - 1)
            there = ordered[index] == sought
            here, beside = order[there], order[index[there]]
            received[here] += share * evidence[beside]
    return received


def _holds(pool: Pool, chosen: Sequence[bool]) -> Floats:
    """1 for units that hold any of the chosen terms."""
    held = np.zeros(len(pool))
    held[pool.match_row[np.array(chosen, np.bool_)[pool.match_term]]] = 1.0
    return held


def _within(created: Floats, spans: Sequence[Span]) -> Floats:
    inside = np.zeros(len(created), np.bool_)
    for start, end in spans:
        inside |= (created >= start) & (created < end)
    return inside.astype(np.float64)
