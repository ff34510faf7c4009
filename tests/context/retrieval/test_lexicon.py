import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatrpc.context.retrieval.lexicon import ASKS, LONGEST_TERM, SPEAKER, initials, query_terms, terms
from chatrpc.db.terms import MOST_QUERY_TERMS


def test_forms_of_a_word_are_one_term():
    assert terms("Running, runs, RUN!") == {"run": 3}
    assert terms("Melanie's cats don\u2019t paint") == terms("melanie cat paints")


def test_a_latin_word_is_the_same_term_with_a_particle_of_another_script_behind_it():
    assert terms("iPhone\u3092")["iphon"] == terms("iPhones")["iphon"] == 1


def test_words_that_tell_nothing_are_left_out():
    assert terms("What did you do, and when was it") == {}


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
    assert terms("") == terms("🙂 ... !") == {}


def test_a_query_has_each_term_once_longest_first_and_then_the_marks():
    assert query_terms("Did Melanie go to the pottery workshop, the pottery one?") == (
        "workshop",
        "potteri",
        "melani",
        "one",
        "go",
        "melani:",
        ASKS,
    )


def test_who_speaks_is_a_mark_that_a_query_about_her_holds():
    assert terms("Melanie: I went home")["melani" + SPEAKER] == 1
    assert "melani" + SPEAKER in query_terms("Where did Melanie go?")
    assert "melani" + SPEAKER not in query_terms("melanie")
    assert set(terms("Dr. Anna M\xfcller: hello")) >= {"anna:", "muller:"}


@pytest.mark.parametrize("text", ["I saw Melanie: she ran home", "at 10:30 Melanie", "Melanie:home", ": none"])
def test_a_colon_within_a_sentence_or_a_word_marks_no_speaker(text):
    assert not any(term.endswith(SPEAKER) for term in terms(text))


@pytest.mark.parametrize(("text", "asks"), [("You?", 1), ("\u4f60?", 1), ("Is it? Yes.", 0), ("", 0)])
def test_a_text_that_ends_by_asking_is_marked(text, asks):
    assert terms(text)[ASKS] == asks


@given(st.text(max_size=300))
def test_a_query_finds_the_words_of_the_same_text(text):
    stored = terms(text)
    asked = query_terms(text)
    words = [term for term in stored if not term.endswith((SPEAKER, ASKS))]
    assert len(asked) == len(set(asked)) <= MOST_QUERY_TERMS
    assert set(words) >= {term for term in asked if not term.endswith((SPEAKER, ASKS))}
    assert len(words) > 24 or set(words) <= set(asked)
    assert all(0 < len(term) <= LONGEST_TERM + 1 for term in stored)


@given(
    st.text(max_size=300)
    | st.text("abcdefghijklmnopqrstuvwxyz '0123456789_", max_size=300)
    | st.lists(
        st.sampled_from(["dying", "skies", "organization", "9" * 70, "9" * 64 + "a", "\u0665", "2nd", "don't"])
    ).map(" ".join)
)
def test_initials_follow_from_the_terms(text):
    words = [term for term in terms(text) if not term.endswith((SPEAKER, ASKS))]
    assert initials(text) == {word if word.isdigit() else word[0] for word in words}


@given(st.text(max_size=100))
def test_composed_and_decomposed_text_have_the_same_terms(text):
    assert terms(unicodedata.normalize("NFC", text)) == terms(unicodedata.normalize("NFD", text))
