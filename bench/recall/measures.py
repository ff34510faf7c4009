"""Recall of the evidence, by question and summed up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.recall.dataset import ADVERSARIAL, Question

DEPTHS = (5, 10, 25, 50)
OVERALL = "all"
WITH_ADVERSARIAL = "all, adversarial too"

PAPER = (56.7, 66.2, 76.7, 82.7)
"""The best of the LoCoMo paper's Table 3: DRAGON over turns, all ten conversations, at `DEPTHS`."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a ranking delivered for a question.

    Attributes:
        ids: Of the messages, best first.
        tokens: Of the first so many of them, at `DEPTHS`.
    """

    question: Question
    ids: tuple[str, ...]
    tokens: tuple[int, ...]

    def recall(self, depth: int) -> float:
        return len(self.question.evidence.intersection(self.ids[:depth])) / len(self.question.evidence)


@dataclass(frozen=True, slots=True)
class Row:
    """A group of questions: how many, recall in percent at `DEPTHS`, and mean tokens there."""

    questions: int
    recall: tuple[float, ...]
    tokens: tuple[float, ...]


def groups(found: Sequence[Found]) -> dict[str, Row]:
    """By category, then of all but the adversarial questions, then, where there are such, of all."""
    categories = dict.fromkeys(sorted(each.question.category for each in found))
    rows = {name: _row(each for each in found if each.question.category == name) for name in categories}
    rows[OVERALL] = _row(each for each in found if each.question.category != ADVERSARIAL)
    if ADVERSARIAL in categories:
        rows[WITH_ADVERSARIAL] = _row(found)
    return rows


def _row(found: Iterable[Found]) -> Row:
    these = list(found)
    count = max(1, len(these))
    return Row(
        len(these),
        tuple(100 * sum(each.recall(depth) for each in these) / count for depth in DEPTHS),
        tuple(sum(each.tokens[place] for each in these) / count for place in range(len(DEPTHS))),
    )
