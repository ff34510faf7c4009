"""Events of a running reply as bytes, for other processes. Of the last one, its being there is told: all else is in
the database by then."""

from __future__ import annotations

import json
from collections.abc import Callable

from chatrpc.db.codec import parts_from_json, parts_to_json, report_from_json, report_to_json
from chatrpc.domain import TextPart, ToolCallPart
from chatrpc.turns.events import Completed, ContextBuilt, Delta, Event, Failed, Restarted, ToolCall, ToolResult

_CONTEXT, _DELTA, _TOOL, _RESTARTED, _LAST = b"c", b"d", b"t", b"r", b"l"


def _tool_event(data: bytes) -> ToolCall | ToolResult:
    [part] = parts_from_json([json.loads(data)])
    if isinstance(part, ToolCallPart):
        return ToolCall(part)
    assert not isinstance(part, TextPart), "text is told by deltas"
    return ToolResult(part)


_DECODE: dict[bytes, Callable[[bytes], Event | None]] = {
    _CONTEXT: lambda data: ContextBuilt(report_from_json(json.loads(data))),
    _DELTA: lambda data: Delta(data.decode()),
    _TOOL: _tool_event,
    _RESTARTED: lambda data: Restarted(),
    _LAST: lambda data: None,
}


def encode(event: Event) -> bytes:
    match event:
        case Delta(text):
            return _DELTA + text.encode()
        case ContextBuilt(report):
            return _CONTEXT + report_to_json(report).encode()
        case ToolCall(part) | ToolResult(part):
            [value] = parts_to_json([part])
            return _TOOL + json.dumps(value).encode()
        case Restarted():
            return _RESTARTED
        case Completed() | Failed():
            return _LAST


def decode(data: bytes) -> Event | None:
    """None stands for the last event."""
    return _DECODE[data[:1]](data[1:])
