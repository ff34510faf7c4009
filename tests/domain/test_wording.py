"""Numbers in sentences."""

from __future__ import annotations

import pytest

from chatrpc.domain import counted


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (0, ("message",), "0 messages"),
        (1, ("message",), "1 message"),
        (1_024, ("message",), "1,024 messages"),
        (1, ("reply", "replies"), "1 reply"),
        (2, ("reply", "replies"), "2 replies"),
    ],
)
def test_one_thing_is_singular(number: int, words: tuple[str, ...], text: str) -> None:
    assert counted(number, *words) == text
