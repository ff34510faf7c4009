from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatrpc.context.retrieval.fusion import WEIGHTS, Scores, fuse
from chatrpc.context.retrieval.lexicon import query_terms
from tests.context.retrieval.pools import NOW, Unit, in_order, pool

FLOOR = 0.3
DAY = 86_400.0


def scored(units, question="", spans=(), weights=WEIGHTS, population=None):
    asked = query_terms(question)
    return fuse(pool(units, asked, population), asked, spans, FLOOR, weights)


def best(units, question="", spans=(), weights=WEIGHTS):
    return units[int(np.argmax(scored(units, question, spans, weights).total))].text


WORDS = st.lists(st.sampled_from(["cat", "dog", "Ann:", "garden", "Paris", "the", "why?"]), max_size=8).map(" ".join)
UNITS = st.lists(
    st.builds(
        Unit,
        text=WORDS,
        cosine=st.floats(-1, 1),
        container=st.integers(0, 2),
        place=st.integers(1, 12),
        created=st.integers(0, 10).map(lambda day: NOW.timestamp() - day * DAY),
    ),
    min_size=1,
    max_size=20,
    unique_by=lambda unit: (unit.container, unit.place),
)
SPAN = (NOW.timestamp() - 3 * DAY, NOW.timestamp() - DAY)


@given(UNITS, WORDS, st.randoms())
def test_the_order_in_which_units_are_found_changes_no_score(units, question, random):
    shuffled = units.copy()
    random.shuffle(shuffled)
    one = dict(zip([unit.id for unit in units], scored(units, question, [SPAN]).total, strict=True))
    other = dict(zip([unit.id for unit in shuffled], scored(shuffled, question, [SPAN]).total, strict=True))
    assert one == pytest.approx(other, rel=1e-5, abs=1e-5)


@given(UNITS, WORDS)
def test_the_parts_of_a_score_are_its_sum(units, question):
    scores = scored(units, question, [SPAN])
    names = {each.name for each in fields(Scores)} - {"lexical", "evidence", "total"}
    parts = sum(getattr(scores, name) for name in names)
    np.testing.assert_allclose(parts, scores.total)
    assert np.isfinite(scores.total).all()
    assert (scores.evidence >= 0).all()


@given(UNITS, WORDS)
def test_what_lies_beside_in_one_conversation_tells_nothing_of_another(units, question):
    asked = query_terms(question)
    whole = pool(units, asked)
    scores = fuse(whole, asked, [], FLOOR)
    for number in {unit.container for unit in units}:
        rows = np.array([unit.container == number for unit in units])
        own = scores.meaning + scores.words
        alone = fuse(replace(whole, place=np.where(rows, whole.place, 100 * np.arange(len(units)))), asked, [], FLOOR)
        np.testing.assert_allclose(alone.neighbours[rows], scores.neighbours[rows])
        assert scores.neighbours[rows].sum() <= 2 * 0.9 * own[rows].sum() + 1e-9


@given(UNITS, WORDS)
def test_a_unit_gets_its_share_from_each_beside_it(units, question):
    scores = scored(units, question)
    at = {(unit.container, unit.place): row for row, unit in enumerate(units)}
    for row, unit in enumerate(units):
        shares = [(-n, share) for n, share in enumerate(WEIGHTS.before, 1)]
        shares += [(n, share) for n, share in enumerate(WEIGHTS.after, 1)]
        sources = [(at.get((unit.container, unit.place + distance)), share) for distance, share in shares]
        expected = sum(
            share * (scores.meaning[source] + scores.words[source]) for source, share in sources if source is not None
        )
        assert scores.neighbours[row] == pytest.approx(expected)


@given(UNITS, WORDS, st.sampled_from([each.name for each in fields(WEIGHTS)]))
def test_a_weight_of_nothing_leaves_an_ingredient_out(units, question, name):
    nothing = () if name in ("before", "after") else 0.0
    scores = scored(units, question, [SPAN], replace(WEIGHTS, **{name: nothing}))
    if name not in ("before", "after"):
        assert not getattr(scores, name).any()


def test_a_cosine_up_to_the_floor_tells_nothing_and_above_it_more_the_higher():
    scores = scored([Unit("", -0.5), Unit("", FLOOR, place=10), Unit("", 0.4, place=20), Unit("", 0.8, place=30)])
    assert scores.meaning[0] == 0.0
    assert scores.meaning[1] == pytest.approx(0.0, abs=1e-6)
    assert 0 < scores.meaning[2] < scores.meaning[3]


def test_a_single_text_that_is_near_has_evidence():
    [evidence] = scored([Unit("We met in the garden", 0.5)]).evidence
    assert evidence > 1.0


def test_rare_words_in_common_weigh_more_than_frequent_ones():
    units = [Unit("the cat and its zeppelin", place=10), *(Unit("the cat sleeps", place=10 * n) for n in range(2, 9))]
    assert best(units, "cat zeppelin") == "the cat and its zeppelin"
    assert scored(units, "cat").lexical[0] < scored(units, "zeppelin").lexical[0]


def test_words_weigh_the_same_when_only_those_that_hold_them_were_found():
    units = [Unit("a zeppelin", place=10), Unit("a cat", place=20), *(Unit("none", place=10 * n) for n in range(3, 99))]
    asked = query_terms("cat zeppelin")
    whole = pool(units, asked)
    found = replace(
        pool(units[:2], asked, population=len(units)), mean_length=whole.mean_length, dense_std=whole.dense_std
    )
    np.testing.assert_allclose(fuse(found, asked, [], FLOOR).words, fuse(whole, asked, [], FLOOR).words[:2])


def test_an_answer_gains_by_the_question_before_it():
    units = in_order(
        ("hello", 0), ("Which car?", 0.6), ("The red", 0.31), ("nothing", 0), ("further", 0), ("The old", 0.31)
    )
    scores = scored(units)
    assert scores.neighbours[2] > scores.neighbours[1]
    assert scores.total[2] > scores.total[5]


def test_neighbours_are_those_at_the_next_places_not_those_found_next():
    scores = scored([Unit("a", 0.8, place=1), Unit("b", 0.0, place=9)])
    assert not scores.neighbours.any()


def test_what_somebody_said_whom_the_query_names_comes_before_the_same_of_others():
    units = [Unit("Ann: I love the garden", 0.5, place=1), Unit("Bob: I love the garden", 0.5, place=10)]
    assert best(units, "What does Bob love?") == "Bob: I love the garden"
    assert best(units, "What does Ann love?") == "Ann: I love the garden"


def test_what_was_said_at_the_time_that_the_query_names_comes_first():
    units = [Unit("the garden", 0.5), Unit("the old garden", 0.45, place=10, created=NOW.timestamp() - 2 * DAY)]
    assert best(units) == "the garden"
    assert best(units, spans=[SPAN]) == "the old garden"


def test_longer_texts_come_before_shorter_ones_and_questions_last():
    long = "We planted roses, tulips and a pear tree"
    units = [Unit("Roses", 0.5, place=1), Unit(long, 0.5, place=10), Unit(f"{long}?", 0.5, place=20)]
    scores = scored(units)
    assert list(np.argsort(-scores.total)) != [2, 1, 0]
    assert scores.total[1] > scores.total[2]
    assert scores.length[1] > scores.length[0]


def test_nothing_found_has_no_scores():
    assert scored([], "anything").total.shape == (0,)
