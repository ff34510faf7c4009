"""What is sent to an endpoint of the OpenAI Chat Completions protocol."""

from __future__ import annotations

import itertools
import json
from collections.abc import Hashable, Iterable
from typing import Any

from chatrpc.domain import PromptMessage, Tool, ToolChoice
from chatrpc.models.chat.fallback import Candidate
from chatrpc.ports import ModelRequest

_NO_PARAMETERS = {"type": "object", "properties": {}}


def chat_body(request: ModelRequest, candidate: Candidate) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": candidate.model,
        "messages": joined(request.prompt),
        "stream": True,
        "stream_options": {"include_usage": True},
        candidate.endpoint.limit_name: candidate.max_output_tokens,
    }
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        if request.tool_choice is not None:
            body["tool_choice"] = _choice(request.tool_choice)
    if request.response_schema is not None:
        schema = {"name": "reply", "schema": json.loads(request.response_schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.sampling.temperature is not None:
        body["temperature"] = request.sampling.temperature
    if request.sampling.top_p is not None:
        body["top_p"] = request.sampling.top_p
    return body


def joined(prompt: Iterable[PromptMessage]) -> list[dict[str, Any]]:
    """The prompt with neighbours of one role made one message: many chat templates of open models (Mistral, Gemma)
    refuse a second system message, and users and assistants that do not take turns. Tool calls and their results stand
    by themselves."""
    sent: list[dict[str, Any]] = []
    for _, group in itertools.groupby(enumerate(prompt), key=lambda each: _group(*each)):
        first, *others = [message for _, message in group]
        if first.tool_call_id is not None:
            sent.append({"role": "tool", "tool_call_id": first.tool_call_id, "content": first.content})
        elif first.tool_calls:
            sent.append(_calling(first))
        else:
            content = "\n\n".join((first.content, *(message.content for message in others)))
            sent.append({"role": first.role, "content": content})
    return sent


def _group(index: int, message: PromptMessage) -> Hashable:
    return (index, message.role) if message.tool_calls or message.tool_call_id is not None else message.role


def _calling(message: PromptMessage) -> dict[str, Any]:
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.tool_calls
    ]
    return {"role": "assistant", "content": message.content or None, "tool_calls": calls}


def _tool(tool: Tool) -> dict[str, Any]:
    parameters = json.loads(tool.parameters) if tool.parameters else _NO_PARAMETERS
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def _choice(choice: ToolChoice) -> str | dict[str, Any]:
    if choice.tool is None:
        return choice.mode.value
    return {"type": "function", "function": {"name": choice.tool}}
