from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatrpc.context.retrieval.choose import ENOUGH_EVIDENCE, SURE_COSINE, choose, shortlist
from chatrpc.context.retrieval.fusion import fuse
from chatrpc.context.retrieval.lexicon import query_terms
from chatrpc.domain import DropReason, RetrievalMode
from tests.context.retrieval.pools import Unit, pool

FLOOR = 0.3


def far_apart(*units: tuple[float, str]) -> list[Unit]:
    """Messages that are no neighbours."""
    return [Unit(text, cosine, place=10 * number) for number, (cosine, text) in enumerate(units, 1)]


def ranked(units, mode=RetrievalMode.CALIBRATED, limit=8, ids=(), question="", floor=FLOOR, spans=()):
    asked = query_terms(question)
    found = pool(units, asked)
    return shortlist(found, fuse(found, asked, spans, floor), mode=mode, limit=limit, verbatim_ids=set(ids))


def chosen(units, mode=RetrievalMode.CALIBRATED, limit=8, ids=(), texts=(), question="", floor=FLOOR, spans=()):
    best = ranked(units, mode, limit, ids, question, floor, spans)
    passages = {each.row: units[each.row].passage for each in best}
    return choose(best, passages, mode=mode, floor=floor, limit=limit, verbatim_texts=texts)


def test_calibrated_admits_from_the_floor_up_and_tells_which_are_sure():
    result = chosen(far_apart((0.71, "apples"), (0.7, "pears"), (0.3, "plums"), (0.29, "cherries")), floor=0.29999)
    assert [(hit.text, hit.sure, hit.rank) for hit in result.hits] == [
        ("apples", True, 1),
        ("pears", False, 2),
        ("plums", False, 3),
    ]
    assert [each.reason for each in result.dropped] == [DropReason.BELOW_FLOOR]


def test_hits_cost_no_more_together_than_they_may_and_a_shorter_takes_the_place_of_one_too_long():
    units = far_apart((0.9, "apples"), (0.8, "pears " * 50), (0.75, "plums"), (0.72, "cherries"))
    best = ranked(units)
    passages = {each.row: units[each.row].passage for each in best}
    kinds = {"mode": RetrievalMode.CALIBRATED, "floor": FLOOR, "limit": 8, "verbatim_texts": ()}
    whole = choose(best, passages, **kinds)
    room = whole.hits[0].tokens + whole.hits[2].tokens
    result = choose(best, passages, tokens=room, **kinds)
    assert [hit.text for hit in result.hits] == ["apples", "plums"]
    assert [each.reason for each in result.dropped] == [DropReason.BUDGET] * 2
    assert [hit.text for hit in choose(best, passages, tokens=1, **kinds).hits] == ["apples"]


def test_strict_admits_sure_hits_alone_nearest_first():
    units = far_apart((0.71, "apples"), (0.7, "pears and plums"), (0.75, "plums"), (0.2, "pears"))
    result = chosen(units, RetrievalMode.STRICT, question="pears")
    assert [hit.text for hit in result.hits] == ["plums", "apples"]
    assert [each.reason for each in result.dropped] == [DropReason.NOT_SURE, DropReason.NOT_SURE]


def test_a_sure_hit_enters_below_a_floor_that_lies_higher():
    assert [hit.sure for hit in chosen(far_apart((0.75, "apples")), floor=0.8).hits] == [True]


def test_nothing_near_enough_gives_no_hit():
    assert chosen(far_apart((0.1, "apples"))).hits == ()
    assert chosen([]).hits == ()


def test_words_in_common_admit_what_is_not_near_enough():
    units = far_apart((0.1, "The zeppelin flew over Friedrichshafen"), *((0.1, f"cat number {n}") for n in range(20)))
    [hit] = chosen(units, question="Where did the zeppelin fly?").hits
    assert (hit.text, hit.dense_rank, hit.lexical_rank) == (units[0].text, 1, 1)
    assert hit.lexical_score > 0


def test_what_stands_beside_an_answer_enters_with_it():
    units = [Unit("Which car did you buy?", 0.65, place=1), Unit("A red one", 0.1, place=2), Unit("Bye", 0.1, place=9)]
    result = chosen(units)
    assert [hit.text for hit in result.hits] == ["Which car did you buy?", "A red one"]
    assert result.hits[1].neighbour_score >= ENOUGH_EVIDENCE


def test_what_was_said_when_the_query_says_enters_whatever_it_is_about():
    units = [Unit("We painted the fence", 0.1, place=10, created=100.0), Unit("Bread", 0.1, place=20, created=900.0)]
    assert [hit.text for hit in chosen(units, question="What did I do?", spans=[(0.0, 500.0)]).hits] == [units[0].text]


def test_preferences_alone_admit_nothing():
    units = [Unit("Ann: " + "We planted roses, tulips and a pear tree. " * 3, 0.1)]
    assert ranked(units, question="Ann")[0].score > ENOUGH_EVIDENCE
    assert chosen([*units, *far_apart(*((0.1, f"Ann: {n}") for n in range(9)))], question="Ann").hits == ()


