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

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

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
        evidence: The sum of the evidence.
        total: The sum of the evidence and the preferences.
    """

    meaning: Floats
    words: Floats
    neighbours: Floats
    speaker: Floats
    time: Floats
    length: Floats
    asking: Floats
    lexical: Floats
    evidence: Floats
    total: Floats


def fuse(pool: Pool, terms: Sequence[str], spans: Sequence[Span], floor: float, weights: Weights = WEIGHTS) -> Scores:
    """Score all units of a pool.

    Args:
        terms: Of the query, as they were searched for.
        spans: Times that the query names.
        floor: The cosine up to which the embedding model's nearness tells nothing.
    """
    mean_length = max(pool.mean_length, 1.0)
    relative = pool.length / mean_length
    lexical, lexical_std = _bm25(pool, terms, relative)
    meaning = weights.meaning * np.maximum(pool.cosine - floor, 0.0) / _dense_std(pool)
    words = weights.words * lexical / lexical_std
    own = meaning + words
    neighbours = _neighbours(pool, own, weights)
    time = weights.time * _within(pool.created, spans)
    evidence = own + neighbours + time
    speaker = weights.speaker * _holds(pool, [number for number, each in enumerate(terms) if each.endswith(SPEAKER)])
    # A text without terms counts as if it had one.
    length = weights.length * np.minimum(np.maximum(np.log(np.maximum(relative, 1.0 / mean_length)), -1.0), 1.0)
    asking = weights.asking * _holds(pool, [number for number, each in enumerate(terms) if each == ASKS])
    return Scores(
        meaning=meaning,
        words=words,
        neighbours=neighbours,
        speaker=speaker,
        time=time,
        length=length,
        asking=asking,
        lexical=lexical,
        evidence=evidence,
        total=evidence + speaker + length + asking,
    )


def _dense_std(pool: Pool) -> float:
    """Of few texts the deviation is drawn towards the usual one: that of a single text is 0."""
    variance = (pool.population * pool.dense_std**2 + _FEW * USUAL_STD**2) / (pool.population + _FEW)
    return math.sqrt(variance)


def _bm25(pool: Pool, terms: Sequence[str], relative: Floats) -> tuple[Floats, float]:
    """BM25 of each unit, and the standard deviation that it has over all units, found or not.

    The deviation follows from how many units hold each word, taking words as independent: so it is the same however
    few of the units were found.

    Args:
        relative: Length of each unit in means.
    """
    weights: list[float] = []
    variance = 0.0
    for term, holding in zip(terms, pool.document_frequency.tolist(), strict=True):
        held = min(holding, pool.population)
        # The marks are no words.
        idf = 0.0 if term.endswith((SPEAKER, ASKS)) else math.log1p((pool.population - held + 0.5) / (held + 0.5))
        weights.append(idf**IDF_POWER)
        share = (held + 0.5) / (pool.population + 1.0)
        variance += share * (1.0 - share) * weights[-1] ** 2
    # Long texts hold a word by chance.
    chance = SATURATION * (1.0 - LENGTH_NORM + LENGTH_NORM * relative)
    frequency = pool.match_frequency.astype(np.float64)
    saturated = frequency * (SATURATION + 1.0) / (frequency + chance[pool.match_row])
    scores = np.bincount(pool.match_row, np.array(weights)[pool.match_term] * saturated, len(pool)).astype(np.float64)
    return scores, max(math.sqrt(variance), LEAST_WORDS_STD)


def _neighbours(pool: Pool, evidence: Floats, weights: Weights) -> Floats:
    """What comes to each unit from those beside it in its conversation or document."""
    furthest = max(len(weights.before), len(weights.after))
    before, after = _by_distance(weights.before, furthest), _by_distance(weights.after, furthest)
    halves = pool.container.view(np.uint64)
    high, low = halves[::2], halves[1::2]
    order = np.lexsort((pool.place, low, high))
    high, low, place, own = high[order], low[order], pool.place[order], evidence[order]
    received = np.zeros(len(pool))
    # Of the units that follow one in this order, as many as `furthest` may lie near enough.
    for gap in range(1, furthest + 1):
        distance = np.minimum(place[gap:] - place[:-gap], furthest + 1)
        distance[(low[gap:] != low[:-gap]) | (high[gap:] != high[:-gap])] = 0
        received[gap:] += before[distance] * own[:-gap]
        received[:-gap] += after[distance] * own[gap:]
    spread = np.empty(len(pool))
    spread[order] = received
    return spread


@cache
def _by_distance(passed_on: tuple[float, ...], furthest: int) -> Floats:
    """What is passed on from 0 to `furthest` + 1 places away: nothing at either end."""
    return np.array((0.0, *passed_on, *[0.0] * (furthest + 1 - len(passed_on))))


def _holds(pool: Pool, terms: Sequence[int]) -> Floats:
    """1 for units that hold any of the terms, given by their indexes."""
    held = np.zeros(len(pool))
    for term in terms:
        held[pool.match_row[pool.match_term == term]] = 1.0
    return held


def _within(created: Floats, spans: Sequence[Span]) -> Floats:
    inside = np.zeros(len(created))
    for start, end in spans:
        inside[(created >= start) & (created < end)] = 1.0
    return inside
