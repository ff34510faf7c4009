"""Messages, settings and conversations between `chatapi.v1` and the domain.

Requests are validated before they come here (`chatrpc.rpc.validation`), so ids are UUIDs and enum values are known.
An empty field of a request is None in the domain: the outer value, or the server's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from chatapi.v1 import chat_service_pb2, conversation_pb2, message_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from chatrpc.domain import (
    BusyPolicy,
    Conversation,
    ConversationMemory,
    FinishReason,
    MemoryScope,
    Message,
    MessageState,
    OutgoingMessage,
    Part,
    Regeneration,
    RetrievalMode,
    Role,
    Sampling,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    TurnSettings,
    Usage,
)
from chatrpc.errors import InvalidInput
from chatrpc.rpc.convert_tools import (
    call_to_proto,
    checked_schema,
    choice_from_proto,
    choice_to_proto,
    result_to_proto,
    tools_from_proto,
    tools_to_proto,
)

# Domain and contract name their values alike, which a missing name breaks at import.
ROLES = {role: message_pb2.Role.Value(f"ROLE_{role.name}") for role in Role}
_STATES = {state: message_pb2.MessageState.Value(f"MESSAGE_STATE_{state.name}") for state in MessageState}
_FINISH_REASONS: dict[FinishReason | None, message_pb2.FinishReason.ValueType] = {
    None: message_pb2.FINISH_REASON_UNSPECIFIED,
    **{reason: message_pb2.FinishReason.Value(f"FINISH_REASON_{reason.name}") for reason in FinishReason},
}
_SCOPES: dict[MemoryScope | None, message_pb2.MemoryScope.ValueType] = {
    None: message_pb2.MEMORY_SCOPE_UNSPECIFIED,
    **{scope: message_pb2.MemoryScope.Value(f"MEMORY_SCOPE_{scope.name}") for scope in MemoryScope},
}
_MODES: dict[RetrievalMode | None, message_pb2.RetrievalMode.ValueType] = {
    None: message_pb2.RETRIEVAL_MODE_UNSPECIFIED,
    **{mode: message_pb2.RetrievalMode.Value(f"RETRIEVAL_MODE_{mode.name}") for mode in RetrievalMode},
}
_MEMORIES: dict[ConversationMemory | None, conversation_pb2.ConversationMemory.ValueType] = {
    None: conversation_pb2.CONVERSATION_MEMORY_UNSPECIFIED,
    **{
        memory: conversation_pb2.ConversationMemory.Value(f"CONVERSATION_MEMORY_{memory.name}")
        for memory in ConversationMemory
    },
}
_SCOPE_OF = {number: scope for scope, number in _SCOPES.items()}
_MODE_OF = {number: mode for mode, number in _MODES.items()}
_MEMORY_OF = {number: memory for memory, number in _MEMORIES.items()}

_BUSY_POLICIES: dict[message_pb2.BusyPolicy.ValueType, BusyPolicy] = {
    message_pb2.BUSY_POLICY_UNSPECIFIED: BusyPolicy.QUEUE,
    **{message_pb2.BusyPolicy.Value(f"BUSY_POLICY_{policy.name}"): policy for policy in BusyPolicy},
}


def timestamp(moment: datetime) -> Timestamp:
    """A moment with its time zone; microseconds are kept."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def optional_id(value: UUID | None) -> str:
    """An id, empty where there is none."""
    return "" if value is None else str(value)


def parts_to_proto(parts: Iterable[Part]) -> list[message_pb2.Part]:
    return [_part_to_proto(part) for part in parts]


def _part_to_proto(part: Part) -> message_pb2.Part:
    match part:
        case TextPart(text):
            return message_pb2.Part(text=message_pb2.TextPart(text=text))
        case ToolCallPart():
            return message_pb2.Part(tool_call=call_to_proto(part))
        case ToolResultPart():
            return message_pb2.Part(tool_result=result_to_proto(part))


def parts_from_proto(parts: Iterable[message_pb2.Part]) -> tuple[Part, ...]:
    """What a caller says. Raises InvalidInput where it is not text."""
    said = tuple(parts)
    for index, part in enumerate(said):
        if not part.HasField("text"):
            raise InvalidInput(
                f"parts[{index}]", f"parts[{index}] is no text; tool results are given by SubmitToolResults."
            )
    return tuple(TextPart(part.text.text) for part in said)


