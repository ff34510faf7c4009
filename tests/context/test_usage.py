"""What the background work uses is booked to its user, with what came of it or without."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from chatrpc.db.engine import Database
from chatrpc.db.summaries import Summaries
from chatrpc.errors import Reason, Unavailable
from chatrpc.models.chat import build_chat_model
from chatrpc.models.summary.model import ModelSummarizer
from chatrpc.settings import ModelSettings
from tests.context.household import Household
from tests.support.provider import Answer, Provider


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as opened:
        yield opened


@pytest.fixture
async def summarizer(provider: Provider) -> AsyncIterator[ModelSummarizer]:
    chat_model = build_chat_model(ModelSettings(base_url=provider.base_url, name="large", max_retries=0))
    yield ModelSummarizer(chat_model, "small", context_window=16_384)
    await chat_model.aclose()


async def booked(household: Household, kind: str) -> list[dict[str, Any]]:
    query = "SELECT * FROM usage_entries WHERE kind = %s ORDER BY booked_at"
    [rows] = await household.database.query(household.user_id, (query, (kind,)))
    return rows


async def test_a_summary_is_booked_with_its_models_count(
    database: Database, space_id: int, provider: Provider, summarizer: ModelSummarizer
) -> None:
    household = Household(database, space_id, keep=4, fold=4, summarizer=summarizer, summary_tokens=400)
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 5)
    await household.worker.drain()
    [entry] = await booked(household, "summary")
    [request] = provider.requests
    words = sum(len(message["content"].split()) for message in request.body["messages"])
    assert (entry["conversation_id"], entry["model"], entry["prompt_tokens"]) == (conversation_id, "small", words)
    assert (entry["completion_tokens"] > 0, entry["estimated"], entry["embedding_tokens"]) == (True, False, 0)


async def test_a_summary_that_is_refused_is_booked_too(
    database: Database, space_id: int, provider: Provider, summarizer: ModelSummarizer
) -> None:
    counted = {"prompt_tokens": 900, "completion_tokens": 4}
    provider.script(Answer(deltas=("no summary",), usage=counted), Answer(status=500))
    household = Household(database, space_id, keep=4, fold=4, summarizer=summarizer, summary_tokens=400)
    await household.talk(await household.open_conversation(), 5)
    await household.worker.drain()
    [entry] = await booked(household, "summary")
    assert (entry["prompt_tokens"], entry["completion_tokens"], entry["estimated"]) == (900, 4, False)


async def test_a_summary_whose_storing_is_not_heard_of_is_booked_once(
    database: Database,
    space_id: int,
    summarizer: ModelSummarizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add = Summaries.add

    async def lost(*args: Any, **fields: Any) -> None:
        assert await add(*args, **fields) is not None
        raise Unavailable(Reason.DATABASE_UNAVAILABLE, "The connection broke before the answer came.")

    monkeypatch.setattr(Summaries, "add", lost)
    household = Household(database, space_id, keep=4, fold=4, summarizer=summarizer, summary_tokens=400)
    await household.talk(await household.open_conversation(), 5)
    await household.worker.drain()
    assert len(await booked(household, "summary")) == 1


async def test_vectors_are_booked_with_an_estimate_of_their_tokens(household: Household) -> None:
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 1)
    await household.worker.drain()
    [entry] = await booked(household, "embedding")
    assert (entry["conversation_id"], entry["model"]) == (conversation_id, household.embedder.space.name)
    assert (entry["embedding_tokens"] > 4, entry["estimated"], entry["prompt_tokens"]) == (True, True, 0)
    assert await booked(household, "summary") == []
