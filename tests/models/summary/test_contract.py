"""What every Summarizer keeps, whoever writes."""

from collections.abc import AsyncIterator

import pytest

from chatrpc.errors import SummaryRefused
from chatrpc.models.chat import build_chat_model
from chatrpc.models.summary import build_summarizer
from chatrpc.ports import Summarizer
from chatrpc.settings import ModelSettings
from chatrpc.tokens import estimate_tokens
from tests.models.summary.conftest import dialogue
from tests.support.embedder import WordEmbedder
from tests.support.provider import Provider


@pytest.fixture(params=["extractive", "endpoint"])
async def summarizer(request: pytest.FixtureRequest) -> AsyncIterator[Summarizer]:
    async with Provider() as provider:
        settings = ModelSettings()
        if request.param == "endpoint":
            settings = ModelSettings(base_url=provider.base_url, name="scripted", summary_name="scripted-small")
        chat_model = build_chat_model(settings)
        yield build_summarizer(settings, chat_model, WordEmbedder())
        await chat_model.aclose()


async def test_a_fact_of_the_messages_is_in_the_summary(summarizer: Summarizer) -> None:
    summary = await summarizer.fold(None, dialogue("My name is Ada.", "Hello Ada!"), 256)
    assert "My name is Ada." in summary
    assert estimate_tokens(summary) <= 256


async def test_a_fact_of_the_old_summary_is_in_the_new_one(summarizer: Summarizer) -> None:
    first = await summarizer.fold(None, dialogue("My name is Ada.", "Hello Ada!"), 256)
    second = await summarizer.fold(first, dialogue("I live in Turin.", "A fine city."), 256)
    assert "My name is Ada." in second
    assert "I live in Turin." in second


async def test_the_same_fold_gives_the_same_summary(summarizer: Summarizer) -> None:
    messages = dialogue("My name is Ada.", "Hello Ada!", "I like tea.", "So do I.")
    assert await summarizer.fold(None, messages, 128) == await summarizer.fold(None, messages, 128)


async def test_nothing_said_is_refused(summarizer: Summarizer) -> None:
    with pytest.raises(SummaryRefused):
        await summarizer.fold(None, dialogue("", " \n "), 256)


async def test_the_name_says_who_wrote(summarizer: Summarizer) -> None:
    assert summarizer.name in {"chatrpc-extractive", "scripted-small"}
