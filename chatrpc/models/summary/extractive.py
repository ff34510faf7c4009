"""Summaries without a language model: facts by their patterns, and the sentences that matter most, word for word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chatrpc.domain import Fact, Message, Role
from chatrpc.errors import SummaryRefused
from chatrpc.models.sentences import split_sentences
from chatrpc.models.summary.patterns import find_facts
from chatrpc.models.summary.salience import salience
from chatrpc.models.words import words
from chatrpc.ports import FactChange, Folding
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
_SIMILAR, _DUPLICATE = 0.5, 0.85
# Bounds of the work, for messages that are whole documents: what is read of each, and how many sentences of all are
# compared with each other.
_READ_TOKENS = 2_000
_MOST_CANDIDATES = 128
_LONGEST_SENTENCE = 0.25
"""Share of the summary that one sentence may take; the rest of it is cut off."""


class ExtractiveSummarizer:
    """Keeps whole sentences, one a line as `speaker: sentence`, in the order in which they were said.

    What the patterns know is a fact; of the rest the narrative is made. Ranking is by salience (see
    `chatrpc.models.summary.salience`) and by centrality, the mean similarity of words to all other candidates, as in
    LexRank's degree centrality (Erkan and Radev, 2004, section 3.2); the choice is by maximal marginal relevance
    (Carbonell and Goldstein, 1998), so that what is said five times is kept once. It does no I/O, takes a few
    milliseconds, and the same input gives the same summary.
    """

    @property
    def name(self) -> str:
        return "chatrpc-extractive"

    @property
    def batch_tokens(self) -> int:
        return 10 * _READ_TOKENS

    async def fold(
        self, narrative: str, facts: Sequence[Fact], messages: Sequence[Message], max_tokens: int
    ) -> Folding:
        spoken = [
            (message, sentence)
            for message in messages
            for sentence in split_sentences(cut_to_tokens(message.text, _READ_TOKENS))
        ]
        if not spoken and not narrative:
            raise SummaryRefused("There is nothing to fold: the messages hold no text.")
        changes = find_facts(facts, [each for each in spoken if each[0].role is Role.USER])
        taken = {sentence for _, sentence in changes}
        longest = max(1, int(max_tokens * _LONGEST_SENTENCE))
        rest = [
            cut_to_tokens(f"{message.role.value}: {sentence}", longest)
            for message, sentence in spoken
            if message.role is not Role.USER or sentence not in taken
        ]
        old = {cut_to_tokens(line, longest): None for line in narrative.splitlines() if line.strip()}
        return Folding(_told(list(old), rest, max_tokens) or _NOTHING_ELSE, tuple(change for change, _ in changes))

    async def merge(self, facts: Sequence[Fact], max_tokens: int) -> tuple[FactChange, ...]:
        """It cannot say the same in fewer words."""
        return ()


_NOTHING_ELSE = "(Nothing else was said.)"


def _told(old: Sequence[str], new: Sequence[str], max_tokens: int) -> str:
    """The narrative: the best of the old lines and the new ones, in their order."""
    best = sorted(range(len(new)), key=lambda index: -salience(new[index]))[:_MOST_CANDIDATES]
    lines = list(
        dict.fromkeys([*(line for line in old if line != _NOTHING_ELSE), *(new[each] for each in sorted(best))])
    )
    if not lines:
        return ""
    vectors = _vectors(lines)
    costs = np.array([estimate_tokens(line + "\n") for line in lines])
    scores = _scores(lines, vectors, costs, len(old))
    return "\n".join(lines[index] for index in _choose(scores, vectors, costs, max_tokens))


def _vectors(lines: Sequence[str]) -> NDArray[np.float64]:
    """Each line's words weighted by their rarity among the lines, as rows of length 1, or 0 where there are none."""
    bags = [words(line) for line in lines]
    counts = Counter(word for bag in bags for word in bag)
    places = {word: place for place, word in enumerate(sorted(counts))}
    vectors = np.zeros((len(lines), max(len(places), 1)))
    for row, bag in enumerate(bags):
        for word in bag:
            vectors[row, places[word]] = 1.0 + np.log(len(lines) / counts[word])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float64] = vectors / np.where(lengths > 0, lengths, 1.0)
    return unit


def _scores(
    lines: Sequence[str], vectors: NDArray[np.float64], costs: NDArray[np.int_], incumbents: int
) -> NDArray[np.float64]:
    """Worth of each line; the first `incumbents` of them are the old narrative's."""
    # Each line's similarities to all, summed: by the sum of all vectors, without a matrix of each pair's.
    centrality = (vectors @ vectors.sum(axis=0) - 1.0).clip(0.0) / max(len(lines) - 1, 1)
    scores = np.array([salience(line) for line in lines]) - _COST_PER_TOKEN * costs
    scores += _CENTRALITY_WEIGHT * centrality / max(float(centrality.max()), 1e-9)
    scores[:incumbents] += _INCUMBENT_BONUS
    # The last bits of a matrix product vary with the machine and must decide nothing.
    rounded: NDArray[np.float64] = np.round(scores, 4)
    return rounded


def _choose(
    scores: NDArray[np.float64], vectors: NDArray[np.float64], costs: NDArray[np.int_], max_tokens: int
) -> list[int]:
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
