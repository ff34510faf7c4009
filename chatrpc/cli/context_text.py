"""A context report in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from chatapi.v1 import context_report_pb2 as pb
from chatapi.v1.message_pb2 import ROLE_USER
from google.protobuf.duration_pb2 import Duration

_QUOTE_CHARACTERS = 72
_LISTED = 5

_OUTCOMES = {
    pb.RETRIEVAL_OUTCOME_NOTHING_RELEVANT: "nothing was near enough",
    pb.RETRIEVAL_OUTCOME_DISABLED: "there was nothing to search, or retrieval is switched off",
    pb.RETRIEVAL_OUTCOME_TIMED_OUT: "the search took too long",
    pb.RETRIEVAL_OUTCOME_FAILED: "the search failed",
}
_REASONS = {
    pb.DROP_REASON_BUDGET: "the token budget had no room",
    pb.DROP_REASON_TRUNCATED: "cut to the token budget",
    pb.DROP_REASON_BELOW_FLOOR: "below the embedding model's floor",
    pb.DROP_REASON_NOT_SURE: "no sure hit, and only those were asked for",
    pb.DROP_REASON_EMPTY: "without any text",
}
_SECTIONS = {
    pb.PROMPT_SECTION_SYSTEM: "system",
    pb.PROMPT_SECTION_SUMMARY: "summary",
    pb.PROMPT_SECTION_VERBATIM: "word for word",
    pb.PROMPT_SECTION_RETRIEVED: "retrieved",
    pb.PROMPT_SECTION_QUERY: "your message",
}


def context_text(report: pb.ContextReport) -> str:
    """What the model was given for a reply, and why, for people."""
    return "\n".join(_lines(report))


def _lines(report: pb.ContextReport) -> Iterator[str]:
    yield f"Model: {report.model}; embeddings by {report.embedding_model}"
    if report.HasField("summary"):
        summary = report.summary
        yield (
            f"Summary: version {summary.version} covers the first {_count(summary.message_count, 'message')}, "
            f"{summary.tokens:,} tokens"
        )
    else:
        yield "Summary: none"
    yield _verbatim(report.verbatim)
    yield from _retrieved(report)
    yield from _dropped(report.dropped)
    sections = ", ".join(f"{_SECTIONS.get(each.section, 'other')} {each.tokens:,}" for each in report.sections)
    total = sum(each.tokens for each in report.sections)
    yield f"Tokens: {sections}; together {total:,} of at most {report.budget_tokens:,}"
    yield f"Time: {_milliseconds(report.assembly_time)} to assemble, {_milliseconds(report.embedding_time)} to embed"


def _verbatim(messages: Sequence[pb.VerbatimMessage]) -> str:
    numbers = [message.sequence for message in messages if message.sequence]
    tokens = sum(message.tokens for message in messages)
    return f"Word for word: {_count(len(messages), 'message')}, number {_ranges(numbers)}, {tokens:,} tokens"


def _retrieved(report: pb.ContextReport) -> Iterator[str]:
    if not report.retrieved:
        yield f"Retrieved: none; {_OUTCOMES.get(report.retrieval, 'the search found nothing')}"
        return
    yield f"Retrieved: {_count(len(report.retrieved), 'passage')}"
    for hit in report.retrieved:
        who = "you" if hit.role == ROLE_USER else "assistant"
        where = "" if hit.conversation_id == report.conversation_id else f", conversation {hit.conversation_id}"
        yield (
            f"  cosine {hit.cosine:.2f}{' (sure)' if hit.sure else ''}, rank {hit.rank}, {hit.tokens:,} tokens, {who}, "
            f'{hit.create_time.ToDatetime():%Y-%m-%d %H:%M} UTC{where}: "{_quote(hit.text)}"'
        )


def _dropped(dropped: Sequence[pb.DroppedMessage]) -> Iterator[str]:
    if not dropped:
        yield "Left out: nothing"
        return
    yield f"Left out, or not whole: {_count(len(dropped), 'message')}"
    by_reason: defaultdict[pb.DropReason.ValueType, list[pb.DroppedMessage]] = defaultdict(list)
    for each in dropped:
        by_reason[each.reason].append(each)
    for reason, messages in by_reason.items():
        ids = ", ".join(message.message_id for message in messages[:_LISTED])
        more = f" and {len(messages) - _LISTED} more" if len(messages) > _LISTED else ""
        tokens = sum(message.tokens for message in messages)
        yield f"  {_REASONS.get(reason, 'for a reason unknown here')}, {tokens:,} tokens: {ids}{more}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as ranges: `3-7, 9`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    return ", ".join("-".join(map(str, each)) for each in ranges) or "none"


def _quote(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _QUOTE_CHARACTERS else f"{line[:_QUOTE_CHARACTERS].rstrip()} …"


def _milliseconds(duration: Duration) -> str:
    return f"{duration.ToMicroseconds() / 1000:.1f} ms"
