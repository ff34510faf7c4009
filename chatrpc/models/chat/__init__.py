"""Language models that answer: any OpenAI-compatible endpoint, or the offline model where none is configured."""

from __future__ import annotations

from chatrpc.models.chat.offline import OfflineChatModel
from chatrpc.models.profiles import ModelProfiles, load_profiles
from chatrpc.ports import ChatModel
from chatrpc.settings import ModelSettings


def build_chat_model(settings: ModelSettings, profiles: ModelProfiles | None = None) -> ChatModel:
    """The language model that the settings name; the caller closes it.

    Args:
        profiles: What fallbacks take; read from the settings where absent, which the offline model does without.
    """
    if settings.base_url is None:
        return OfflineChatModel()
    # The client library takes a second to import, which a server with the offline model need not wait for.
    from chatrpc.models.chat.openai import OpenAIChatModel

    return OpenAIChatModel(settings, profiles or load_profiles(settings))
