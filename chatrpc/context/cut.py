"""Long texts, cut in the middle: the beginning and the end stay, and a mark between them says how much is missing."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable

from chatrpc.tokens import cut_to_tokens, estimate_tokens

Count = Callable[[str], int]
"""Tells what a text costs in tokens."""

HEAD_SHARE = 2 / 3
"""Part of what stays that is the beginning. The end is the smaller part, but where a question is asked about a text
that is pasted in front of it, it is the question."""

_LONGEST_CLUSTER = 32
_LONGEST_FLAGS = 4_096
_LONGEST_PIECE = 16
_SMALLEST_ROOM = 2
_SAMPLE = 2_000


def mark(missing: int) -> str:
    """What stands in the place of so many characters."""
    return f"\n[… {missing:,} characters are left out here: the text is longer than the model can read …]\n"


MARK_TOKENS = estimate_tokens(mark(9_999_999_999))


def cut_middle(text: str, max_tokens: int, count: Count = estimate_tokens) -> str:
    """The text if it costs at most `max_tokens`, else its beginning, a mark and its end; empty without room for both.

    Always the same for the same arguments. No cut separates a character from its accents, the parts of an emoji or
    the two letters of a flag.
    """
    if count(text) <= max_tokens:
        return text
    room = int((max_tokens - MARK_TOKENS) * _overestimate(text, count))
    while room >= _SMALLEST_ROOM:
        cut = _cut(text, room)
        cost = count(cut)
        if cost <= max_tokens:
            return cut
        room = min(int(room * max_tokens / cost), room * 9 // 10)
    return ""


def _overestimate(text: str, count: Count) -> float:
    """How many times too high the estimate by which texts are cut is for this one."""
    if count is estimate_tokens:
        return 1.0
    sample = text[:_SAMPLE] + text[-_SAMPLE:]
    return estimate_tokens(sample) / max(count(sample), 1)


def _cut(text: str, room: int) -> str:
    head_room = max(int(room * HEAD_SHARE), 1)
    end = len(cut_to_tokens(text, head_room))
    start = max(_tail_start(text, room - head_room), end)
    end, start = _cluster_start(text, end), _cluster_end(text, start)
    return f"{text[:end]}{mark(start - end)}{text[start:]}"


def _tail_start(text: str, max_tokens: int) -> int:
    """Where the longest end that costs at most `max_tokens` begins, by bisection; it may be a little shorter."""
    low, high = max(len(text) - max_tokens * _LONGEST_PIECE, 0), len(text)
    while low < high:
        middle = (low + high) // 2
        if estimate_tokens(text[middle:]) <= max_tokens:
            high = middle
        else:
            low = middle + 1
    return high


def _cluster_start(text: str, place: int) -> int:
    """The place itself, or before it the beginning of the cluster that it would cut."""
    earliest = max(place - _LONGEST_CLUSTER, 0)
    while place > earliest and _is_inside(text, place):
        place -= 1
    return place


def _cluster_end(text: str, place: int) -> int:
    latest = min(place + _LONGEST_CLUSTER, len(text))
    while place < latest and _is_inside(text, place):
        place += 1
    return place


def _is_inside(text: str, place: int) -> bool:
    """Whether a cut would part what looks like one character: the commonest rules of Unicode's grapheme clusters."""
    if not 0 < place < len(text):
        return False
    before, after = text[place - 1], text[place]
    if before < "\x80" and after < "\x80":
        return before == "\r" and after == "\n"
    if _is_flag_letter(before) and _is_flag_letter(after):
        letters = itertools.takewhile(_is_flag_letter, reversed(text[max(place - _LONGEST_FLAGS, 0) : place]))
        return sum(1 for _ in letters) % 2 == 1
    return (
        "\u200d" in (before, after)
        or unicodedata.category(after).startswith("M")
        or "\U0001f3fb" <= after <= "\U0001f3ff"
    )


def _is_flag_letter(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"
