"""A provider on loopback, and the real client at it."""

from collections.abc import AsyncIterator, Callable

import pytest

from chatrpc.models.chat import build_chat_model
from chatrpc.ports import ChatModel, ModelEvent, ModelFinished, ModelRequest, TextDelta
from chatrpc.settings import ModelSettings
from tests.support.provider import Provider

BuildModel = Callable[..., ChatModel]


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as running:
        yield running


@pytest.fixture
async def build_model(provider: Provider) -> AsyncIterator[BuildModel]:
    """Builds a model at the provider; settings can be given by name."""
    models: list[ChatModel] = []

    def build(**settings: object) -> ChatModel:
        values = {"base_url": provider.base_url, "api_key": "secret-key", "name": "scripted", **settings}
        models.append(build_chat_model(ModelSettings.model_validate(values)))
        return models[-1]

    yield build
    for model in models:
        await model.aclose()


async def run(model: ChatModel, request: ModelRequest) -> tuple[str, ModelFinished]:
    """The whole reply, and the event that ends it."""
    events: list[ModelEvent] = [event async for event in model.stream(request)]
    *deltas, finished = events
    assert isinstance(finished, ModelFinished)
    assert all(isinstance(delta, TextDelta) for delta in deltas)
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)), finished