def settings_to_proto(settings: TurnSettings) -> message_pb2.TurnSettings:
    sampling = settings.sampling
    return message_pb2.TurnSettings(
        system_instruction=settings.system_instruction or "",
        model=settings.model or "",
        # An absent field says as much as one with nothing in it, in fewer bytes.
        sampling=None
        if sampling == Sampling()
        else message_pb2.Sampling(
            temperature=sampling.temperature, top_p=sampling.top_p, max_output_tokens=sampling.max_output_tokens
        ),
        memory_scope=_SCOPES[settings.memory_scope],
        retrieval_mode=_MODES[settings.retrieval_mode],
        documents=settings.documents,
        tools=tools_to_proto(settings.tools or ()),
        tool_choice=None if settings.tool_choice is None else choice_to_proto(settings.tool_choice),
        response_schema=settings.response_schema or "",
    )


def settings_from_proto(settings: message_pb2.TurnSettings) -> TurnSettings:
    """Raises InvalidInput where a JSON Schema in them cannot be taken."""
    sampling = settings.sampling
    return TurnSettings(
        system_instruction=settings.system_instruction or None,
        model=settings.model or None,
        sampling=Sampling(
            temperature=sampling.temperature if sampling.HasField("temperature") else None,
            top_p=sampling.top_p if sampling.HasField("top_p") else None,
            max_output_tokens=sampling.max_output_tokens if sampling.HasField("max_output_tokens") else None,
        ),
        memory_scope=_SCOPE_OF[settings.memory_scope],
        retrieval_mode=_MODE_OF[settings.retrieval_mode],
        documents=settings.documents if settings.HasField("documents") else None,
        tools=tools_from_proto(settings.tools) or None,
        tool_choice=choice_from_proto(settings),
        response_schema=checked_schema(settings.response_schema, "settings.response_schema") or None,
    )


def memory_from_proto(memory: conversation_pb2.ConversationMemory.ValueType) -> ConversationMemory:
    return _MEMORY_OF[memory] or ConversationMemory.REMEMBERED


def message_to_proto(message: Message) -> message_pb2.Message:
    return message_pb2.Message(
        id=str(message.id),
        conversation_id=str(message.conversation_id),
        parent_id=optional_id(message.parent_id),
        sequence=message.sequence,
        role=ROLES[message.role],
        state=_STATES[message.state],
        parts=parts_to_proto(message.parts),
        create_time=timestamp(message.created_at),
        finish_time=None if message.finished_at is None else timestamp(message.finished_at),
        client_message_id=message.client_message_id or "",
        actor=message.actor or "",
        model=message.model or "",
        finish_reason=_FINISH_REASONS[message.finish_reason],
        usage=None if message.usage is None else _usage(message.usage),
        error_reason=message.error_reason or "",
    )


def _usage(usage: Usage) -> message_pb2.Usage:
    return message_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        estimated=usage.estimated,
    )


def conversation_to_proto(conversation: Conversation) -> conversation_pb2.Conversation:
    return conversation_pb2.Conversation(
        id=str(conversation.id),
        title=conversation.title,
        settings=settings_to_proto(conversation.settings),
        labels=conversation.labels,
        revision=conversation.revision,
        head_message_id=optional_id(conversation.head_id),
        message_count=conversation.message_count,
        create_time=timestamp(conversation.created_at),
        update_time=timestamp(conversation.updated_at),
        memory=_MEMORIES[conversation.memory],
    )


def outgoing_from_proto(message: message_pb2.OutgoingMessage) -> OutgoingMessage:
    """Raises InvalidInput."""
    if message.at_root and message.parent_id:
        raise InvalidInput("parent_id", "parent_id and at_root exclude each other; name the parent, or say at_root.")
    return OutgoingMessage(
        conversation_id=UUID(message.conversation_id),
        client_message_id=message.client_message_id,
        parts=parts_from_proto(message.parts),
        parent_id=UUID(message.parent_id) if message.parent_id else None,
        settings=settings_from_proto(message.settings),
        coalesce_window=_seconds(message.coalesce_window) if message.HasField("coalesce_window") else None,
        busy_policy=_BUSY_POLICIES[message.busy_policy],
        at_root=message.at_root,
    )


def regeneration_from_proto(request: chat_service_pb2.RegenerateReplyRequest) -> Regeneration:
    """Raises InvalidInput."""
    return Regeneration(
        conversation_id=UUID(request.conversation_id),
        message_id=UUID(request.message_id),
        client_message_id=request.client_message_id,
        settings=settings_from_proto(request.settings),
        coalesce_window=_seconds(request.coalesce_window) if request.HasField("coalesce_window") else None,
        busy_policy=_BUSY_POLICIES[request.busy_policy],
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
