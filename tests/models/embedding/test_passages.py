"""Passages: nothing lost, nothing too long, cut where a reader would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from chatrpc.domain import Role
from chatrpc.models.embedding.passages import split_passages
from chatrpc.models.embedding.template import TEMPLATE_TOKENS, embedding_text
from chatrpc.models.embedding.weights import packaged_folder
from chatrpc.tokens import estimate_tokens

COUNTS = {
    "code points": len,
    "words": lambda text: len(text.split()),
    "bytes": lambda text: len(text.encode("utf-8", "surrogatepass")),
    "estimate": estimate_tokens,
}

texts = st.text(alphabet="ab .!?\n\t。漢😀\ud800", max_size=400) | st.text(max_size=400)


@pytest.mark.parametrize("count", COUNTS.values(), ids=COUNTS)
@given(text=texts, max_tokens=st.integers(min_value=1, max_value=40))
def test_passages_cover_the_text_and_none_is_too_long(count, text: str, max_tokens: int) -> None:
    spans = split_passages(text, max_tokens, count)
    assert "".join(text[start:end] for start, end in spans) == text
    assert [start for start, _ in spans[1:]] == [end for _, end in spans[:-1]]
    for start, end in spans:
        assert start < end
        assert count(text[start:end]) <= max_tokens or end - start == 1


def test_a_text_that_fits_is_one_passage() -> None:
    assert split_passages("One. Two. Three.", 100) == [(0, 16)]
    assert split_passages("", 100) == []


def test_cuts_are_at_sentence_ends_where_these_are_near() -> None:
    text = "".join(f"This is sentence number {number} of the story. " for number in range(200))
    spans = split_passages(text, 120)
    assert len(spans) > 10
    assert all(text[:end].endswith("story. ") for _, end in spans)


def test_without_sentences_cuts_are_between_words() -> None:
    text = "word " * 1_000
    assert all(text[start:end].startswith("word") for start, end in split_passages(text, 50))


def test_passages_are_of_about_equal_length() -> None:
    text = "".join(f"This is sentence number {number} of the story. " for number in range(500))
    lengths = [end - start for start, end in split_passages(text, 246)]
    assert min(lengths) > max(lengths) / 2


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(
    "text",
    [
        "We met Anna at the harbour, and she told us of her new job at the university. " * 60,
        "Наш поезд опоздал на три часа, поэтому мы остались ночевать в Казани. " * 60,
        "我们昨天去了海边,孩子们都很高兴。" * 60,
        "def area(radius): return 3.14159 * radius ** 2  # in square metres\n" * 60,
    ],
    ids=["english", "russian", "chinese", "python"],
)
def test_minilm_reads_every_passage_of_a_message_whole(role: Role, text: str) -> None:
    tokenizer = Tokenizer.from_file(str(packaged_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for start, end in split_passages(text, 254 - TEMPLATE_TOKENS):
        assert len(tokenizer.encode(embedding_text(role, text[start:end])).ids) <= 256


def test_a_message_is_embedded_with_its_speaker() -> None:
    assert embedding_text(Role.USER, "I like tea.") == "user: I like tea."
    assert embedding_text(Role.ASSISTANT, "So do I.") == "assistant: So do I."


@pytest.mark.parametrize("role", Role)
def test_the_template_stays_within_its_allowance(role: Role) -> None:
    assert estimate_tokens(embedding_text(role, "")) <= TEMPLATE_TOKENS
