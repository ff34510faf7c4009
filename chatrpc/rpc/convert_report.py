"""Context reports and prompts as `chatapi.v1` states them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from chatapi.v1 import context_report_pb2, conversation_service_pb2
from chatapi.v1.message_pb2 import Role
from google.protobuf.duration_pb2 import Duration

from chatrpc.domain import (
    Citation,
    ContextReport,
    DropReason,
    Hit,
    PromptMessage,
    RetrievalOutcome,
    Section,
)
from chatrpc.rpc.convert import ROLES, optional_id, timestamp
from chatrpc.rpc.convert_tools import call_to_proto

_OUTCOMES = {
    outcome: context_report_pb2.RetrievalOutcome.Value(f"RETRIEVAL_OUTCOME_{outcome.name}")
    for outcome in RetrievalOutcome
}
_DROP_REASONS = {reason: context_report_pb2.DropReason.Value(f"DROP_REASON_{reason.name}") for reason in DropReason}
_SECTIONS = {section: context_report_pb2.PromptSection.Value(f"PROMPT_SECTION_{section.name}") for section in Section}


def report_to_proto(report: ContextReport) -> context_report_pb2.ContextReport:
    return context_report_pb2.ContextReport(
        conversation_id=str(report.conversation_id),
        query_message_id=optional_id(report.query_message_id),
        revision=report.revision,
        summary=_summary(report),
        verbatim=[
            context_report_pb2.VerbatimMessage(
                message_id=optional_id(ref.message_id), sequence=ref.sequence, tokens=ref.tokens
            )
            for ref in report.verbatim
        ],
        retrieval=_OUTCOMES[report.retrieval],
        retrieved=[passage_to_proto(hit) for hit in report.hits],
        dropped=[
            context_report_pb2.DroppedMessage(
                message_id=optional_id(dropped.message_id),
                reason=_DROP_REASONS[dropped.reason],
                tokens=dropped.tokens,
                citation=_citation(dropped.citation),
            )
            for dropped in report.dropped
        ],
        sections=[
            context_report_pb2.SectionTokens(section=_SECTIONS[section], tokens=report.section_tokens[section])
            for section in Section
            if section in report.section_tokens
        ],
        budget_tokens=report.budget_tokens,
        embedding_model=report.embedding_model,
        model=report.model,
        assembly_time=_duration(report.assembly_micros),
        embedding_time=_duration(report.embedding_micros),
        summary_rebuilding=report.summary_rebuilding,
    )


def prompt_to_proto(prompt: Iterable[PromptMessage]) -> list[conversation_service_pb2.PromptMessage]:
    return [
        conversation_service_pb2.PromptMessage(
            role=message.role,
            content=message.content,
            section=_SECTIONS[message.section],
            message_ids=[str(message_id) for message_id in message.message_ids],
            tool_calls=map(call_to_proto, message.tool_calls),
            tool_call_id=message.tool_call_id or "",
        )
        for message in prompt
    ]


def _summary(report: ContextReport) -> context_report_pb2.SummaryUse | None:
    if report.summary_version is None:
        return None
    return context_report_pb2.SummaryUse(
        version=report.summary_version,
        anchor_message_id=optional_id(report.summary_anchor_id),
        message_count=report.summarized_through_depth,
        tokens=report.section_tokens.get(Section.SUMMARY, 0),
        fact_count=report.fact_count,
    )


def passage_to_proto(hit: Hit) -> context_report_pb2.RetrievedPassage:
    return context_report_pb2.RetrievedPassage(
        message_id=optional_id(hit.message_id),
        conversation_id=optional_id(hit.conversation_id),
        role=Role.ROLE_UNSPECIFIED if hit.role is None else ROLES[hit.role],
        text=hit.text,
        cosine=hit.cosine,
        rank=hit.rank,
        sure=hit.sure,
        create_time=timestamp(hit.created_at),
        tokens=hit.tokens,
        score=hit.score,
        lexical_score=hit.lexical_score,
        dense_rank=hit.dense_rank,
        lexical_rank=hit.lexical_rank,
        neighbour_score=hit.neighbour_score,
        citation=_citation(hit.citation),
    )


def _citation(citation: Citation | None) -> context_report_pb2.Citation | None:
    return None if citation is None else citation_to_proto(citation)


def citation_to_proto(citation: Citation) -> context_report_pb2.Citation:
    return context_report_pb2.Citation(
        document_id=str(citation.document_id),
        collection_id=optional_id(citation.collection_id),
        title=citation.title,
        headings=citation.headings,
        start=citation.start,
        end=citation.end,
        page=citation.page,
    )


def _duration(micros: int) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(microseconds=micros))
    return duration
