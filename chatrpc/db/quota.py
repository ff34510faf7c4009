"""A refusal for want of quota, in words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from chatrpc.domain import Quota, counted
from chatrpc.errors import Reason, ResourceExhausted


def over_quota(quota: Quota, found: Mapping[str, float]) -> ResourceExhausted:
    """The error for what the SQL function `over_quota` found against a turn."""
    retry_after: float | None = found["retry_after"]
    used, reserved, needed = found["tokens"], found["reserved_tokens"], found["needed_tokens"]
    if quota.tokens is not None and needed > quota.tokens:
        metric, limit, retry_after = "tokens", quota.tokens, None
        sentence = (
            f"The message needs {needed} tokens, and the user may use {limit} a {quota.window} in all. Lower its "
            "max_output_tokens, or send it to a shorter conversation"
        )
    elif quota.tokens is not None and used + reserved + needed > quota.tokens:
        metric, limit = "tokens", quota.tokens
        sentence = (
            f"The user may use {limit} tokens a {quota.window}; {used} are used, {reserved} are reserved for replies "
            f"that are not finished, and the message needs {needed}"
        )
    else:
        assert quota.turns is not None  # There is no other limit.
        metric, limit, used, reserved = "turns", quota.turns, found["turns"], found["running_turns"]
        replies = counted(limit, "reply", "replies")
        sentence = f"The user may have {replies} a {quota.window}; finished: {used}, running: {reserved}"
    sentences = f"{sentence}."
    if retry_after is not None:
        renewed = datetime.now(UTC) + timedelta(seconds=retry_after)
        sentences += f" Try again at {renewed:%Y-%m-%d %H:%M:%S} UTC."
    return ResourceExhausted(
        Reason.QUOTA_EXCEEDED,
        sentences,
        subject="user",
        retry_after=retry_after,
        metric=metric,
        limit=str(limit),
        used=str(used),
        reserved=str(reserved),
        window=quota.window.value,
    )
