"""What every Summarizer keeps, whoever writes."""

from collections.abc import AsyncIterator

import pytest

from chatrpc.domain import Fact, Message
from chatrpc.errors import SummaryRefused
from chatrpc.models.chat import build_chat_model
from chatrpc.models.profiles import load_profiles
from chatrpc.models.summary import build_summarizer
from chatrpc.models.summary.facts import changed
from chatrpc.ports import Summarizer
from chatrpc.settings import ModelSettings
from chatrpc.tokens import estimate_tokens
from tests.models.summary.conftest import dialogue
from tests.support.provider import Provider


@pytest.fixture(params=["extractive", "endpoint"])
async def summarizer(request: pytest.FixtureRequest) -> AsyncIterator[Summarizer]:
    async with Provider() as provider:
        settings = ModelSettings()
        if request.param == "endpoint":
            settings = ModelSettings(base_url=provider.base_url, name="scripted", summary_name="scripted-small")
        chat_model = build_chat_model(settings)
        yield build_summarizer(settings, chat_model, load_profiles(settings))
        await chat_model.aclose()


async def facts_after(
    summarizer: Summarizer, messages: list[Message], facts: tuple[Fact, ...] = (), narrative: str = ""
) -> tuple[str, tuple[Fact, ...]]:
    folding = await summarizer.fold(narrative, facts, messages, 256)
    assert 0 < estimate_tokens(folding.narrative) <= 256
    return folding.narrative, changed(facts, folding.changes, messages)


async def test_a_fact_of_the_messages_is_kept_with_the_message_that_it_is_from(summarizer: Summarizer) -> None:
    messages = dialogue("Good morning.", "Hello!", "My dog is called Rex.", "A fine name.")
    _, [fact] = await facts_after(summarizer, messages)
    assert "Rex" in fact.text
    assert (fact.source_id, fact.source_sequence) == (messages[2].id, 3)


async def test_facts_that_a_later_batch_does_not_touch_stay_as_they_are(summarizer: Summarizer) -> None:
    narrative, facts = await facts_after(summarizer, dialogue("My dog is called Rex.", "Hello Rex!"))
    later = dialogue("I live in Turin.", "A fine city.")
    _, more = await facts_after(summarizer, later, facts, narrative)
    assert more[0] == facts[0]
    assert "Turin" in more[1].text


async def test_the_same_fold_gives_the_same_summary(summarizer: Summarizer) -> None:
    messages = dialogue("My name is Ada.", "Hello Ada!", "I like tea.", "So do I.")
    assert await summarizer.fold("", (), messages, 128) == await summarizer.fold("", (), messages, 128)


async def test_nothing_said_is_refused(summarizer: Summarizer) -> None:
    with pytest.raises(SummaryRefused):
        await summarizer.fold("", (), dialogue("", " \n "), 256)


async def test_the_name_says_who_wrote(summarizer: Summarizer) -> None:
    assert summarizer.name in {"chatrpc-extractive", "scripted-small"}


async def test_a_batch_of_some_messages_is_read_whole(summarizer: Summarizer) -> None:
    assert summarizer.batch_tokens > 4_000
