from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from chatrpc.context.retrieval import SURE_COSINE, choose
from chatrpc.domain import DropReason, RetrievalMode
from tests.context.conversation import candidate

FLOOR = 0.3


def chosen(candidates, mode=RetrievalMode.CALIBRATED, limit=8, ids=(), texts=()):
    return choose(candidates, mode=mode, floor=FLOOR, limit=limit, verbatim_ids=set(ids), verbatim_texts=texts)


def test_calibrated_admits_from_the_floor_up_and_tells_which_are_sure():
    result = chosen([candidate(0.71, "a"), candidate(0.7, "b"), candidate(0.3, "c"), candidate(0.29, "d")])
    assert [(hit.text, hit.sure, hit.rank) for hit in result.hits] == [("a", True, 1), ("b", False, 2), ("c", False, 3)]
    assert [each.reason for each in result.dropped] == [DropReason.BELOW_FLOOR]


def test_strict_admits_sure_hits_alone():
    result = chosen([candidate(0.71, "a"), candidate(0.7, "b"), candidate(0.2, "c")], RetrievalMode.STRICT)
    assert [hit.text for hit in result.hits] == ["a"]
    assert [each.reason for each in result.dropped] == [DropReason.NOT_SURE, DropReason.NOT_SURE]


def test_a_sure_hit_enters_below_a_floor_that_lies_higher():
    result = choose(
        [candidate(0.75, "a")],
        mode=RetrievalMode.CALIBRATED,
        floor=0.8,
        limit=8,
        verbatim_ids=(),
        verbatim_texts=(),
    )
    assert [hit.sure for hit in result.hits] == [True]


def test_nothing_near_enough_gives_no_hit():
    assert chosen([candidate(0.1, "a")]).hits == ()
    assert chosen([]).hits == ()


def test_the_best_passage_stands_for_its_message():
    message_id = uuid4()
    result = chosen([candidate(0.6, "better", message_id), candidate(0.5, "worse", message_id), candidate(0.4, "else")])
    assert [(hit.text, hit.rank) for hit in result.hits] == [("better", 1), ("else", 2)]


def test_texts_that_differ_in_case_and_punctuation_alone_enter_once():
    result = chosen([candidate(0.9, "My cat is called Tom."), candidate(0.8, "my cat  is called tom!")])
    assert [hit.text for hit in result.hits] == ["My cat is called Tom."]


def test_texts_that_differ_in_one_number_both_enter():
    assert len(chosen([candidate(0.9, "Meet at 5 pm"), candidate(0.8, "Meet at 6 pm")]).hits) == 2


def test_different_texts_without_any_word_both_enter():
    assert len(chosen([candidate(0.9, "🙂"), candidate(0.8, "🙁")]).hits) == 2


def test_what_stands_in_the_window_is_not_repeated_by_id_or_by_words():
    verbatim = candidate(0.9, "in the window")
    result = chosen(
        [verbatim, candidate(0.8, "What is my name?"), candidate(0.7, "other")],
        ids=[verbatim.message_id],
        texts=["what is my name"],
    )
    assert [hit.text for hit in result.hits] == ["other"]


COSINES = st.lists(st.floats(-1, 1), max_size=30).map(lambda each: sorted(each, reverse=True))


@given(COSINES, st.integers(0, 10), st.sampled_from(RetrievalMode))
def test_at_most_the_limit_enters_best_first_and_all_above_the_bar(cosines, limit, mode):
    candidates = [candidate(cosine, f"text {place}") for place, cosine in enumerate(cosines)]
    result = chosen(candidates, mode, limit)
    admitted = [c for c in cosines if c > SURE_COSINE or (mode is RetrievalMode.CALIBRATED and c >= FLOOR)]
    assert [hit.cosine for hit in result.hits] == admitted[:limit]
    assert len(result.hits) + len(result.dropped) == min(limit, len(candidates))
