"""A context report in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from chatapi.v1 import context_report_pb2 as pb
from chatapi.v1.message_pb2 import ROLE_USER
from google.protobuf.duration_pb2 import Duration

from chatrpc.domain import counted

_QUOTE_CHARACTERS = 72

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
    pb.DROP_REASON_NEAR_DUPLICATE: "almost the same as a better one",
}
_SECTIONS = {
    pb.PROMPT_SECTION_SYSTEM: "system",
    pb.PROMPT_SECTION_SUMMARY: "summary",
    pb.PROMPT_SECTION_VERBATIM: "word for word",
    pb.PROMPT_SECTION_RETRIEVED: "retrieved",
    pb.PROMPT_SECTION_QUERY: "your message",
}
# The largest unit that an age fills is the one it is told in.
_UNITS = (
    ("year", timedelta(days=365)),
    ("month", timedelta(days=30)),
    ("week", timedelta(weeks=1)),
    ("day", timedelta(days=1)),
    ("hour", timedelta(hours=1)),
    ("minute", timedelta(minutes=1)),
)


def context_text(report: pb.ContextReport, now: datetime, listed: int | None = None) -> str:
    """What the model was given for a reply, and why, for people.

    Args:
        now: What ages are counted from.
        listed: How many of what was left out for one reason are named; all of them by default.
    """
    return "\n".join(_lines(report, now, listed))


def age(moment: datetime, now: datetime) -> str:
    """How long ago a moment was, in words, rounded down."""
    passed = now - moment
    for name, unit in _UNITS:
        if passed >= unit:
            return f"{counted(passed // unit, name)} ago"
    return "just now"


def _lines(report: pb.ContextReport, now: datetime, listed: int | None) -> Iterator[str]:
    yield f"Model: {report.model}; embeddings by {report.embedding_model}"
    yield _summary(report)
    yield _verbatim(report)
    yield from _retrieved(report, now)
    yield from _dropped(report.dropped, listed)
    sections = ", ".join(f"{_SECTIONS.get(each.section, 'other')} {each.tokens:,}" for each in report.sections)
    total = sum(each.tokens for each in report.sections)
    yield f"Tokens: {sections}; together {total:,} of at most {report.budget_tokens:,}"
    yield f"Time: {_milliseconds(report.assembly_time)} to assemble, {_milliseconds(report.embedding_time)} to embed"


def _summary(report: pb.ContextReport) -> str:
    rebuilding = "; it is being made anew after an erasure" if report.summary_rebuilding else ""
    if not report.HasField("summary"):
        return f"Summary: none{rebuilding}"
    summary = report.summary
    facts = f" with {counted(summary.fact_count, 'fact')}" if summary.fact_count else ""
    covered = counted(summary.message_count, "message")
    return (
        f"Summary: version {summary.version}{facts} covers the first {covered}, {_tokens(summary.tokens)}{rebuilding}"
    )


def _verbatim(report: pb.ContextReport) -> str:
    messages = report.verbatim
    # The message to answer is the last of them; one that was not sent has neither an id nor a number.
    yours = " with yours" if messages and messages[-1].message_id == report.query_message_id else ""
    numbers = [message.sequence for message in messages if message.sequence]
    tokens = sum(message.tokens for message in messages)
    return f"Word for word: {counted(len(messages), 'message')}{yours}, number {_ranges(numbers)}, {_tokens(tokens)}"


def _retrieved(report: pb.ContextReport, now: datetime) -> Iterator[str]:
    if not report.retrieved:
        yield f"Retrieved: none; {_OUTCOMES.get(report.retrieval, 'the search found nothing')}"
        return
    yield f"Retrieved: {counted(len(report.retrieved), 'passage')}"
    documents = 0
    for hit in report.retrieved:
        cited = hit.HasField("citation")
        documents += cited
        # The number by which the model may cite it.
        yield f"  {f'[{documents}] ' if cited else ''}{_quote(hit.text)}"
        said = hit.create_time.ToDatetime(tzinfo=UTC)
        source = _document(hit.citation) if cited else _speaker(hit, report.conversation_id)
        yield f"    {source}, {age(said, now)} ({said:%Y-%m-%d %H:%M} UTC), {_tokens(hit.tokens)}"
        yield f"    {_ranking(hit)}"


def _speaker(hit: pb.RetrievedPassage, here: str) -> str:
    who = "you" if hit.role == ROLE_USER else "assistant"
    return who if hit.conversation_id == here else f"{who}, in conversation {hit.conversation_id}"


def _document(citation: pb.Citation) -> str:
    title = f'document "{citation.title}"' if citation.title else "a document"
    place = " > ".join((title, *citation.headings))
    page = f", page {citation.page}" if citation.page else ""
    return f"{place}{page}, characters {citation.start:,}-{citation.end:,}"


def _ranking(hit: pb.RetrievedPassage) -> str:
    meaning = f"cosine {hit.cosine:.2f}{' (sure)' if hit.sure else ''}"
    if hit.dense_rank:
        meaning += f", number {hit.dense_rank:,} by meaning"
    words = (
        f"{hit.lexical_score:.2f} by words, number {hit.lexical_rank:,}" if hit.lexical_rank else "none of the words"
    )
    neighbours = f", {hit.neighbour_score:.2f} of it from its neighbours" if hit.neighbour_score else ""
    return f"rank {hit.rank:,}: {meaning}; {words}; score {hit.score:.2f}{neighbours}"


def _dropped(dropped: Sequence[pb.DroppedMessage], listed: int | None) -> Iterator[str]:
    if not dropped:
        yield "Left out: nothing"
        return
    yield f"Left out, or not whole: {counted(len(dropped), 'item')}"
    by_reason: defaultdict[pb.DropReason.ValueType, list[pb.DroppedMessage]] = defaultdict(list)
    for each in dropped:
        by_reason[each.reason].append(each)
    for reason, items in by_reason.items():
        shown = items[:listed]
        names = ", ".join(_document(item.citation) if item.HasField("citation") else item.message_id for item in shown)
        more = f" and {len(items) - len(shown)} more" if len(items) > len(shown) else ""
        tokens = sum(item.tokens for item in items)
        yield f"  {_REASONS.get(reason, 'for a reason unknown here')}, {_tokens(tokens)}: {names}{more}"


def _tokens(number: int) -> str:
    return counted(number, "token")


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
    if not line:
        return "(erased since)"
    return f'"{line}"' if len(line) <= _QUOTE_CHARACTERS else f'"{line[:_QUOTE_CHARACTERS].rstrip()} …"'


def _milliseconds(duration: Duration) -> str:
    return f"{duration.ToMicroseconds() / 1000:.1f} ms"
