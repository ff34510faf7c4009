"""Text as sentences, near enough for quoting and ranking."""

from __future__ import annotations

import re

# Behind a full stop there must be a space, but not behind a title; the full stops of Chinese and Japanese (U+3002,
# U+FF01, U+FF1F) need none.
_BOUNDARY = re.compile(
    r"(?<=[.!?])(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)\s+|(?<=[\u3002\uff01\uff1f])|\n"
)


def split_sentences(text: str) -> list[str]:
    """The sentences of a text in their order, each on one line; a line end ends a sentence too."""
    return [" ".join(sentence.split()) for sentence in _BOUNDARY.split(text) if sentence.strip()]
