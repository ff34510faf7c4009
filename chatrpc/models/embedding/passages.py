"""Cutting a long text into passages that an embedding model reads whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise

from chatrpc.tokens import estimate_tokens

# A cut stands after the white space, so each passage keeps what follows its last word and nothing is lost.
_SENTENCE_END = re.compile(r"""[.!?\u2026]["'\u201d\u2019)\]]*\s+|[\u3002\uff01\uff1f]\s*|\n\s*""")
_WORD_END = re.compile(r"\s+")

# Equal shares of a text differ in tokens; with this slack, few shares turn out too long and need a second cut.
_SLACK = 1.2


def split_passages(text: str, max_tokens: int, count: Callable[[str], int] = estimate_tokens) -> list[tuple[int, int]]:
    """Cut a text into passages of at most `max_tokens`, at sentence ends where possible, else between words.

    The spans `(start, end)` are code-point offsets in order; they cover the text without gap or overlap, so the
    passages joined are the text. They are of about equal length. A single code point is never cut, whatever it
    counts. An empty text has no passage. For the text of a message, pass `space.max_tokens - TEMPLATE_TOKENS`.

    Args:
        count: Tokens of a text; the estimate by default, a tokenizer's own count where the cuts should be tighter.
            It reads each part of the text two to four times in all.
    """
    return list(_split(text, 0, len(text), max_tokens, count)) if text else []


def _split(text: str, start: int, end: int, max_tokens: int, count: Callable[[str], int]) -> Iterator[tuple[int, int]]:
    tokens = count(text[start:end])
    length = end - start
    if tokens <= max_tokens or length == 1:
        yield start, end
        return
    shares = min(int(tokens * _SLACK / max_tokens) + 1, length)
    reach = length // (4 * shares)
    ideals = (start + length * share // shares for share in range(1, shares))
    cuts = [start, *(_boundary(text, ideal, reach) for ideal in ideals), end]
    for left, right in pairwise(cuts):
        yield from _split(text, left, right, max_tokens, count)


def _boundary(text: str, ideal: int, reach: int) -> int:
    """The best place to cut within `reach` of the ideal one."""
    low, high = ideal - reach, ideal + reach
    for pattern in (_SENTENCE_END, _WORD_END):
        ends = [match.end() for match in pattern.finditer(text, low, high)]
        if ends:
            return min(ends, key=lambda place: abs(place - ideal))
    return ideal
