"""The events of a finished reply, told again from what is stored, the same as they were told live.

Of an erased reply nothing is left to tell but its end.
"""

from __future__ import annotations

from collections.abc import Iterator

from chatrpc.domain import ContextReport, Message, MessageState, TextPart, ToolCallPart, ToolResultPart
from chatrpc.errors import ChatError, FailedPrecondition, ModelRejected, Reason, Unavailable
from chatrpc.turns.events import (
    Completed,
    ContextBuilt,
    Delta,
    Event,
    Failed,
    ReplyEvent,
    Restarted,
    ToolCall,
    ToolResult,
)


def replay(reply: Message, report: ContextReport | None) -> list[ReplyEvent]:
    """All events of the attempt that finished `reply`."""
    return [
        ReplyEvent(reply.id, reply.attempt, sequence, event)
        for sequence, event in enumerate(_events(reply, report), start=1)
    ]


def _events(reply: Message, report: ContextReport | None) -> Iterator[Event]:
    if reply.state is MessageState.ERASED:
        yield Completed(reply)
        return
    if reply.attempt > 1:
        yield Restarted()
    if report is not None:
        yield ContextBuilt(report)
    yield from _content(reply)
    if reply.state is MessageState.FAILED:
        yield Failed(failure(Reason(reply.error_reason or Reason.INTERNAL)), reply)
    else:
        yield Completed(reply, () if report is None else report.citations)


def _content(reply: Message) -> Iterator[Delta | ToolCall | ToolResult]:
    """The parts in their order; a text part ends where a delta ends."""
    ends = iter(reply.delta_ends)
    before = 0
    for part in reply.parts:
        match part:
            case TextPart(text):
                start = 0
                for end in ends:
                    yield Delta(text[start : end - before])
                    start = end - before
                    if start >= len(text):
                        break
                before += len(text)
            case ToolCallPart():
                yield ToolCall(part)
            case ToolResultPart():
                yield ToolResult(part)


def failure(reason: Reason) -> ChatError:
    """What readers are told of a reply that failed for a reason; the reason alone is stored."""
    match reason:
        case Reason.MODEL_UNAVAILABLE:
            return Unavailable(reason, "The language model cannot be reached; send the message again later.")
        case Reason.TURN_TIMED_OUT:
            return Unavailable(reason, "The language model took too long to begin; send the message again later.")
        case Reason.MODEL_REJECTED:
            return ModelRejected(reason, "The language model refuses the request; check the model's name and settings.")
        case Reason.TOOL_RESULT_TIMED_OUT:
            return Unavailable(reason, "No client sent the result of a tool call in time; send the message again.")
        case Reason.TOOL_ARGUMENTS_INVALID:
            return FailedPrecondition(
                reason, "The model called tools with wrong arguments twice in a row; say more in their descriptions."
            )
        case Reason.TOOL_ROUNDS_EXCEEDED:
            return FailedPrecondition(
                reason, "The model called tools for more rounds than are allowed; ask for less at once."
            )
        case Reason.RESPONSE_SCHEMA_VIOLATED:
            return FailedPrecondition(
                reason,
                "The model's text does not obey response_schema; send the message again, or simplify the schema.",
            )
        case Reason.INTERNAL:
            return ChatError(reason, "The reply failed by a fault of the server.")
        case _:
            return FailedPrecondition(reason, "The reply could not be generated.")
