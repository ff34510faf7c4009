"""Domain values as JSON columns, and rows as domain values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from chatrpc.domain import (
    ContextReport,
    Fact,
    FinishReason,
    MemoryScope,
    Message,
    MessageState,
    Part,
    Path,
    RetrievalMode,
    Role,
    Sampling,
    Summary,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolMode,
    ToolResultPart,
    TurnSettings,
    Usage,
)

_REPORT = TypeAdapter(ContextReport)
_FACTS = TypeAdapter(tuple[Fact, ...])


def parts_to_json(parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [_part_to_json(part) for part in parts]


def _part_to_json(part: Part) -> dict[str, Any]:
    match part:
        case TextPart(text):
            return {"text": text}
        case ToolCallPart():
            return {"tool_call": asdict(part)}
        case ToolResultPart():
            return {"tool_result": asdict(part)}


def parts_from_json(value: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    return tuple(map(_part_from_json, value))


def _part_from_json(value: Mapping[str, Any]) -> Part:
    match value:
        case {"tool_call": call}:
            return ToolCallPart(**call)
        case {"tool_result": result}:
            return ToolResultPart(**result)
        case _:
            return TextPart(value["text"])


def content_hash(parts: Sequence[Part]) -> bytes:
    """SHA-256 of a message's content: it tells a resend from another message with the same key."""
    return hashlib.sha256(json.dumps(parts_to_json(parts), ensure_ascii=False).encode()).digest()


def settings_to_json(settings: TurnSettings) -> dict[str, Any]:
    values = {
        "system_instruction": settings.system_instruction,
        "model": settings.model,
        "temperature": settings.sampling.temperature,
        "top_p": settings.sampling.top_p,
        "max_output_tokens": settings.sampling.max_output_tokens,
        "memory_scope": settings.memory_scope,
        "retrieval_mode": settings.retrieval_mode,
        "documents": settings.documents,
        "tools": None if settings.tools is None else [asdict(tool) for tool in settings.tools],
        "tool_choice": None if settings.tool_choice is None else asdict(settings.tool_choice),
        "response_schema": settings.response_schema,
    }
    return {name: value for name, value in values.items() if value is not None}


def settings_from_json(value: Mapping[str, Any] | None) -> TurnSettings:
    if not value:
        return TurnSettings()
    scope, mode = value.get("memory_scope"), value.get("retrieval_mode")
    tools, choice = value.get("tools"), value.get("tool_choice")
    return TurnSettings(
        system_instruction=value.get("system_instruction"),
        model=value.get("model"),
        sampling=Sampling(
            temperature=value.get("temperature"),
            top_p=value.get("top_p"),
            max_output_tokens=value.get("max_output_tokens"),
        ),
        memory_scope=None if scope is None else MemoryScope(scope),
        retrieval_mode=None if mode is None else RetrievalMode(mode),
        documents=value.get("documents"),
        tools=None if tools is None else tuple(Tool(**tool) for tool in tools),
        tool_choice=None if choice is None else ToolChoice(ToolMode(choice["mode"]), choice["tool"]),
        response_schema=value.get("response_schema"),
    )


def usage_to_json(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "estimated": usage.estimated,
    }


def report_to_json(report: ContextReport) -> str:
    return _REPORT.dump_json(report).decode()


def report_from_json(value: Mapping[str, Any]) -> ContextReport:
    return _REPORT.validate_python(value)


def facts_to_json(facts: tuple[Fact, ...]) -> str:
    return _FACTS.dump_json(facts).decode()


def facts_from_json(value: Sequence[Mapping[str, Any]]) -> tuple[Fact, ...]:
    return _FACTS.validate_python(value)


def path_of(lineage: Sequence[int], branch: int, depth: int) -> Path:
    """A stored lineage and the path's last segment as a path; empty where the depth is 0."""
    if depth == 0:
        return ()
    return (*zip(lineage[::2], lineage[1::2], strict=True), (branch, depth))


# The columns that `message_of` reads, for the table alias `m`.
MESSAGE_COLUMNS = (
    "m.id, m.conversation_id, m.parent_id, m.sequence, m.branch, m.depth, m.role, m.state, m.parts, m.tokens, "
    "m.created_at, m.client_message_id, m.actor, m.attempt, m.model, m.finish_reason, m.error_reason, m.usage, "
    "m.delta_ends, m.finished_at"
)


def message_of(row: Mapping[str, Any]) -> Message:
    usage, finish_reason = row["usage"], row["finish_reason"]
    return Message(
        id=row["id"],
        conversation_id=row["conversation_id"],
        parent_id=row["parent_id"],
        sequence=row["sequence"],
        branch=row["branch"],
        depth=row["depth"],
        role=Role(row["role"]),
        state=MessageState(row["state"]),
        parts=parts_from_json(row["parts"]),
        tokens=row["tokens"],
        created_at=row["created_at"],
        client_message_id=row["client_message_id"],
        actor=row["actor"],
        attempt=row["attempt"],
        model=row["model"],
        finish_reason=None if finish_reason is None else FinishReason(finish_reason),
        usage=None if usage is None else Usage(**usage),
        finished_at=row["finished_at"],
        delta_ends=tuple(row["delta_ends"] or ()),
        error_reason=row["error_reason"],
    )


def summary_of(row: Mapping[str, Any]) -> Summary:
    return Summary(
        version=row["version"],
        anchor_id=row["anchor_id"],
        anchor_branch=row["anchor_branch"],
        anchor_depth=row["anchor_depth"],
        text=row["text"],
        tokens=row["tokens"],
        model=row["model"],
        created_at=row["created_at"],
        facts=facts_from_json(row["facts"]),
    )
