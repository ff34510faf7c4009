"""The events of a finished reply, told again from what is stored, the same as they were told live.

Of an erased reply nothing is left to tell but its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from chatrpc.domain import ContextReport, Message, MessageState
from chatrpc.errors import ChatError, FailedPrecondition, ModelRejected, Reason, Unavailable
from chatrpc.turns.events import Completed, ContextBuilt, Delta, Failed, ReplyEvent, Restarted


def replay(reply: Message, report: ContextReport | None) -> list[ReplyEvent]:
    """All events of the attempt that finished `reply`."""
    return [
        ReplyEvent(reply.id, reply.attempt, sequence, event)
        for sequence, event in enumerate(_events(reply, report), start=1)
    ]


def _events(
    reply: Message, report: ContextReport | None
) -> Iterator[Restarted | ContextBuilt | Delta | Completed | Failed]:
    if reply.state is MessageState.ERASED:
        yield Completed(reply)
        return
    if reply.attempt > 1:
        yield Restarted()
    if report is not None:
        yield ContextBuilt(report)
    for start, end in pairwise((0, *reply.delta_ends)):
        yield Delta(reply.text[start:end])
    if reply.state is MessageState.FAILED:
        yield Failed(failure(Reason(reply.error_reason or Reason.INTERNAL)), reply)
    else:
        yield Completed(reply, () if report is None else report.citations)


def failure(reason: Reason) -> ChatError:
    """What readers are told of a reply that failed for a reason; the reason alone is stored."""
    match reason:
        case Reason.MODEL_UNAVAILABLE:
            return Unavailable(reason, "The language model cannot be reached; send the message again later.")
        case Reason.TURN_TIMED_OUT:
            return Unavailable(reason, "The language model took too long to begin; send the message again later.")
        case Reason.MODEL_REJECTED:
            return ModelRejected(reason, "The language model refuses the request; check the model's name and settings.")
        case Reason.INTERNAL:
            return ChatError(reason, "The reply failed by a fault of the server.")
        case _:
            return FailedPrecondition(reason, "The reply could not be generated.")
