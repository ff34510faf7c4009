"""Builders of domain values for tests of contexts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from chatrpc.context.prompt import passage_cost
from chatrpc.domain import Hit, Message, MessageState, Path, Role, Summary, TextPart
from chatrpc.tokens import estimate_tokens

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
CONVERSATION = UUID(int=1)


def message(
    depth: int,
    text: str = "some words",
    *,
    state: MessageState = MessageState.COMPLETE,
    branch: int = 0,
    parent_id: UUID | None = None,
    sequence: int | None = None,
) -> Message:
    """A message at a place of its path; odd depths are the user's."""
    return Message(
        id=uuid4(),
        conversation_id=CONVERSATION,
        parent_id=parent_id,
        sequence=depth if sequence is None else sequence,
        branch=branch,
        depth=depth,
        role=Role.USER if depth % 2 else Role.ASSISTANT,
        state=state,
        parts=(TextPart(text),) if text else (),
        tokens=estimate_tokens(text),
        created_at=NOW + timedelta(seconds=depth),
    )


def linear(count: int, text: str = "some words") -> tuple[Message, ...]:
    """The first messages of a conversation without branches."""
    return tuple(message(depth, f"{text} {depth}") for depth in range(1, count + 1))


def linear_path(count: int) -> Path:
    return ((0, count),) if count else ()


def summary(anchor: Message, text: str = "what was said", version: int = 1) -> Summary:
    return Summary(
        version=version,
        anchor_id=anchor.id,
        anchor_branch=anchor.branch,
        anchor_depth=anchor.depth,
        text=text,
        tokens=estimate_tokens(text),
        model="test",
        created_at=NOW,
    )


def hit(text: str, cosine: float = 0.6, rank: int = 1) -> Hit:
    return Hit(
        message_id=uuid4(),
        conversation_id=CONVERSATION,
        role=Role.USER,
        text=text,
        created_at=NOW,
        cosine=cosine,
        rank=rank,
        sure=cosine > 0.7,
        tokens=passage_cost(text),
    )
