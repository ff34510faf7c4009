from __future__ import annotations

from chatapi.v1.chat_service_pb2 import MessageAccepted
from chatapi.v1.context_report_pb2 import (
    ContextReport,
    DroppedMessage,
    DropReason,
    RetrievedPassage,
    SummaryUse,
    VerbatimMessage,
)
from chatapi.v1.message_pb2 import Message

from bench.long_conversation import faults

KEEP = 4


def found(
    newest: int, covered: int, verbatim: list[int], dropped: tuple[int, ...] = (), retrieved: tuple[int, ...] = ()
) -> str:
    report = ContextReport(
        summary=SummaryUse(message_count=covered),
        verbatim=[VerbatimMessage(message_id=str(each), sequence=each) for each in verbatim],
        dropped=[DroppedMessage(message_id=str(each), reason=DropReason.DROP_REASON_BUDGET) for each in dropped],
        retrieved=[RetrievedPassage(message_id=str(each)) for each in retrieved],
    )
    sequences = {str(number): number for number in range(1, newest + 1)}
    return "; ".join(faults(MessageAccepted(message=Message(sequence=newest)), report, sequences, KEEP))


def test_summary_and_all_after_it_keep_the_promise() -> None:
    assert found(9, 4, [5, 6, 7, 8, 9], retrieved=(1, 3)) == ""
    assert found(3, 0, [1, 2, 3]) == ""


def test_the_oldest_may_be_left_out_if_that_is_told() -> None:
    assert found(9, 2, [5, 6, 7, 8, 9], dropped=(3, 4)) == ""
    assert "nor dropped: [3]" in found(9, 2, [5, 6, 7, 8, 9], dropped=(4,))


def test_a_gap_breaks_the_promise() -> None:
    assert "nor dropped: [3, 4]" in found(9, 2, [5, 6, 7, 8, 9])
    assert "with a gap" in found(9, 4, [5, 6, 8, 9])


def test_a_message_told_twice_breaks_the_promise() -> None:
    assert "and verbatim: from 4" in found(9, 4, [4, 5, 6, 7, 8, 9])
    assert "1 both verbatim and retrieved" in found(9, 4, [5, 6, 7, 8, 9], retrieved=(7,))


def test_a_summary_that_comes_too_near_breaks_the_promise() -> None:
    assert "leaves fewer than 4" in found(9, 6, [7, 8, 9])
