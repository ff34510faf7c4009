"""A reply as the messages that a language model gets: between its texts, the rounds of tool calls with their results.

The protocol wants each message with calls followed by one result for each of them. Where a reply was cut off while it
waited, a sentence stands for the result that never came.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from uuid import UUID

from chatrpc.domain import Part, PromptMessage, Section, TextPart, Tool, ToolCallPart, ToolResultPart, TurnSettings
from chatrpc.errors import ModelRejected, Reason
from chatrpc.models.profiles import ModelProfile
from chatrpc.tokens import cut_to_tokens, estimate_tokens

MESSAGE_OVERHEAD = 8
"""Tokens that a chat template adds to a message at most (role, delimiters, line ends), with some room."""
CALL_OVERHEAD = 24
"""Tokens of a call's id, type and delimiters, and as many again for the id in its result."""

NO_RESULT = "No result came."
_CUT = "\n[The result was cut here: it is longer than the model can read.]"
_CUT_TOKENS = estimate_tokens(_CUT)

DECLARATIONS_SHARE = 1 / 2
"""Part of a model's budget that declared tools and a response schema may take at most."""
EXCHANGE_SHARE = 1 / 4
"""Part of it that is kept for a reply's own tool calls and their results, where tools are declared."""

Count = Callable[[str], int]


def parts_tokens(parts: Iterable[Part], count: Count = estimate_tokens) -> int:
    """Upper estimate of what the parts of one message cost in a prompt, but for its first message's own overhead."""
    tokens = 0
    texts: list[str] = []
    for part in parts:
        match part:
            case TextPart(text):
                texts.append(text)
            case ToolCallPart():
                # A call costs twice: it opens a message, and another one has its result, be it none.
                tokens += count(part.name) + count(part.arguments) + count(NO_RESULT)
                tokens += 2 * (CALL_OVERHEAD + MESSAGE_OVERHEAD)
            case ToolResultPart():
                tokens += count(part.content)
    return tokens + count("".join(texts))


def tools_tokens(tools: Sequence[Tool], response_schema: str | None) -> int:
    """Upper estimate of what declared tools and a response schema cost in a prompt."""
    tokens = 0 if response_schema is None else estimate_tokens(response_schema) + CALL_OVERHEAD
    for tool in tools:
        tokens += sum(map(estimate_tokens, (tool.name, tool.description, tool.parameters))) + CALL_OVERHEAD
    return tokens


def beside_tools(profile: ModelProfile, settings: TurnSettings) -> tuple[ModelProfile, int]:
    """What a model takes beside the turn's tools, and the tokens kept for calls and results.

    Raises:
        ModelRejected: The declarations leave too little room for the conversation.
    """
    tools = settings.tools or ()
    if not tools and settings.response_schema is None:
        return profile, 0
    declared = tools_tokens(tools, settings.response_schema)
    if declared > profile.budget * DECLARATIONS_SHARE:
        raise ModelRejected(
            Reason.MODEL_REJECTED, "The model's window is too small for so many tools or such a schema; declare less."
        )
    exchange = int(profile.budget * EXCHANGE_SHARE) if tools else 0
    return replace(profile, window=profile.window - declared - exchange), exchange


def reply_prompts(
    parts: Sequence[Part], section: Section, message_ids: tuple[UUID, ...] = ()
) -> tuple[PromptMessage, ...]:
    """The messages that stand for the parts of a reply.

    Args:
        message_ids: Of the stored reply.
    """
    results = {part.call_id: part for part in parts if isinstance(part, ToolResultPart)}
    messages: list[PromptMessage] = []
    text, calls = "", list[ToolCallPart]()

    def close() -> None:
        nonlocal text, calls
        if text or calls:
            messages.append(PromptMessage("assistant", text, section, message_ids, tuple(map(_sendable, calls))))
        for call in calls:
            result = results.get(call.id)
            content = NO_RESULT if result is None else result.content
            messages.append(PromptMessage("tool", content, section, message_ids, tool_call_id=call.id))
        text, calls = "", []

    for before, part in zip((None, *parts), parts, strict=False):
        match part:
            case TextPart():
                if calls:
                    close()
                text += part.text
            case ToolCallPart():
                if isinstance(before, ToolResultPart):
                    close()
                calls.append(part)
            case ToolResultPart():
                pass
    close()
    return tuple(messages)


def fitted(messages: Sequence[PromptMessage], room: int) -> tuple[PromptMessage, ...] | None:
    """The messages with the longest results cut so that all cost at most `room` tokens; None where that cannot be."""
    sizes = {index: estimate_tokens(each.content) for index, each in enumerate(messages) if each.role == "tool"}
    rest = room - sum(map(_cost, messages)) + sum(sizes.values())
    limits: dict[int, int] = {}
    for done, (index, size) in enumerate(sorted(sizes.items(), key=lambda each: each[1])):
        limits[index] = min(size, rest // (len(sizes) - done))
        rest -= limits[index]
    if rest < 0 or any(limit < min(sizes[index], 2 * _CUT_TOKENS) for index, limit in limits.items()):
        return None
    return tuple(
        replace(each, content=cut_to_tokens(each.content, limits[index] - _CUT_TOKENS) + _CUT)
        if limits.get(index, 0) < sizes.get(index, 0)
        else each
        for index, each in enumerate(messages)
    )


def _cost(message: PromptMessage) -> int:
    calls = sum(estimate_tokens(each.name) + estimate_tokens(each.arguments) for each in message.tool_calls)
    return estimate_tokens(message.content) + MESSAGE_OVERHEAD + calls + CALL_OVERHEAD * (len(message.tool_calls) + 1)


def _sendable(call: ToolCallPart) -> ToolCallPart:
    """Some servers parse the arguments of earlier calls, and refuse the whole prompt where one is no object. What the
    model wrote stands in the result that told it so."""
    if not call.problem:
        return call
    try:
        if isinstance(json.loads(call.arguments), dict):
            return call
    except (ValueError, RecursionError):
        pass
    return replace(call, arguments="{}")
