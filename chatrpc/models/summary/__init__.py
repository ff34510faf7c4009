"""Summarisers: a language model where one is configured, else sentences picked by their embeddings."""

from __future__ import annotations

from chatrpc.models.summary.extractive import ExtractiveSummarizer
from chatrpc.models.summary.model import ModelSummarizer
from chatrpc.ports import ChatModel, Embedder, Summarizer
from chatrpc.settings import ModelSettings


def build_summarizer(settings: ModelSettings, chat_model: ChatModel, embedder: Embedder) -> Summarizer:
    """The summariser that the settings allow for; it borrows the model or the embedder and closes neither."""
    if settings.base_url is None:
        return ExtractiveSummarizer(embedder)
    return ModelSummarizer(chat_model, settings.summary_name or settings.name, settings.context_window)
