"""Where one sentence ends and the next begins."""

import pytest

from chatrpc.models.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        (" \n ", []),
        ("One. Two? Three!", ["One.", "Two?", "Three!"]),
        ("one line\n\n  another  line ", ["one line", "another line"]),
        ("Dr. Lee met Mrs. Poe in St. Ives. Then she left.", ["Dr. Lee met Mrs. Poe in St. Ives.", "Then she left."]),
        ("It costs 3.50 at example.org.", ["It costs 3.50 at example.org."]),
        ("我叫小明。我住在上海。", ["我叫小明。", "我住在上海。"]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_a_megabyte_without_a_sentence_is_read_once() -> None:
    assert split_sentences("a" + " " * 1_000_000 + "b") == ["a b"]
