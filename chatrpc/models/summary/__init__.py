"""Summarisers: a language model where one is configured, else sentences and facts picked by their words."""

from __future__ import annotations

from chatrpc.models.profiles import ModelProfiles
from chatrpc.models.summary.extractive import ExtractiveSummarizer
from chatrpc.models.summary.model import ModelSummarizer
from chatrpc.ports import ChatModel, Summarizer
from chatrpc.settings import ModelSettings


def build_summarizer(settings: ModelSettings, chat_model: ChatModel, profiles: ModelProfiles) -> Summarizer:
    """The summariser that the settings allow for; it borrows the model and does not close it."""
    if settings.base_url is None:
        return ExtractiveSummarizer()
    name = settings.summary_name or settings.name
    return ModelSummarizer(chat_model, name, profiles.of(chat_model.model_name(name)).window)
