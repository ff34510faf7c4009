import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatrpc.context.retrieval.lexicon import LONGEST_TERM, MOST_QUERY_TERMS, query_terms, terms


def test_forms_of_a_word_are_one_term():
    assert terms("Running, runs, RUN!") == {"run": 3}
    assert terms("Melanie's cats don\u2019t paint") == terms("melanie cat paints")


def test_words_that_tell_nothing_are_left_out():
    assert terms("What did you do, and when was it?") == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("l'Été à la plage", ["l", "ete", "a", "la", "plage"]),
        ("стол и стул", ["стол", "и", "стул"]),
        ("東京タワー3階", ["東京", "京タ", "タワ", "ワー", "3", "階"]),
        ("한국어 가", ["한국", "국어", "가"]),
        ("हिन्दी", ["हनद"]),
        ("user_id=42", ["user_id", "42"]),
    ],
)
def test_text_of_any_language_has_terms(text, expected):
    assert [*terms(text)] == [each for each in expected if each != "a"]


def test_accents_and_widths_do_not_part_what_is_the_same():
    assert terms("\uff23af\xe9") == terms("cafe\u0301") == terms("CAFE")


def test_what_has_no_word_has_no_term():
    assert terms("") == terms("🙂 ... !?") == {}


def test_a_query_has_each_term_once_longest_first():
    assert query_terms("Did Melanie go to the pottery workshop, the pottery one?") == (
        "workshop",
        "potteri",
        "melani",
        "one",
        "go",
    )


@given(st.text(max_size=300))
def test_query_terms_are_terms_of_the_same_text(text):
    stored = terms(text)
    asked = query_terms(text)
    assert set(asked) <= set(stored)
    assert len(asked) == len(set(asked)) == min(len(stored), MOST_QUERY_TERMS)
    assert all(0 < len(term) <= LONGEST_TERM for term in stored)


@given(st.text(max_size=100))
def test_composed_and_decomposed_text_have_the_same_terms(text):
    assert terms(unicodedata.normalize("NFC", text)) == terms(unicodedata.normalize("NFD", text))
