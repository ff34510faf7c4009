"""A context report, told to people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from chatapi.v1 import context_report_pb2 as pb
from chatapi.v1.message_pb2 import ROLE_ASSISTANT, ROLE_USER
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from chatrpc.cli.context_text import age, context_text

HERE, ELSEWHERE = "conversation-here", "conversation-elsewhere"


def at(*moment: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime(*moment, tzinfo=UTC))
    return stamp


NOW = datetime(2024, 6, 1, 12, 0, tzinfo=UTC)


def told(report: pb.ContextReport) -> list[str]:
    return context_text(report, NOW, 5).splitlines()


def test_a_full_report_says_what_was_given_and_what_was_not() -> None:
    report = pb.ContextReport(
        conversation_id=HERE,
        query_message_id="m-49",
        model="gpt",
        embedding_model="MiniLM",
        summary=pb.SummaryUse(version=3, anchor_message_id="m-40", message_count=40, tokens=1_210, fact_count=1),
        summary_rebuilding=True,
        verbatim=[pb.VerbatimMessage(message_id=f"m-{n}", sequence=n, tokens=100) for n in (41, 42, 43, 46, 48, 49)],
        retrieval=pb.RETRIEVAL_OUTCOME_FOUND,
        retrieved=[
            pb.RetrievedPassage(
                message_id="m-3",
                conversation_id=HERE,
                role=ROLE_USER,
                text="my dog\nis called   Fidelio",
                cosine=0.814,
                rank=2,
                dense_rank=1,
                lexical_rank=1_004,
                lexical_score=2.104,
                score=3.4,
                neighbour_score=0.25,
                sure=True,
                create_time=at(2024, 5, 1, 10, 22),
                tokens=24,
            ),
            pb.RetrievedPassage(
                text="Leave is thirty days.",
                cosine=0.5,
                rank=3,
                create_time=at(2024, 6, 1, 11, 59, 30),
                tokens=30,
                citation=pb.Citation(
                    document_id="d", title="Handbook", headings=["Leave", "Length"], start=1_000, end=1_021, page=7
                ),
            ),
            pb.RetrievedPassage(
                message_id="x-1",
                conversation_id=ELSEWHERE,
                role=ROLE_ASSISTANT,
                text="w" * 100,
                cosine=0.4,
                rank=5,
                create_time=at(2023, 5, 31, 23, 59),
                tokens=1_000,
            ),
        ],
        dropped=[
            *(pb.DroppedMessage(message_id=f"d-{n}", reason=pb.DROP_REASON_BUDGET, tokens=10) for n in range(7)),
            pb.DroppedMessage(message_id="e-1", reason=pb.DROP_REASON_EMPTY),
            pb.DroppedMessage(
                citation=pb.Citation(title="Notes", start=0, end=9), reason=pb.DROP_REASON_NEAR_DUPLICATE, tokens=4
            ),
        ],
        sections=[
            pb.SectionTokens(section=pb.PROMPT_SECTION_SUMMARY, tokens=1_210),
            pb.SectionTokens(section=pb.PROMPT_SECTION_VERBATIM, tokens=500),
            pb.SectionTokens(section=pb.PROMPT_SECTION_QUERY, tokens=100),
        ],
        budget_tokens=14_336,
        assembly_time=Duration(nanos=1_240_000),
        embedding_time=Duration(nanos=6_000_000),
    )
    assert told(report) == [
        "Model: gpt; embeddings by MiniLM",
        "Summary: version 3 with 1 fact covers the first 40 messages, 1,210 tokens; it is being made anew after an "
        "erasure",
        "Word for word: 6 messages with yours, number 41-43, 46, 48-49, 600 tokens",
        "Retrieved: 3 passages",
        '  "my dog is called Fidelio"',
        "    you, 1 month ago (2024-05-01 10:22 UTC), 24 tokens",
        "    rank 2: cosine 0.81 (sure), number 1 by meaning; 2.10 by words, number 1,004; score 3.40, 0.25 of it from "
        "its neighbours",
        '  [1] "Leave is thirty days."',
        '    document "Handbook" > Leave > Length, page 7, characters 1,000-1,021, just now (2024-06-01 11:59 UTC), '
        "30 tokens",
        "    rank 3: cosine 0.50; none of the words; score 0.00",
        f'  "{"w" * 72} …"',
        "    assistant, in conversation conversation-elsewhere, 1 year ago (2023-05-31 23:59 UTC), 1,000 tokens",
        "    rank 5: cosine 0.40; none of the words; score 0.00",
        "Left out, or not whole: 9 items",
        "  the token budget had no room, 70 tokens: d-0, d-1, d-2, d-3, d-4 and 2 more",
        "  without any text, 0 tokens: e-1",
        '  almost the same as a better one, 4 tokens: document "Notes", characters 0-9',
        "Tokens: summary 1,210, word for word 500, your message 100; together 1,810 of at most 14,336",
        "Time: 1.2 ms to assemble, 6.0 ms to embed",
    ]


def test_all_that_was_left_out_is_named_unless_told_otherwise() -> None:
    dropped = [pb.DroppedMessage(message_id=f"d-{n}", reason=pb.DROP_REASON_BUDGET) for n in range(20)]
    [line] = [line for line in context_text(pb.ContextReport(dropped=dropped), NOW).splitlines() if "d-0" in line]
    assert line.endswith(", d-18, d-19")


def test_a_passage_that_was_erased_since_says_so() -> None:
    erased = pb.RetrievedPassage(message_id="m-3", conversation_id=HERE, role=ROLE_USER, create_time=at(2024, 5, 1))
    assert told(pb.ContextReport(conversation_id=HERE, retrieved=[erased]))[4] == "  (erased since)"


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=1), "1 minute ago"),
        (timedelta(hours=47), "1 day ago"),
        (timedelta(days=13), "1 week ago"),
        (timedelta(days=59), "1 month ago"),
        (timedelta(days=3_650), "10 years ago"),
    ],
)
def test_an_age_is_told_in_its_largest_unit(passed: timedelta, words: str) -> None:
    assert age(NOW - passed, NOW) == words


def test_a_first_message_has_nothing_but_itself() -> None:
    report = pb.ContextReport(
        verbatim=[pb.VerbatimMessage(message_id="m-1", sequence=1, tokens=7)],
        retrieval=pb.RETRIEVAL_OUTCOME_DISABLED,
    )
    lines = told(report)
    assert lines[1:5] == [
        "Summary: none",
        "Word for word: 1 message, number 1, 7 tokens",
        "Retrieved: none; there was nothing to search, or retrieval is switched off",
        "Left out: nothing",
    ]


def test_every_value_that_a_report_may_hold_has_words() -> None:
    outcomes = set(pb.RetrievalOutcome.values()) - {pb.RETRIEVAL_OUTCOME_UNSPECIFIED, pb.RETRIEVAL_OUTCOME_FOUND}
    words = {told(pb.ContextReport(retrieval=outcome))[3] for outcome in outcomes}
    assert len(words) == len(outcomes)
    reasons = set(pb.DropReason.values()) - {pb.DROP_REASON_UNSPECIFIED}
    dropped = [pb.DroppedMessage(message_id="m", reason=reason) for reason in reasons]
    assert "unknown" not in context_text(pb.ContextReport(dropped=dropped), NOW)
    sections = set(pb.PromptSection.values()) - {pb.PROMPT_SECTION_UNSPECIFIED}
    costs = [pb.SectionTokens(section=section) for section in sections]
    assert "other" not in context_text(pb.ContextReport(sections=costs), NOW)
