"""Which messages of a path stand verbatim, and which are due to enter the summary.

The window moves in steps: at least `keep` messages after the summary's anchor stay verbatim, and only when `fold`
more have gathered does the oldest batch of `fold` enter the summary. Between two steps the beginning of the prompt
does not change, so a provider's prompt cache keeps hitting. Long messages make smaller steps: what the model has no
room for would be left out of its context, and the summary is the better place for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from chatrpc.domain import Message, Path, Summary

SMALLEST_STEP = 1 / 4
"""Part of `fold` that enters the summary at least where the room runs short, so that small windows have steps too."""


def length(path: Path) -> int:
    """Number of messages on a path."""
    return path[-1][1] if path else 0


def through(path: Path, depth: int) -> Path:
    """The first `depth` messages of a path, as a path."""
    segments: list[tuple[int, int]] = []
    start = 0
    for branch, last in path:
        if depth <= start:
            break
        segments.append((branch, min(last, depth)))
        start = last
    return tuple(segments)


def extends(longer: Path, shorter: Path) -> bool:
    """Whether one path begins with the whole of another; each path begins with itself."""
    return through(longer, length(shorter)) == shorter


def keeps_enough(summary: Summary | None, path: Path, keep: int) -> bool:
    """Whether a summary leaves the newest `keep` messages of a path verbatim.

    A version can cover too much for a path that branches off shortly behind its anchor, although the anchor is on it.
    """
    return summary is None or summary.anchor_depth + keep <= length(path)


def batch_due(messages: Sequence[Message], keep: int, fold: int, room: int) -> tuple[Message, ...]:
    """The messages that are due to enter the summary, oldest first, or nothing.

    That is a batch of `fold`, or all but the newest `keep` as soon as the messages together cost more than `room`.

    Messages behind the first unfinished reply do not count. So the summary never passes such a reply, and the turn
    that is writing it, or waits to, has its `keep` messages too.

    Args:
        messages: The path after the summary's anchor, oldest first.
        keep: Messages that stay verbatim.
        fold: Messages of one step at most.
        room: Tokens that the messages may cost together.
    """
    finished = tuple(takewhile(lambda message: message.state.finished, messages))
    beyond = finished[: max(len(finished) - keep, 0)]
    if len(beyond) >= fold:
        return beyond[:fold]
    crowded = sum(message.tokens for message in finished) > room
    return beyond if crowded and len(beyond) >= max(fold * SMALLEST_STEP, 1) else ()
