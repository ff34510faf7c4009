"""Nothing is lost between the domain and the wire: what is written can be read back, whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from chatapi.v1 import chat_service_pb2, context_report_pb2, conversation_pb2, message_pb2
from google.protobuf.json_format import ParseDict
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from chatrpc.domain import (
    ContextReport,
    Conversation,
    Dropped,
    DropReason,
    FinishReason,
    Hit,
    Message,
    MessageState,
    OutgoingMessage,
    PromptMessage,
    RetrievalOutcome,
    Role,
    Section,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    TurnSettings,
    Usage,
    VerbatimRef,
)
from chatrpc.errors import InvalidInput, NotFound, Reason
from chatrpc.rpc.convert import (
    conversation_to_proto,
    memory_from_proto,
    message_to_proto,
    outgoing_from_proto,
    parts_from_proto,
    parts_to_proto,
    settings_from_proto,
    settings_to_proto,
)
from chatrpc.rpc.convert_event import write_event
from chatrpc.rpc.convert_report import citation_to_proto, prompt_to_proto, report_to_proto
from chatrpc.rpc.convert_tools import results_from_proto
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
from tests.rpc import samples


def moment(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def name(enum, number: int) -> str:
    return enum.Name(number)


def read_message(said: message_pb2.Message, like: Message) -> Message:
    """The message on the wire; `like` gives what the contract does not carry."""
    finish = name(message_pb2.FinishReason, said.finish_reason).removeprefix("FINISH_REASON_")
    usage = said.usage
    return Message(
        id=UUID(said.id),
        conversation_id=UUID(said.conversation_id),
        parent_id=UUID(said.parent_id) if said.parent_id else None,
        sequence=said.sequence,
        branch=like.branch,
        depth=like.depth,
        role=Role[name(message_pb2.Role, said.role).removeprefix("ROLE_")],
        state=MessageState[name(message_pb2.MessageState, said.state).removeprefix("MESSAGE_STATE_")],
        parts=parts_from_proto(said.parts),
        tokens=like.tokens,
        created_at=moment(said.create_time),
        client_message_id=said.client_message_id or None,
        actor=said.actor or None,
        attempt=like.attempt,
        model=said.model or None,
        finish_reason=None if finish == "UNSPECIFIED" else FinishReason[finish],
        usage=Usage(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.estimated)
        if said.HasField("usage")
        else None,
        finished_at=moment(said.finish_time) if said.HasField("finish_time") else None,
        error_reason=said.error_reason or None,
    )


def read_report(said: context_report_pb2.ContextReport) -> ContextReport:
    def member(kind, enum, prefix: str, number: int):
        return kind[name(enum, number).removeprefix(prefix)]

    summary = said.summary if said.HasField("summary") else None
    return ContextReport(
        conversation_id=UUID(said.conversation_id),
        query_message_id=UUID(said.query_message_id) if said.query_message_id else None,
        revision=said.revision,
        summary_version=summary.version if summary else None,
        summarized_through_depth=summary.message_count if summary else 0,
        verbatim=tuple(
            VerbatimRef(UUID(ref.message_id) if ref.message_id else None, ref.sequence, ref.tokens)
            for ref in said.verbatim
        ),
        retrieval=member(RetrievalOutcome, context_report_pb2.RetrievalOutcome, "RETRIEVAL_OUTCOME_", said.retrieval),
        hits=tuple(
            Hit(
                UUID(hit.message_id),
                UUID(hit.conversation_id),
                member(Role, message_pb2.Role, "ROLE_", hit.role),
                hit.text,
                moment(hit.create_time),
                hit.cosine,
                hit.rank,
                hit.sure,
                hit.tokens,
            )
            for hit in said.retrieved
        ),
        dropped=tuple(
            Dropped(
                UUID(dropped.message_id),
                member(DropReason, context_report_pb2.DropReason, "DROP_REASON_", dropped.reason),
                dropped.tokens,
            )
            for dropped in said.dropped
        ),
        section_tokens={
            member(Section, context_report_pb2.PromptSection, "PROMPT_SECTION_", each.section): each.tokens
            for each in said.sections
        },
        budget_tokens=said.budget_tokens,
        embedding_model=said.embedding_model,
        model=said.model,
        assembly_micros=said.assembly_time.ToMicroseconds(),
        embedding_micros=said.embedding_time.ToMicroseconds(),
        summary_anchor_id=UUID(summary.anchor_message_id) if summary else None,
    )


def over_the_wire(message):
    return type(message).FromString(message.SerializeToString())


@given(samples.turn_settings)
def test_settings_come_back_as_they_were(settings: TurnSettings) -> None:
    assert settings_from_proto(over_the_wire(settings_to_proto(settings))) == settings


def test_empty_settings_say_nothing() -> None:
    assert settings_from_proto(message_pb2.TurnSettings()) == TurnSettings()
    assert settings_to_proto(TurnSettings()).ByteSize() == 0


@given(samples.messages)
def test_messages_come_back_as_they_were(message: Message) -> None:
    assert read_message(over_the_wire(message_to_proto(message)), like=message) == message


@given(samples.reports())
def test_reports_come_back_as_they_were(report: ContextReport) -> None:
    assert read_report(over_the_wire(report_to_proto(report))) == report


@given(samples.reports())
def test_the_summary_states_its_cost(report: ContextReport) -> None:
    said = report_to_proto(report)
    assert said.HasField("summary") == (report.summary_version is not None)
    if said.HasField("summary"):
        assert said.summary.tokens == report.section_tokens.get(Section.SUMMARY, 0)


@given(samples.outgoing)
def test_an_outgoing_message_is_read_whole(message: OutgoingMessage) -> None:
    said = message_pb2.OutgoingMessage(
        conversation_id=str(message.conversation_id),
        client_message_id=message.client_message_id,
        parts=parts_to_proto(message.parts),
        parent_id="" if message.parent_id is None else str(message.parent_id),
        settings=settings_to_proto(message.settings),
    )
    if message.coalesce_window is not None:
        said.coalesce_window.FromTimedelta(timedelta(seconds=message.coalesce_window))
    assert outgoing_from_proto(over_the_wire(said)) == message


@given(samples.conversations)
def test_a_conversation_is_told_whole(conversation: Conversation) -> None:
    said: conversation_pb2.Conversation = over_the_wire(conversation_to_proto(conversation))
    assert (
        Conversation(
            id=UUID(said.id),
            title=said.title,
            settings=settings_from_proto(said.settings),
            labels=dict(said.labels),
            revision=said.revision,
            head_id=UUID(said.head_message_id) if said.head_message_id else None,
            path=conversation.path,
            message_count=said.message_count,
            created_at=moment(said.create_time),
            updated_at=moment(said.update_time),
            memory=memory_from_proto(said.memory),
        )
        == conversation
    )


@given(samples.ids, samples.counts, samples.counts, st.data())
def test_every_kind_of_event_bears_its_name_and_content(
    reply_id: UUID, attempt: int, sequence: int, data: st.DataObject
) -> None:
    message = data.draw(samples.messages)
    report = data.draw(samples.reports())
    citations = tuple(data.draw(st.lists(samples.citations, max_size=2)))
    error = NotFound(Reason.MESSAGE_NOT_FOUND, "message", "m")
    expected = {
        "delta": (Delta("word"), chat_service_pb2.TextDelta(text="word")),
        "context_report": (ContextBuilt(report), report_to_proto(report)),
        "completed": (
            Completed(message, citations),
            chat_service_pb2.ReplyCompleted(
                message=message_to_proto(message), citations=map(citation_to_proto, citations)
            ),
        ),
        "failed": (
            Failed(error, message),
            chat_service_pb2.ReplyFailed(status=status_of(error), message=message_to_proto(message)),
        ),
        "restarted": (Restarted(), chat_service_pb2.ReplyRestarted()),
        "tool_call": (
            ToolCall(ToolCallPart("c00000001", "weather", '{"city": "Rome"}', "Wrong.")),
            message_pb2.ToolCall(id="c00000001", name="weather", arguments='{"city": "Rome"}', problem="Wrong."),
        ),
        "tool_result": (
            ToolResult(ToolResultPart("c00000001", "It rains.", failed=True)),
            message_pb2.ToolResult(call_id="c00000001", content="It rains.", failed=True),
        ),
    }
    kinds = {field.name for field in chat_service_pb2.ReplyEvent.DESCRIPTOR.oneofs_by_name["event"].fields}
    assert kinds == set(expected), "the contract has a kind of event that the domain does not"
    for kind, (event, content) in expected.items():
        written = chat_service_pb2.ReplyEvent()
        write_event(ReplyEvent(reply_id, attempt, sequence, event), written)
        said = over_the_wire(written)
        assert (said.reply_id, said.attempt, said.sequence) == (str(reply_id), attempt, sequence)
        assert said.WhichOneof("event") == kind
        assert getattr(said, kind) == content


def test_a_reply_keeps_its_parts_and_their_order() -> None:
    call = ToolCallPart("c00000001", "weather", '{"city": "Rome"}')
    parts = (TextPart("Let me see."), call, ToolResultPart(call.id, "It rains.", failed=True), TextPart("It rains."))
    said = [over_the_wire(part) for part in parts_to_proto(parts)]
    assert [part.WhichOneof("kind") for part in said] == ["text", "tool_call", "tool_result", "text"]
    assert (said[1].tool_call.id, said[1].tool_call.name, said[1].tool_call.arguments) == (
        call.id,
        "weather",
        call.arguments,
    )
    assert results_from_proto([said[2].tool_result]) == (parts[2],)


def test_a_caller_says_text_alone() -> None:
    parts = parts_to_proto((TextPart("Hi."), ToolResultPart("c00000001", "It rains.")))
    with pytest.raises(InvalidInput, match="SubmitToolResults") as caught:
        parts_from_proto(parts)
    assert caught.value.field == "parts[1]"


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"tools": [{"name": "a", "parameters": "{"}]}, "settings.tools[0].parameters"),
        ({"tools": [{"name": "a"}, {"name": "a"}]}, "settings.tools[1].name"),
        ({"tools": [{"name": "a", "parameters": '{"$ref": "http://x.test"}'}]}, "settings.tools[0].parameters"),
        (
            {"tools": [{"name": f"t{i}", "description": "x" * 4_000} for i in range(17)]},
            "settings.tools",
        ),
        ({"tools": [{"name": "a"}], "tool_choice": {"tool": "b"}}, "settings.tool_choice.tool"),
        ({"response_schema": '{"type": "strnig"}'}, "settings.response_schema"),
    ],
)
def test_declarations_that_cannot_be_taken_are_named(settings: dict, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        settings_from_proto(ParseDict(settings, message_pb2.TurnSettings()))
    assert caught.value.field == field
    assert caught.value.message.startswith(field)


@given(st.lists(st.builds(PromptMessage, samples.texts, samples.texts, st.sampled_from(Section)), max_size=3))
def test_a_prompt_keeps_its_order_and_words(prompt: list[PromptMessage]) -> None:
    said = prompt_to_proto(prompt)
    assert [(each.role, each.content) for each in said] == [(each.role, each.content) for each in prompt]
    sections = [name(context_report_pb2.PromptSection, each.section) for each in said]
    assert sections == [f"PROMPT_SECTION_{each.section.name}" for each in prompt]
