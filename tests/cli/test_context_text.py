"""A context report, told to people."""

from __future__ import annotations

from datetime import UTC, datetime

from chatapi.v1 import context_report_pb2 as pb
from chatapi.v1.message_pb2 import ROLE_ASSISTANT, ROLE_USER
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from chatrpc.cli.context_text import context_text

HERE, ELSEWHERE = "conversation-here", "conversation-elsewhere"


def at(*moment: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime(*moment, tzinfo=UTC))
    return stamp


def test_a_full_report_says_what_was_given_and_what_was_not() -> None:
    report = pb.ContextReport(
        conversation_id=HERE,
        model="gpt",
        embedding_model="MiniLM",
        summary=pb.SummaryUse(version=3, anchor_message_id="m-40", message_count=40, tokens=1_210),
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
                sure=True,
                create_time=at(2024, 5, 1, 10, 22),
                tokens=24,
            ),
            pb.RetrievedPassage(
                message_id="x-1",
                conversation_id=ELSEWHERE,
                role=ROLE_ASSISTANT,
                text="w" * 100,
                cosine=0.4,
                rank=5,
                create_time=at(2023, 12, 31, 23, 59),
                tokens=1_000,
            ),
        ],
        dropped=[
            *(pb.DroppedMessage(message_id=f"d-{n}", reason=pb.DROP_REASON_BUDGET, tokens=10) for n in range(7)),
            pb.DroppedMessage(message_id="e-1", reason=pb.DROP_REASON_EMPTY),
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
    assert context_text(report).splitlines() == [
        "Model: gpt; embeddings by MiniLM",
        "Summary: version 3 covers the first 40 messages, 1,210 tokens",
        "Word for word: 6 messages, number 41-43, 46, 48-49, 600 tokens",
        "Retrieved: 2 passages",
        '  cosine 0.81 (sure), rank 2, 24 tokens, you, 2024-05-01 10:22 UTC: "my dog is called Fidelio"',
        "  cosine 0.40, rank 5, 1,000 tokens, assistant, 2023-12-31 23:59 UTC, conversation "
        f'conversation-elsewhere: "{"w" * 72} …"',
        "Left out, or not whole: 8 messages",
        "  the token budget had no room, 70 tokens: d-0, d-1, d-2, d-3, d-4 and 2 more",
        "  without any text, 0 tokens: e-1",
        "Tokens: summary 1,210, word for word 500, your message 100; together 1,810 of at most 14,336",
        "Time: 1.2 ms to assemble, 6.0 ms to embed",
    ]


def test_a_first_message_has_nothing_but_itself() -> None:
    report = pb.ContextReport(
        verbatim=[pb.VerbatimMessage(message_id="m-1", sequence=1, tokens=7)],
        retrieval=pb.RETRIEVAL_OUTCOME_DISABLED,
    )
    lines = context_text(report).splitlines()
    assert lines[1:5] == [
        "Summary: none",
        "Word for word: 1 message, number 1, 7 tokens",
        "Retrieved: none; there was nothing to search, or retrieval is switched off",
        "Left out: nothing",
    ]


def test_every_value_that_a_report_may_hold_has_words() -> None:
    outcomes = set(pb.RetrievalOutcome.values()) - {pb.RETRIEVAL_OUTCOME_UNSPECIFIED, pb.RETRIEVAL_OUTCOME_FOUND}
    told = {context_text(pb.ContextReport(retrieval=outcome)).splitlines()[3] for outcome in outcomes}
    assert len(told) == len(outcomes)
    reasons = set(pb.DropReason.values()) - {pb.DROP_REASON_UNSPECIFIED}
    dropped = [pb.DroppedMessage(message_id="m", reason=reason) for reason in reasons]
    assert "unknown" not in context_text(pb.ContextReport(dropped=dropped))
    sections = set(pb.PromptSection.values()) - {pb.PROMPT_SECTION_UNSPECIFIED}
    costs = [pb.SectionTokens(section=section) for section in sections]
    assert "other" not in context_text(pb.ContextReport(sections=costs))
