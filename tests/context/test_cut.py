"""A cut text: within its room, its two ends as they were, and the truth about what is missing."""

import re

from hypothesis import given
from hypothesis import strategies as st

from chatrpc.context.cut import MARK_TOKENS, cut_middle, mark
from chatrpc.tokens import estimate_tokens

MARK = re.compile(r"\n\[… ([\d,]+) characters are left out here: [^\]]*\]\n")
CLUSTERS = ["word ", "é", "e\u0301", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "漢", "\r\n", "12", "\ud800"]
TEXTS = st.builds(
    lambda pieces, count: "".join(pieces) * count,
    st.lists(st.sampled_from(CLUSTERS), min_size=1, max_size=8),
    st.integers(1, 300),
)


def characters(text):
    return len(text)


@given(TEXTS, st.integers(0, 400), st.sampled_from([estimate_tokens, characters]))
def test_a_cut_text_fits_and_says_how_much_is_missing(text, room, count):
    cut = cut_middle(text, room, count)
    assert count(cut) <= room
    if count(text) <= room:
        assert cut == text
    elif cut:
        [missing] = MARK.findall(cut)
        head, tail = cut.split(mark(int(missing.replace(",", ""))))
        assert text.startswith(head)
        assert text.endswith(tail)
        assert len(head) + len(tail) + int(missing.replace(",", "")) == len(text)


@given(TEXTS, st.integers(MARK_TOKENS + 40, 400))
def test_a_cut_text_uses_its_room(text, room):
    if estimate_tokens(text) > room:
        cost = estimate_tokens(cut_middle(text, room))
        # The clusters of TEXTS cost 26 tokens at most, and the mark's number may be shorter than it is counted for.
        assert cost >= room - 2 * 26 - 16


def test_no_character_is_separated_from_what_belongs_to_it():
    for cluster in ("e\u0301", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "\r\n", "\u0ba8\u0bbf"):
        text = cluster * 200
        for room in range(MARK_TOKENS + 30, MARK_TOKENS + 60):
            head, _, tail = MARK.split(cut_middle(text, room))
            assert head == cluster * (len(head) // len(cluster))
            assert tail == cluster * (len(tail) // len(cluster))


def test_a_cut_is_always_the_same():
    text = "some words and others " * 4_000
    assert cut_middle(text, 500) == cut_middle(text, 500)
    assert estimate_tokens(cut_middle(text, 500)) > 480
