"""The extractive summariser: within its limit, in order, without repetition, and with a long memory."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatrpc.domain import Role
from chatrpc.errors import SummaryRefused
from chatrpc.models.embedding import build_embedder
from chatrpc.models.summary.extractive import ExtractiveSummarizer
from chatrpc.ports import Vectors
from chatrpc.settings import EmbedderSettings
from chatrpc.tokens import estimate_tokens
from tests.models.summary.conftest import dialogue, message
from tests.support.embedder import WordEmbedder

words = st.sampled_from(
    ["my", "dog", "Rex", "is", "at", "the", "vet", "1999", "remember", "?", "!", ".", "漢字。", "\n"]
)
speech = st.lists(words, max_size=30).map(" ".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(speech, min_size=1, max_size=8), st.none() | speech, st.integers(min_value=64, max_value=400))
async def test_a_summary_is_never_longer_than_allowed_nor_of_words_nobody_said(
    texts: list[str], previous: str | None, limit: int
) -> None:
    try:
        summary = await ExtractiveSummarizer(WordEmbedder(32)).fold(previous, dialogue(*texts), limit)
    except SummaryRefused:
        assert not "".join([previous or "", *texts]).strip()
        return
    assert 0 < estimate_tokens(summary) <= limit
    said = " ".join(" ".join([previous or "", *(f"user: {text} assistant: {text}" for text in texts)]).split())
    for line in summary.splitlines():
        assert line.partition(": ")[2] in said or line in said


async def test_sentences_stand_in_the_order_in_which_they_were_said_and_name_their_speaker() -> None:
    summary = await ExtractiveSummarizer(WordEmbedder()).fold(
        "user: My cat is called Tom.", dialogue("I live in Turin. My dog is Rex.", "Rex was born in 2020."), 256
    )
    assert summary.splitlines() == [
        "user: My cat is called Tom.",
        "user: I live in Turin.",
        "user: My dog is Rex.",
        "assistant: Rex was born in 2020.",
    ]


async def test_facts_win_over_chatter_when_there_is_no_room_for_both() -> None:
    chatter = [f"That sounds really very nice to me, thing number {word}!" for word in ("one", "two", "three", "four")]
    summary = await ExtractiveSummarizer(WordEmbedder()).fold(
        None, dialogue(*chatter, "I am allergic to peanuts.", *chatter), 64
    )
    assert "user: I am allergic to peanuts." in summary.splitlines()


async def test_what_is_said_twice_is_kept_once() -> None:
    messages = [message(number, "My sister Ingrid lives in Oslo.") for number in range(1, 4)]
    messages.append(message(4, "My sister Ingrid lives in Oslo now."))
    assert await ExtractiveSummarizer(WordEmbedder()).fold(None, messages, 256) == (
        "user: My sister Ingrid lives in Oslo."
    )


async def test_one_endless_sentence_does_not_take_the_whole_summary() -> None:
    endless = "My list of things is " + "socks and " * 2_000
    summary = await ExtractiveSummarizer(WordEmbedder()).fold(None, dialogue(endless, "Right.", "My name is Ada."), 200)
    assert "user: My name is Ada." in summary.splitlines()
    assert estimate_tokens(summary.splitlines()[0]) <= 50


async def test_of_documents_only_the_most_salient_sentences_are_embedded() -> None:
    class CountingEmbedder(WordEmbedder):
        embedded = 0

        async def embed(self, texts: Sequence[str]) -> Vectors:
            self.embedded += len(texts)
            return await super().embed(texts)

    embedder = CountingEmbedder(32)
    document = "It rains. " * 100 + "My name is Ada. " + "".join(f"So it goes, {number}. " for number in range(90_000))
    summary = await ExtractiveSummarizer(embedder).fold(None, dialogue(document, document), 256)
    assert "user: My name is Ada." in summary.splitlines()
    assert embedder.embedded <= 128


async def test_a_summary_that_a_model_wrote_is_taken_over_line_by_line() -> None:
    summary = await ExtractiveSummarizer(WordEmbedder()).fold(
        "Story:\nAda asked about trains.\n\nFacts:\n- Ada lives in Turin.", dialogue("My train leaves at 9."), 256
    )
    assert "- Ada lives in Turin." in summary.splitlines()
    assert "user: My train leaves at 9." in summary.splitlines()


async def test_of_sentences_of_like_worth_those_in_the_summary_stay() -> None:
    old = ["My brother Anders lived in Turin.", "Our rent was 700 euros.", "My horse is called Comet."]
    new = ["My cousin Marta worked in Lodz.", "Our boat was 20 years old.", "My school is called Hillside."]
    summarizer = ExtractiveSummarizer(WordEmbedder())
    summary = await summarizer.fold(None, [message(number, text) for number, text in enumerate(old, start=1)], 64)
    assert summary.splitlines() == [f"user: {text}" for text in old]
    later = [message(number, text) for number, text in enumerate(new, start=4)]
    assert (await summarizer.fold(summary, later, 64)).startswith(summary)


async def test_with_nothing_new_the_old_summary_stays() -> None:
    old = "user: My name is Ada.\nuser: I live in Turin."
    assert await ExtractiveSummarizer(WordEmbedder()).fold(old, dialogue("", ""), 256) == old


@pytest.mark.parametrize("seed", range(3))
async def test_most_facts_survive_hundreds_of_folds_of_chatter(seed: int) -> None:
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

    due = dict(zip(sorted(drawn.sample(range(2_000), len(facts))), facts, strict=True))
    summarizer = ExtractiveSummarizer(WordEmbedder(128))
    summary: str | None = None
    for fold in range(200):
        messages = []
        for number in range(fold * 10, fold * 10 + 10):
            role = list(Role)[number % 2]
            fact = due.get(number)
            messages.append(message(number + 1, chatter(role)) if fact is None else message(number + 1, fact))
        summary = await summarizer.fold(summary, messages, 300)
    assert summary is not None
    kept = [fact for fact in facts if f"user: {fact}" in summary.splitlines()]
    assert len(kept) >= 0.7 * len(facts), summary


async def test_with_the_real_embedder_facts_outlive_later_talk(tmp_path: Path) -> None:
    facts = ["My sister Ingrid lives in Oslo.", "I am allergic to peanuts.", "We moved to Gothenburg in 2019."]
    async with build_embedder(EmbedderSettings(cache_dir=str(tmp_path))) as embedder:
        summarizer = ExtractiveSummarizer(embedder)
        summary = await summarizer.fold(None, dialogue(*facts), 150)
        for day in ("a walk in the park", "an evening with friends", "a slow breakfast", "a film about the sea"):
            talk = f"It was such a nice day with {day}! How was yours?"
            summary = await summarizer.fold(summary, dialogue(talk, "That sounds lovely, tell me more!", talk), 150)
    assert [fact for fact in facts if fact in summary] == facts
