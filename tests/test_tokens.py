"""The estimate's algebra, which budgets and cuts lean on, and its price list."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatrpc.tokens import cut_to_tokens, estimate_tokens

# Dense in what the classes turn on: runs of letters in both cases, runs of spaces, digits, line ends, wide characters.
texts = st.text(alphabet="aabBC .,7\n\té漢😀\ud800", max_size=80) | st.text(max_size=80)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("a", 1),
        ("cat", 1),
        ("cats", 2),
        ("The cat", 2),
        ("The, cat.", 4),
        ("HTTP", 2),
        ("2024", 4),
        ("in 2024", 6),
        (" ", 1),
        ("a  b", 3),
        ("a" + 17 * " " + "b", 3),
        ("a" + 18 * " " + "b", 4),
        ("a\n\nb", 4),
        ("é", 2),
        ("漢字", 6),
        ("\x00", 1),
        ("\ud800", 3),
    ],
)
def test_each_class_of_characters_has_its_price(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


@given(texts, texts)
def test_two_texts_together_cost_at_most_the_sum_and_at_least_the_first(first: str, second: str) -> None:
    together = estimate_tokens(first + second)
    assert estimate_tokens(first) <= together <= estimate_tokens(first) + estimate_tokens(second)


@given(texts)
def test_a_text_costs_nothing_only_when_empty_and_never_more_than_its_bytes(text: str) -> None:
    assert bool(estimate_tokens(text)) == bool(text)
    assert estimate_tokens(text) <= len(text.encode("utf-8", "surrogatepass"))


@given(texts, st.integers(min_value=-1, max_value=60))
def test_a_cut_is_the_longest_prefix_that_fits(text: str, max_tokens: int) -> None:
    cut = cut_to_tokens(text, max_tokens)
    assert text.startswith(cut)
    assert estimate_tokens(cut) <= max(max_tokens, 0)
    assert cut == text or estimate_tokens(text[: len(cut) + 1]) > max_tokens


def test_a_text_far_beyond_the_limit_is_cut_as_exactly_as_a_short_one() -> None:
    line = "Remember the milk, 2 litres of it.\n"
    cut = cut_to_tokens(line * 30_000, 10 * estimate_tokens(line))
    assert cut == line * 10
