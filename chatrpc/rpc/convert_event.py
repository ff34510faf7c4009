"""What a turn says, as `chatapi.v1` states it; the same on every door."""

from __future__ import annotations

from chatapi.v1 import chat_service_pb2

from chatrpc.domain import Accepted
from chatrpc.rpc.convert import message_to_proto
from chatrpc.rpc.convert_report import citation_to_proto, report_to_proto
from chatrpc.rpc.convert_tools import call_to_proto, result_to_proto
from chatrpc.rpc.status import status_of
from chatrpc.turns.events import (
    Completed,
    ContextBuilt,
    Delta,
    Failed,
    ReplyEvent,
    Restarted,
    ToolCall,
    ToolResult,
)


def accepted_to_proto(accepted: Accepted, request_id: str = "") -> chat_service_pb2.MessageAccepted:
    """Args: request_id: Of the request on a Chat stream; empty on the other doors."""
    return chat_service_pb2.MessageAccepted(
        request_id=request_id,
        message=message_to_proto(accepted.message),
        reply_id=str(accepted.reply.id),
        reply_sequence=accepted.reply.sequence,
        duplicate=accepted.duplicate,
    )


def write_event(event: ReplyEvent, said: chat_service_pb2.ReplyEvent) -> None:
    """Fill an empty event. It is filled where it stands in its response, which saves a copy for each delta."""
    said.reply_id = str(event.reply_id)
    said.attempt = event.attempt
    said.sequence = event.sequence
    match event.event:
        case Delta(text):
            said.delta.text = text
        case ToolCall(part):
            said.tool_call.CopyFrom(call_to_proto(part))
        case ToolResult(result):
            said.tool_result.CopyFrom(result_to_proto(result))
        case ContextBuilt(report):
            said.context_report.CopyFrom(report_to_proto(report))
        case Completed(message, citations):
            said.completed.message.CopyFrom(message_to_proto(message))
            said.completed.citations.extend(map(citation_to_proto, citations))
        case Failed(error, message):
            said.failed.status.CopyFrom(status_of(error))
            said.failed.message.CopyFrom(message_to_proto(message))
        case Restarted():
            said.restarted.SetInParent()
