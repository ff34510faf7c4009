"""Tools, their calls and their results between `chatapi.v1` and the domain. JSON Schemas are checked on the way in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chatapi.v1 import message_pb2

from chatrpc.domain import Tool, ToolCallPart, ToolChoice, ToolMode, ToolResultPart
from chatrpc.errors import InvalidInput
from chatrpc.schemas import Schema, SchemaError

MAX_TOOLS_CHARACTERS = 64 * 1024
"""Of all tools of a turn together; they are stored with its message."""

_MODES = {mode: message_pb2.ToolChoice.Mode.Value(f"MODE_{mode.name}") for mode in ToolMode}
_MODE_OF = {number: mode for mode, number in _MODES.items()}


def tools_to_proto(tools: Iterable[Tool]) -> list[message_pb2.Tool]:
    return [
        message_pb2.Tool(name=tool.name, description=tool.description, parameters=tool.parameters) for tool in tools
    ]


def tools_from_proto(tools: Sequence[message_pb2.Tool]) -> tuple[Tool, ...]:
    """Raises InvalidInput where a name comes twice, a schema cannot be taken, or they are too long together."""
    names: set[str] = set()
    for index, tool in enumerate(tools):
        field = f"settings.tools[{index}]"
        if tool.name in names:
            raise InvalidInput(f"{field}.name", f"{field}.name is {tool.name!r} a second time; give each tool its own.")
        names.add(tool.name)
        checked_schema(tool.parameters, f"{field}.parameters")
    if sum(len(tool.name) + len(tool.description) + len(tool.parameters) for tool in tools) > MAX_TOOLS_CHARACTERS:
        raise InvalidInput(
            "settings.tools", f"settings.tools has more than {MAX_TOOLS_CHARACTERS} characters; declare fewer tools."
        )
    return tuple(Tool(tool.name, tool.description, tool.parameters) for tool in tools)


def checked_schema(text: str, field: str) -> str:
    """The text of a JSON Schema, or an empty one. Raises InvalidInput where it cannot be taken."""
    try:
        if text:
            Schema(text)
    except SchemaError as error:
        raise InvalidInput(field, f"{field} {error}.") from None
    return text


def choice_to_proto(choice: ToolChoice) -> message_pb2.ToolChoice:
    if choice.tool is not None:
        return message_pb2.ToolChoice(tool=choice.tool)
    return message_pb2.ToolChoice(mode=_MODES[choice.mode])


def choice_from_proto(settings: message_pb2.TurnSettings) -> ToolChoice | None:
    """Raises InvalidInput where it names a tool that is not among those beside it."""
    if not settings.HasField("tool_choice"):
        return None
    choice, tools = settings.tool_choice, settings.tools
    if not choice.HasField("tool"):
        return ToolChoice(_MODE_OF.get(choice.mode, ToolMode.AUTO))
    if tools and choice.tool not in {tool.name for tool in tools}:
        raise InvalidInput(
            "settings.tool_choice.tool", f"settings.tool_choice.tool {choice.tool!r} is none of settings.tools."
        )
    return ToolChoice(ToolMode.REQUIRED, choice.tool)


def call_to_proto(call: ToolCallPart) -> message_pb2.ToolCall:
    return message_pb2.ToolCall(id=call.id, name=call.name, arguments=call.arguments, problem=call.problem)


def result_to_proto(result: ToolResultPart) -> message_pb2.ToolResult:
    return message_pb2.ToolResult(call_id=result.call_id, content=result.content, failed=result.failed)


def results_from_proto(results: Iterable[message_pb2.ToolResult]) -> tuple[ToolResultPart, ...]:
    return tuple(ToolResultPart(result.call_id, result.content, result.failed) for result in results)
