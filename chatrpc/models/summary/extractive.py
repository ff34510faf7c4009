"""Summaries without a language model: the sentences that matter most, in the words in which they were said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chatrpc.domain import Message
from chatrpc.errors import SummaryRefused
from chatrpc.models.sentences import split_sentences
from chatrpc.models.summary.salience import salience
from chatrpc.ports import Embedder, Vectors
from chatrpc.tokens import cut_to_tokens, estimate_tokens

# How near to the rest of the text a sentence is (0 to 1) counts this much beside its salience. It is little, because
# what is worth remembering is seldom what most of a conversation is about.
_CENTRALITY_WEIGHT = 0.15
# What a sentence that is in the summary already has over a new one: without it, each fold would exchange sentences
# of nearly equal worth, and after some dozens of folds nothing old would be left.
_INCUMBENT_BONUS = 0.6
# A sentence loses this much for each token, since in its place several short ones could stand.
_COST_PER_TOKEN = 0.03
# Similarity to a chosen sentence begins to count against a candidate here, and bars it there.
_SIMILAR, _DUPLICATE = 0.6, 0.92
# Bounds of the work, for messages that are whole documents: what is read of each, and how many sentences of all are
# embedded, at a few milliseconds each.
_READ_TOKENS = 2_000
_MOST_CANDIDATES = 128
_LONGEST_SENTENCE = 0.25
"""Share of the summary that one sentence may take; the rest of it is cut off."""


class ExtractiveSummarizer:
    """Keeps whole sentences, one a line as `speaker: sentence`, in the order in which they were said.

    Ranking is by salience (see `chatrpc.models.summary.salience`) and by centrality, the mean cosine to all other
    candidates, as LexRank's degree centrality (Erkan and Radev, 2004, section 3.2); the choice is by maximal marginal
    relevance (Carbonell and Goldstein, 1998), so that one fact said five times is kept once. The same input gives
    the same summary.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def name(self) -> str:
        return "chatrpc-extractive"

    async def fold(self, previous: str | None, messages: Sequence[Message], max_tokens: int) -> str:
        longest = max(1, int(max_tokens * _LONGEST_SENTENCE))
        old = {cut_to_tokens(line, longest): None for line in (previous or "").splitlines() if line.strip()}
        lines = list(old | dict.fromkeys(_candidates(messages, longest)))
        if not lines:
            raise SummaryRefused("There is nothing to fold: the messages hold no text.")
        vectors = await self._embedder.embed(lines)
        costs = np.array([estimate_tokens(line + "\n") for line in lines])
        scores = _scores(lines, vectors, costs, len(old))
        chosen = _choose(scores, vectors, costs, max_tokens)
        return "\n".join(lines[index] for index in chosen)


def _candidates(messages: Sequence[Message], longest: int) -> list[str]:
    """The most salient sentences of the messages in their order, with their speakers, cut to `longest` tokens."""
    lines = [
        cut_to_tokens(f"{message.role.value}: {sentence}", longest)
        for message in messages
        for sentence in split_sentences(cut_to_tokens(message.text, _READ_TOKENS))
    ]
    best = sorted(range(len(lines)), key=lambda index: -salience(lines[index]))[:_MOST_CANDIDATES]
    return [lines[index] for index in sorted(best)]


def _scores(lines: Sequence[str], vectors: Vectors, costs: NDArray[np.int_], incumbents: int) -> NDArray[np.float64]:
    """Worth of each line; the first `incumbents` of them are the old summary's."""
    similarity = np.clip(vectors @ vectors.T, 0.0, 1.0)
    centrality = (similarity.sum(axis=1) - 1.0) / max(len(lines) - 1, 1)
    scores = np.array([salience(line) for line in lines]) - _COST_PER_TOKEN * costs
    scores += _CENTRALITY_WEIGHT * centrality / max(float(centrality.max()), 1e-9)
    scores[:incumbents] += _INCUMBENT_BONUS
    # The last bits of a matrix product vary with the batch and must decide nothing.
    rounded: NDArray[np.float64] = np.round(scores, 4)
    return rounded


def _choose(scores: NDArray[np.float64], vectors: Vectors, costs: NDArray[np.int_], max_tokens: int) -> list[int]:
    """Indexes of the chosen lines in their order, together no dearer than `max_tokens`."""
    left = max_tokens
    nearest = np.zeros(len(scores))
    open_ = np.ones(len(scores), dtype=bool)
    chosen: list[int] = []
    while True:
        open_ &= (costs <= left) & (nearest < _DUPLICATE)
        if not open_.any():
            return sorted(chosen)
        penalty = np.round(np.maximum(nearest - _SIMILAR, 0.0) / (_DUPLICATE - _SIMILAR), 4)
        best = int(np.argmax(np.where(open_, scores - penalty, -np.inf)))
        chosen.append(best)
        open_[best] = False
        left -= int(costs[best])
        nearest = np.maximum(nearest, vectors @ vectors[best])
