"""Shorthands of the database tests."""

from __future__ import annotations

from uuid import UUID

from chatrpc.db.transcript import FinishedReply, Transcript
from chatrpc.domain import Accepted, FinishReason, Message, MessageState, Part, TextPart, Usage

USED = Usage(1, 0, 1)


def said(text: str) -> tuple[Part, ...]:
    return (TextPart(text),)


async def finish(
    transcript: Transcript,
    user_id: UUID,
    turn: Accepted,
    text: str,
    *,
    attempt: int = 1,
    state: MessageState = MessageState.COMPLETE,
    usage: Usage | None = USED,
) -> tuple[Message, int] | None:
    return await transcript.finish_reply(
        user_id,
        FinishedReply(
            conversation_id=turn.message.conversation_id,
            reply=turn.reply,
            attempt=attempt,
            state=state,
            parts=said(text),
            tokens=len(text),
            model="test",
            finish_reason=FinishReason.STOP,
            error_reason=None,
            usage=usage,
            delta_ends=(len(text),),
            report=None,
        ),
    )
