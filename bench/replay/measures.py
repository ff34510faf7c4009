"""What is measured of one question, and how questions are summed up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.replay.dataset import Question

DEPTHS = (5, 10, 25, 50)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the context of one question was built from.

    Attributes:
        retrieved: What a search for many passages found, best first: ids of turns, None for other messages.
        below_floor, over_budget: Passages that the search found and the context left out, and why.
        window: Turns that stood verbatim in the window.
        delivered: Turns that a context of the server's own size retrieved.
        tokens: Size of that context, as the budget counts it.
        assembly_micros, embedding_micros: Of that context, as its report says.
        search_micros: Assembly of the large one.
    """

    question: Question
    retrieved: tuple[str | None, ...]
    below_floor: int
    over_budget: int
    window: frozenset[str]
    delivered: frozenset[str]
    tokens: int
    assembly_micros: int
    embedding_micros: int
    search_micros: int

    def recall(self, depth: int) -> float:
        """Share of the evidence among the first `depth` messages retrieved, whatever these are."""
        return self._share(frozenset(each for each in self.retrieved[:depth] if each is not None))

    def in_window(self) -> float:
        """Share of the evidence that the window held, which retrieval never repeats."""
        return self._share(self.window)

    def in_context(self) -> float:
        """Share of the evidence in a context of the server's own size, verbatim or retrieved."""
        return self._share(self.window | self.delivered)

    def _share(self, turns: frozenset[str]) -> float:
        return len(self.question.evidence & turns) / len(self.question.evidence)


def mean(asked: Sequence[Asked], measure: Callable[[Asked], float]) -> float:
    """Average over questions, as LoCoMo takes it; NaN where there are none."""
    return sum(map(measure, asked)) / len(asked) if asked else float("nan")
