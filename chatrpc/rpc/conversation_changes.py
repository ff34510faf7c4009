"""What an UpdateConversation asks for: the fields that its mask names."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from chatapi.v1.conversation_service_pb2 import UpdateConversationRequest

from chatrpc.db.conversations import ConversationChanges, Conversations
from chatrpc.domain import Conversation, TurnSettings
from chatrpc.errors import Conflict, InvalidInput
from chatrpc.rpc.convert import memory_from_proto, settings_from_proto

_SETTINGS = (
    "system_instruction",
    "model",
    "sampling",
    "memory_scope",
    "retrieval_mode",
    "documents",
    "tools",
    "tool_choice",
    "response_schema",
)
_SAMPLING = ("temperature", "top_p", "max_output_tokens")
PATHS = (
    "title",
    "labels",
    "memory",
    "settings",
    *(f"settings.{name}" for name in _SETTINGS),
    *(f"settings.sampling.{name}" for name in _SAMPLING),
)

# A turn of another tab raises the revision between reading and writing; it does so a few times a second at most.
_ATTEMPTS = 5


async def update_conversation(
    conversations: Conversations, user_id: UUID, request: UpdateConversationRequest
) -> Conversation:
    """Apply a request. Where the mask names single settings, the others are read first and kept.

    Raises:
        InvalidInput: The id is missing, or the mask is empty or names something else.
        NotFound, Conflict, FailedPrecondition: As `Conversations.update`.
    """
    paths = _paths(request)
    conversation_id = UUID(request.conversation.id)
    keeps_settings = any(path.startswith("settings.") for path in paths) and "settings" not in paths
    if not keeps_settings:
        changes = _changes(request, paths, TurnSettings())
        return await conversations.update(user_id, conversation_id, changes, request.expected_revision or None)
    for attempt in range(1, _ATTEMPTS + 1):
        current = await conversations.get(user_id, conversation_id)
        changes = _changes(request, paths, current.settings)
        expected = request.expected_revision or current.revision
        try:
            return await conversations.update(user_id, conversation_id, changes, expected)
        except Conflict:
            if request.expected_revision or attempt == _ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


def _paths(request: UpdateConversationRequest) -> frozenset[str]:
    if not request.conversation.id:
        raise InvalidInput("conversation.id", "conversation.id is empty; name the conversation to change.")
    paths = frozenset(request.update_mask.paths)
    unknown = sorted(paths.difference(PATHS))
    if unknown or not paths:
        what = f"update_mask names {unknown[0]!r}" if unknown else "update_mask is empty"
        raise InvalidInput("update_mask", f"{what}; it takes {', '.join(PATHS)}.")
    return paths


def _changes(request: UpdateConversationRequest, paths: frozenset[str], current: TurnSettings) -> ConversationChanges:
    asked = request.conversation
    return ConversationChanges(
        title=asked.title if "title" in paths else None,
        labels=dict(asked.labels) if "labels" in paths else None,
        settings=_settings(settings_from_proto(asked.settings), paths, current)
        if any(path.startswith("settings") for path in paths)
        else None,
        memory=memory_from_proto(asked.memory) if "memory" in paths else None,
    )


def _settings(asked: TurnSettings, paths: frozenset[str], current: TurnSettings) -> TurnSettings:
    if "settings" in paths:
        return asked
    named = {name: getattr(asked, name) for name in _SETTINGS if f"settings.{name}" in paths}
    settings = replace(current, **named)
    drawn = {name: getattr(asked.sampling, name) for name in _SAMPLING if f"settings.sampling.{name}" in paths}
    return replace(settings, sampling=replace(settings.sampling, **drawn))
