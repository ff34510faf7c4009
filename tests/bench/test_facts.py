"""What the benchmark of facts says and how its scripted models behave, without running it."""

from __future__ import annotations

import pytest

from bench.facts.models import Answer, bloats, forgets, good, truncates
from bench.facts.plant import HELD_OUT, KINDS, SENTENCES, Templates, script
from chatrpc.errors import SummaryRefused
from chatrpc.models.summary.answer import parse_fold
from chatrpc.models.summary.checks import check_narrative, checked_changes
from chatrpc.ports import Upsert
from tests.models.summary.conftest import dialogue, fact

PROMPT = """<facts>
k1 | detail | Lives in Turin
k2 | detail | Likes tea
k3 | detail | Plays oboe
k4 | detail | Has goats
</facts>

<messages>
[1 user] My dog is called Rex. How are tides made?
[2 assistant] By the moon.
</messages>"""
MESSAGES = dialogue("My dog is called Rex. How are tides made?", "By the moon.")
KNOWN = [fact(f"k{number}", text) for number, text in enumerate(("Turin", "tea", "oboe", "goats"), start=1)]


@pytest.mark.parametrize("templates", [SENTENCES, HELD_OUT])
@pytest.mark.parametrize("seed", range(3))
def test_each_of_the_first_turns_holds_one_fact_that_its_words_tell_from_all_that_is_said_later(
    templates: Templates, seed: int
) -> None:
    said = script(templates, seed, 600)
    assert said == script(templates, seed, 600)
    assert len(said.turns) == 600
    assert sorted(each.kind for each in said.planted) == sorted(KINDS * 4)
    later = [f"{turn.text} {turn.reply}" for turn in said.turns[len(said.planted) :]]
    for planted, turn in zip(said.planted, said.turns, strict=False):
        assert planted.sentence in turn.text
        assert planted.telling
        assert planted.is_told_by(planted.sentence)
        assert not planted.is_told_by(" ".join(later))


def test_the_model_that_follows_writes_down_what_was_said() -> None:
    [change] = parse_fold(good(PROMPT)).changes
    assert isinstance(change, Upsert)
    assert (change.text, change.sequence) == ("My dog is called Rex.", 1)


def accept(answer: str) -> None:
    folding = parse_fold(answer)
    check_narrative("", folding.narrative, 300)
    checked_changes(KNOWN, folding.changes, folding.narrative, MESSAGES)


def test_the_model_that_follows_is_accepted() -> None:
    accept(good(PROMPT))


@pytest.mark.parametrize("bad", [forgets, truncates, bloats])
def test_the_models_that_turn_bad_are_refused(bad: Answer) -> None:
    with pytest.raises(SummaryRefused):
        accept(bad(PROMPT))
