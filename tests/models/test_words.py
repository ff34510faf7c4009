import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatrpc.models.words import all_words, share, split_words, words


def test_words_come_in_their_order_without_those_that_tell_nothing() -> None:
    assert [*split_words("Where did Ada's cat go? The cat went to Turin.")] == [
        "ada",
        "cat",
        "go",
        "cat",
        "went",
        "turin",
    ]


@given(st.text(max_size=200) | st.text(st.characters(max_codepoint=127), max_size=200))
def test_all_words_are_those_of_the_text_without_case_and_punctuation(text: str) -> None:
    assert all_words(text) == re.findall(r"\w+", text.casefold())


def test_a_negation_is_not_a_word_of_its_own() -> None:
    assert words("I don\u2019t like tea, I couldn't") == {"tea"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Caf\xe9 Z\xfcrich", {"cafe", "zurich"}),
        ("at 5 or 10 we go on", {"5", "10"}),
        ("\u6771\u4eac\u30bf\u30ef\u30fc", {"\u6771\u4eac", "\u4eac\u30bf", "\u30bf\u30ef", "\u30ef\u30fc"}),
        ("iPhone\u3092\u8cb7\u3046", {"iphone", "\u3092\u8cb7", "\u8cb7\u3046"}),
        ("\u044f \u0438 \u0442\u044b", {"\u044f", "\u0438", "\u0442\u044b"}),
        ("The user said that the assistant is like you", set()),
        ("🙂 ... !", set()),
    ],
)
def test_words_of_some_weight(text: str, expected: set[str]) -> None:
    assert words(text) == expected


def test_the_share_of_one_text_in_another() -> None:
    assert share(words("tea and cake"), words("cake alone")) == 0.5
    assert share(frozenset(), words("cake")) == 1.0


@given(st.text(max_size=200), st.text(max_size=200))
def test_a_text_holds_all_words_of_its_lines(one: str, other: str) -> None:
    assert share(words(one), words(f"{one}\n{other}")) == 1.0
