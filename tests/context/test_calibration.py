"""What the measured floor promises, whatever the text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatrpc.context.calibration import FEWEST_MESSAGES, MOST_MESSAGES, SHARE, Said, calibrate
from chatrpc.domain import Role
from tests.support.embedder import WordEmbedder

WORDS = st.lists(
    st.sampled_from(("red", "green", "blue", "one", "two", "three", "cat", "dog", "cow")), min_size=3, max_size=30
)


def talk(topics: int, *, conversations: int = 1) -> list[Said]:
    """Pairs of messages that share most of their words, and none with any other."""
    return [
        Said(topic % conversations, Role.USER, f"a{topic} b{topic} {word}{topic}")
        for topic in range(topics)
        for word in ("yes", "no")
    ]


@settings(max_examples=20, deadline=None)
@given(st.lists(WORDS, min_size=FEWEST_MESSAGES, max_size=90, unique_by=" ".join))
async def test_the_floor_keeps_out_its_share_of_unrelated_pairs(texts: list[list[str]]) -> None:
    measured = await calibrate(WordEmbedder(), [Said(0, Role.USER, " ".join(words)) for words in texts])
    assert 0 <= measured.floor <= 1
    assert abs(np.mean(measured.unrelated < measured.floor + 0.005) - SHARE) < 0.05 or measured.floor == 0
    assert measured.messages == len(texts)
    assert np.all(np.diff(measured.unrelated) >= 0)
    assert np.all(np.diff(measured.related) >= 0)


async def test_related_messages_reach_the_floor_and_unrelated_ones_do_not() -> None:
    measured = await calibrate(WordEmbedder(), talk(40))
    assert 0 < measured.floor < 0.5
    # Every second neighbour belongs to the next topic.
    assert measured.admitted == pytest.approx(0.5, abs=0.1)


async def test_messages_of_two_conversations_are_no_neighbours_but_the_halves_of_one_are_related() -> None:
    apart = [Said(number, said.role, said.text) for number, said in enumerate(talk(40))]
    with pytest.raises(ValueError, match="nothing that belongs together"):
        await calibrate(WordEmbedder(), apart)
    longer = [
        Said(said.conversation, said.role, f"{said.text}, and so on and so forth, as they say.") for said in apart
    ]
    assert len((await calibrate(WordEmbedder(), longer)).related) == len(longer)


async def test_what_is_said_twice_counts_once() -> None:
    once, twice = talk(40), [said for said in talk(40) for _ in range(2)]
    first, second = [await calibrate(WordEmbedder(), said) for said in (once, twice)]
    assert (first.messages, first.floor) == (second.messages, second.floor) == (80, first.floor)


async def test_too_few_messages_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 48 different messages, and it takes 50 at least"):
        await calibrate(WordEmbedder(), [*talk(24), *talk(24), Said(0, Role.USER, "  ")])


async def test_of_very_many_messages_stretches_from_all_over_are_taken() -> None:
    measured = await calibrate(WordEmbedder(), talk(MOST_MESSAGES))
    assert measured.messages == MOST_MESSAGES
    assert len(measured.related) > MOST_MESSAGES // 2
