"""The extractive summariser: within its limit, in order, without repetition, and with a long memory for facts."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatrpc.domain import Fact, FactKind, Role
from chatrpc.errors import SummaryRefused
from chatrpc.models.summary.extractive import ExtractiveSummarizer
from chatrpc.models.summary.facts import changed, fit
from chatrpc.ports import Retract, Upsert
from chatrpc.tokens import estimate_tokens
from tests.models.summary.conftest import dialogue, message

words = st.sampled_from(
    ["my", "dog", "Rex", "is", "at", "the", "vet", "1999", "remember", "?", "!", ".", "漢字。", "\n"]
)
speech = st.lists(words, max_size=30).map(" ".join)
SUMMARIZER = ExtractiveSummarizer()


async def narrative_of(narrative: str, texts: list[str], limit: int = 256) -> list[str]:
    return (await SUMMARIZER.fold(narrative, (), dialogue(*texts), limit)).narrative.splitlines()


@settings(max_examples=60, deadline=None)
@given(st.lists(speech | st.text(), min_size=1, max_size=8), speech, st.integers(min_value=32, max_value=400))
async def test_a_narrative_is_never_longer_than_allowed_and_nothing_is_of_words_nobody_said(
    texts: list[str], narrative: str, limit: int
) -> None:
    try:
        folding = await SUMMARIZER.fold(narrative, (), dialogue(*texts), limit)
    except SummaryRefused:
        assert not "".join([narrative, *texts]).strip()
        return
    assert 0 < estimate_tokens(folding.narrative) <= limit
    said = " ".join(" ".join([narrative, *(f"user: {text} assistant: {text}" for text in texts)]).split())
    lines = [*folding.narrative.splitlines(), *(each.text for each in folding.changes if isinstance(each, Upsert))]
    for line in lines:
        assert line == "(Nothing else was said.)" or line.partition(": ")[2] in said or line in said


async def test_sentences_stand_in_the_order_in_which_they_were_said_and_name_their_speaker() -> None:
    lines = await narrative_of(
        "user: The castle of Vianden was old.",
        ["The harbour of Ostend was full. The bread of Arlon was warm.", "Ostend has 70000 people."],
    )
    assert lines == [
        "user: The castle of Vianden was old.",
        "user: The harbour of Ostend was full.",
        "user: The bread of Arlon was warm.",
        "assistant: Ostend has 70000 people.",
    ]


@pytest.mark.parametrize(
    ("sentence", "kind", "key"),
    [
        ("My name is Ada Lovelace.", FactKind.NAME, "user.name"),
        ("Please call me Ada.", FactKind.NAME, "user.name"),
        ("Our cat is called Minka.", FactKind.NAME, "cat.name"),
        ("My favourite colour is teal.", FactKind.PREFERENCE, "favourite.colour"),
        ("I can't stand coriander.", FactKind.PREFERENCE, None),
        ("I'm allergic to peanuts.", FactKind.PREFERENCE, None),
        ("We decided to paint the kitchen green.", FactKind.DECISION, None),
        ("Let's go with the blue one then.", FactKind.DECISION, None),
        ("I live in Turin.", FactKind.DETAIL, "user.home"),
        ("My rent is 700 euros.", FactKind.DETAIL, "rent"),
        ("My sister Ingrid lives in Oslo.", FactKind.DETAIL, None),
        ("I'm still not sure whether to take the train.", FactKind.OPEN_QUESTION, None),
        ("We haven't decided on a caterer.", FactKind.OPEN_QUESTION, None),
    ],
)
async def test_facts_are_known_by_their_patterns(sentence: str, kind: FactKind, key: str | None) -> None:
    folding = await SUMMARIZER.fold("", (), dialogue(f"Good morning to you all. {sentence}", sentence), 256)
    [change] = folding.changes
    assert isinstance(change, Upsert)
    assert (change.kind, change.text, change.sequence) == (kind, f"user: {sentence}", 1)
    assert change.key == key or (key is None and change.key.startswith("said."))


@pytest.mark.parametrize(
    "sentence",
    [
        "What is my name?",
        "I love it!",
        "I like that idea very much.",
        "Thanks, that was very helpful.",
        "The weather was grey all day.",
        "Tell me more about the Roman roads.",
        "I went for a walk.",
    ],
)
async def test_chatter_is_no_fact(sentence: str) -> None:
    assert (await SUMMARIZER.fold("", (), dialogue(sentence, "Well."), 256)).changes == ()


async def test_what_has_one_value_is_superseded_and_what_has_many_is_not() -> None:
    first = dialogue("I live in Turin. My rent is 700 euros. I can't stand coriander.")
    facts = changed((), (await SUMMARIZER.fold("", (), first, 256)).changes, first)
    second = [message(3, "I moved to Oslo. My rent is 900 euros. I can't stand olives.")]
    facts = changed(facts, (await SUMMARIZER.fold("", facts, second, 256)).changes, second)
    assert [each.text for each in facts] == [
        "user: I moved to Oslo.",
        "user: My rent is 900 euros.",
        "user: I can't stand coriander.",
        "user: I can't stand olives.",
    ]


async def test_a_decision_settles_the_question_that_it_answers() -> None:
    first = dialogue("We haven't decided on a caterer for the wedding.")
    facts = changed((), (await SUMMARIZER.fold("", (), first, 256)).changes, first)
    later = [message(3, "We decided on Bruno as caterer for the wedding.")]
    changes = (await SUMMARIZER.fold("", facts, later, 256)).changes
    assert [type(change) for change in changes] == [Retract, Upsert]
    assert [each.kind for each in changed(facts, changes, later)] == [FactKind.DECISION]


async def test_what_is_said_twice_is_kept_once() -> None:
    messages = [message(number, "My sister Ingrid lives in Oslo.") for number in range(1, 4)]
    messages += [message(number, "Oslo has 700 bridges over 3 rivers.", Role.ASSISTANT) for number in range(4, 6)]
    folding = await SUMMARIZER.fold("", (), messages, 256)
    assert len(changed((), folding.changes, messages)) == 1
    assert folding.narrative == "assistant: Oslo has 700 bridges over 3 rivers."


async def test_one_endless_sentence_does_not_take_the_whole_summary() -> None:
    lines = await narrative_of("", ["The list of things is " + "socks and " * 2_000, "Right.", "It rains in Arlon."])
    assert "user: It rains in Arlon." in lines
    assert estimate_tokens(lines[0]) <= 64


async def test_a_narrative_that_a_model_wrote_is_taken_over_line_by_line() -> None:
    lines = await narrative_of("Ada asked about trains to Turin.", ["The train to Arlon leaves at 9."])
    assert lines == ["Ada asked about trains to Turin.", "user: The train to Arlon leaves at 9."]


async def test_with_nothing_new_the_old_narrative_stays() -> None:
    assert await narrative_of("user: It was late.\nuser: It rained.", ["", ""]) == [
        "user: It was late.",
        "user: It rained.",
    ]


@pytest.mark.parametrize("seed", range(3))
async def test_facts_survive_hundreds_of_folds_of_chatter(seed: int) -> None:
    facts = [
        "My sister Ingrid lives in Oslo.",
        "I am allergic to peanuts.",
        "My dog is called Biscuit.",
        "I work as a bridge engineer.",
        "Remember that my passport expires in March.",
        "We moved to Gothenburg in 2019.",
        "My blood type is AB negative.",
        "I teach chemistry on Mondays.",
    ]
    subjects = ["weather", "film", "walk", "dinner", "garden", "music", "traffic", "book", "sunset", "bread", "morning"]
    moods = ["nice", "lovely", "funny", "odd", "boring", "great", "quiet", "strange", "sweet", "slow"]
    drawn = random.Random(seed)

    def chatter(role: Role) -> str:
        subject, other = drawn.sample(subjects, 2)
        mood = drawn.choice(moods)
        if role is Role.ASSISTANT:
            return f"The {subject} does sound {mood}. Was the {other} {mood} too?"
        return f"It was a {mood} {subject} today, more than the {other}. What do you think of the {other}?"

    due = dict(zip(sorted(drawn.sample(range(0, 2_000, 2), len(facts))), facts, strict=True))
    narrative, known = "", tuple[Fact, ...]()
    for fold in range(200):
        messages = []
        for number in range(fold * 10, fold * 10 + 10):
            role = list(Role)[number % 2]
            messages.append(message(number + 1, due.get(number) or chatter(role), role))
        folding = await SUMMARIZER.fold(narrative, known, messages, 150)
        narrative = folding.narrative
        known, _ = fit(changed(known, folding.changes, messages), 150)
    assert {each.text for each in known} == {f"user: {each}" for each in facts}