def test_of_equals_the_newest_comes_first():
    units = [Unit("apples", 0.5, place=10, created=1.0), Unit("pears!", 0.5, place=20, created=2.0)]
    assert [hit.text for hit in chosen(units).hits] == ["pears!", "apples"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("My cat is called Tom.", "my cat  is called tom!"),
        ("We met Anna in the garden on Tuesday", "On Tuesday, we met Anna in a garden"),
    ],
)
def test_texts_that_say_the_same_enter_once_and_the_other_is_reported(first, second):
    result = chosen(far_apart((0.9, first), (0.8, second), (0.6, "plums")))
    assert {hit.text for hit in result.hits} < {first, second, "plums"}
    assert len(result.hits) == 2
    assert [each.reason for each in result.dropped] == [DropReason.NEAR_DUPLICATE]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Meet at 5 pm", "Meet at 6 pm"),
        ("I love you", "You love me"),
        ("We met Anna in the garden on Tuesday", "We did not meet Anna in the garden on Tuesday"),
        ("Our rent is 900 euros a month in Berlin", "Our rent is 950 euros a month in Berlin"),
        ("🙂", "🙁"),
    ],
)
def test_texts_that_say_something_else_both_enter(first, second):
    assert len(chosen(far_apart((0.9, first), (0.8, second))).hits) == 2


def test_what_stands_in_the_window_is_not_repeated_by_id_or_by_words():
    units = far_apart((0.9, "in the window"), (0.8, "What is my name?"), (0.7, "other"))
    result = chosen(units, ids=[units[0].id], texts=["what is my name"])
    assert [hit.text for hit in result.hits] == ["other"]
    assert [(each.message_id, each.reason) for each in result.dropped] == [(units[1].id, DropReason.NEAR_DUPLICATE)]


def test_a_repetition_takes_no_place():
    units = far_apart((0.9, "apples"), (0.8, "Apples!"), (0.6, "pears"))
    assert len(chosen(units, limit=2).hits) == 2


def test_what_was_deleted_meanwhile_is_left_out():
    units = far_apart((0.9, "apples"), (0.8, "pears"))
    best = ranked(units)
    result = choose(best, {1: units[1].passage}, mode=RetrievalMode.CALIBRATED, floor=FLOOR, limit=8, verbatim_texts=())
    assert [hit.text for hit in result.hits] == ["pears"]


@given(st.lists(st.floats(-1, 1, width=32), max_size=30), st.integers(0, 10), st.sampled_from(RetrievalMode))
@example([0.0, float(np.float32(FLOOR))], 1, RetrievalMode.CALIBRATED)
def test_at_most_the_limit_enters_best_first_and_all_above_the_bar(cosines, limit, mode):
    units = far_apart(*((cosine, f"number {n}") for n, cosine in enumerate(cosines)))
    result = chosen(units, mode, limit)
    floor = FLOOR if mode is RetrievalMode.CALIBRATED else SURE_COSINE
    admitted = sorted((c for c in cosines if c > SURE_COSINE or (floor < SURE_COSINE and c >= floor)), reverse=True)
    assert len(result.hits) == min(limit, len(admitted))
    assert [hit.cosine for hit in result.hits] == sorted((hit.cosine for hit in result.hits), reverse=True)
    assert len(result.hits) + len(result.dropped) == min(limit, len(units))


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=30))
def test_ranks_are_places_among_all(cosines):
    units = far_apart(*((cosine, f"number {n}") for n, cosine in enumerate(cosines)))
    best = ranked(units, limit=30)
    assert [each.rank for each in best] == list(range(1, len(units) + 1))
    assert all(each.dense_rank == 1 + sum(c > units[each.row].cosine for c in cosines) for each in best)
    assert all(each.lexical_rank == 0 for each in best)


@given(
    st.lists(st.tuples(st.sampled_from([-0.5, 0.0, 0.4, 0.5]), st.integers(0, 2), st.integers(0, 3)), max_size=60),
    st.integers(0, 9),
    st.sampled_from(RetrievalMode),
)
def test_the_best_are_listed_in_their_order_each_copy_once(drawn, limit, mode):
    units = [
        Unit("cats", cosine, container, place=10 * number % 70, created=float(moment))
        for number, (cosine, container, moment) in enumerate(drawn)
    ]
    found = pool(units)
    scores = fuse(found, (), (), FLOOR)

    def order(row):
        return (-scores.total[row], -found.cosine[row], -units[row].created)

    places = sorted(range(len(units)), key=order)
    seen, expected = {}, []
    for row in places if mode is RetrievalMode.CALIBRATED else sorted(places, key=lambda row: (*order(row)[1:], row)):
        unit = units[row]
        if seen.setdefault((unit.created, unit.place, unit.cosine), unit.container) == unit.container:
            expected.append(row)
    best = shortlist(found, scores, mode=mode, limit=limit, verbatim_ids=())
    assert [each.row for each in best] == expected[: 2 * limit]
    assert [each.rank for each in best] == [1 + places.index(each.row) for each in best]


def test_copies_of_a_message_in_other_conversations_take_one_place_and_none_beside_the_window():
    said = far_apart((0.9, "apples"), (0.8, "pears"), (0.75, "plums"))
    forked = [replace(unit, container=fork, id=uuid4()) for fork in (1, 2, 3) for unit in said]
    other = replace(said[1], container=4, cosine=0.79, id=uuid4())
    units = [*said, *forked, other]
    found = pool(units)
    best = shortlist(
        found,
        fuse(found, (), (), FLOOR),
        mode=RetrievalMode.CALIBRATED,
        limit=2,
        verbatim_ids=(),
        verbatim_places={(said[0].created, said[0].place)},
    )
    # A message that was said elsewhere at the same moment is no copy if it says something else.
    assert [(units[each.row].text, each.cosine) for each in best] == [
        ("pears", pytest.approx(0.8)),
        ("pears", pytest.approx(0.79)),
        ("plums", pytest.approx(0.75)),
    ]
