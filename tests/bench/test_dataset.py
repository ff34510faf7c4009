from __future__ import annotations

from pathlib import Path

import pytest

from bench.replay.dataset import Dialogue, dialogue, load

SMALL = Path(__file__).parent / "data" / "small.json"


@pytest.fixture
def small() -> Dialogue:
    return dialogue(load(str(SMALL)), "made-1")


def test_each_turn_is_one_text_with_its_speaker(small: Dialogue) -> None:
    assert [turn.id for turn in small.turns] == [f"D{s}:{n}" for s in (1, 2) for n in range(1, 16)]
    assert small.turns[1].text == "Tim: Congratulations! How do you like living so near to the ships?"


def test_the_date_stands_where_a_session_begins_and_nowhere_else(small: Dialogue) -> None:
    dated = {turn.id: turn.text for turn in small.turns if "2024)" in turn.text}
    assert dated == {
        "D1:1": "(10:02 am on 5 March, 2024) Nora: Hi Tim! I finally moved into the flat by the harbour last weekend.",
        "D2:1": "(7:45 pm on 28 April, 2024) Tim: Hello again! How was the violin exam?",
    }


def test_the_caption_of_an_image_follows_the_words(small: Dialogue) -> None:
    assert small.turns[6].text.endswith("from the shelter. and shared a ginger cat asleep on a moving box.")


def test_a_session_without_turns_is_none(small: Dialogue) -> None:
    assert small.sessions == 2


def test_evidence_is_read_however_it_is_written(small: Dialogue) -> None:
    several, _, misplaced_colon, zero_and_space, *_ = small.questions
    assert several.evidence == {"D2:5", "D1:6"}
    assert misplaced_colon.evidence == {"D1:15"}
    assert zero_and_space.evidence == {"D1:7"}


def test_evidence_that_is_no_turn_is_told_apart(small: Dialogue) -> None:
    assert [question.unmatched for question in small.questions if question.unmatched] == [("D9:9",)]
    samples = load(str(SMALL))
    samples[0]["qa"] = [{"question": "?", "category": 1, "evidence": ["D"]}]
    assert dialogue(samples, None).questions[0].unmatched == ("D",)


def test_an_unknown_conversation_is_refused_by_name() -> None:
    with pytest.raises(LookupError, match=r"no conversation conv-7; it has made-1\."):
        dialogue(load(str(SMALL)), "conv-7")
