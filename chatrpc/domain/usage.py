"""What users use, and how much of it they may."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from chatrpc.domain.message import Usage


class QuotaWindow(StrEnum):
    """The time that a quota is for: an hour, a day or a month of the calendar, in UTC."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class UsageKind(StrEnum):
    """What tokens are used for."""

    TURN = "turn"
    SUMMARY = "summary"
    EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class Quota:
    """What a user may use in a window; None where it is not limited.

    Attributes:
        tokens: Of prompts and completions, those of summaries included and those of embeddings not.
        turns: Replies, however they ended.
    """

    window: QuotaWindow = QuotaWindow.DAY
    tokens: int | None = None
    turns: int | None = None

    @property
    def limited(self) -> bool:
        return self.tokens is not None or self.turns is not None


NO_QUOTA = Quota()


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a turn may cost, in tokens, estimated before anything of its conversation is read.

    Attributes:
        prompt_tokens: What comes to the prompt beyond what the conversation's last prompt and reply came to.
        most_prompt_tokens: The whole prompt at most, unless the conversation's last one was longer: it may name a model
            of its own.
        completion_tokens: The reply at most.
    """

    prompt_tokens: int = 0
    most_prompt_tokens: int = 0
    completion_tokens: int = 0


NOTHING_RESERVED = Reservation()


@dataclass(frozen=True, slots=True)
class Served:
    """What one attempt at a reply, or one piece of background work, was served, and by which model."""

    model: str | None
    usage: Usage


@dataclass(frozen=True, slots=True)
class WindowUsage:
    """What a user has used of the window that runs.

    Attributes:
        tokens, turns: What is booked, counted as a quota counts.
        reserved_tokens, running_turns: Of replies that are not finished.
    """

    starts_at: datetime
    ends_at: datetime
    tokens: int
    turns: int
    reserved_tokens: int
    running_turns: int


@dataclass(frozen=True, slots=True)
class DayUsage:
    """What a user used on one day (UTC) of one model for one kind of work.

    Attributes:
        model: Empty where it is not known, since the process that asked it is gone, or nothing was used.
        count: Turns that ended; of summaries and embeddings, pieces of work.
        estimated_tokens: The part of all these tokens that no provider counted.
    """

    day: datetime
    kind: UsageKind
    model: str
    count: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    embedding_tokens: int
    estimated_tokens: int
