"""Messages as the transcript holds them."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from chatrpc.domain import Fact, FactKind, Message, MessageState, Role, TextPart
from chatrpc.tokens import estimate_tokens


def message(number: int, text: str, role: Role = Role.USER) -> Message:
    return Message(
        id=UUID(int=number),
        conversation_id=UUID(int=0),
        parent_id=UUID(int=number - 1) if number > 1 else None,
        sequence=number,
        branch=0,
        depth=number,
        role=role,
        state=MessageState.COMPLETE,
        parts=(TextPart(text),),
        tokens=estimate_tokens(text),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def dialogue(*texts: str) -> list[Message]:
    """Messages in turn, the user's first."""
    return [message(number, text, list(Role)[(number - 1) % 2]) for number, text in enumerate(texts, start=1)]


def fact(key: str, text: str, kind: FactKind = FactKind.DETAIL, sequence: int = 1) -> Fact:
    return Fact(key, kind, text, UUID(int=sequence), sequence, UUID(int=sequence), sequence)
