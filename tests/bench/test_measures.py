from __future__ import annotations

import math

from bench.replay.dataset import Question
from bench.replay.measures import Asked, mean
from bench.table import percentile


def asked(
    evidence: set[str], retrieved: tuple[str | None, ...] = (), window: set[str] | None = None, delivered: str = ""
) -> Asked:
    return Asked(
        question=Question("?", 4, frozenset(evidence), ()),
        retrieved=retrieved,
        below_floor=0,
        over_budget=0,
        window=frozenset(window or ()),
        delivered=frozenset(delivered.split()),
        tokens=0,
        assembly_micros=0,
        embedding_micros=0,
        search_micros=0,
    )


def test_recall_counts_every_message_retrieved_replies_included() -> None:
    one = asked({"D1:1", "D1:2"}, ("D1:9", None, "D1:2", "D1:1"))
    assert [one.recall(depth) for depth in (2, 3, 4, 50)] == [0, 0.5, 1, 1]


def test_what_the_window_holds_is_no_recall() -> None:
    one = asked({"D1:1", "D1:2"}, ("D1:1",), window={"D1:2"})
    assert (one.recall(5), one.in_window()) == (0.5, 0.5)


def test_a_context_holds_what_is_verbatim_and_what_is_delivered() -> None:
    one = asked({"D1:1", "D1:2", "D1:3", "D1:4"}, ("D1:4",), window={"D1:1"}, delivered="D1:1 D1:2")
    assert one.in_context() == 0.5


def test_questions_weigh_alike_whatever_evidence_they_have() -> None:
    assert mean([asked({"D1:1"}, ("D1:1",)), asked({"D1:2", "D1:3"}, ())], lambda each: each.recall(5)) == 0.5
    assert math.isnan(mean([], Asked.in_window))


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile(range(1, 11), share) for share in (0, 0.5, 0.95, 1)] == [1, 5, 10, 10]
    assert math.isnan(percentile([], 0.5))
