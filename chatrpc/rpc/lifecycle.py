"""The life of a stream that follows one reply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from chatrpc.domain import Caller
from chatrpc.rpc.outbox import Outbox, StreamPolicy
from chatrpc.turns.events import ReplyEvent
from chatrpc.turns.reply_log import ReplyReader

_T = TypeVar("_T")


def with_lifecycle(
    events: ReplyReader,
    convert: Callable[[ReplyEvent], _T],
    say: Callable[..., _T],
    caller: Caller,
    policy: StreamPolicy,
) -> AsyncGenerator[_T, None]:
    """The events, converted, with signs of life and notices between them; see `Outbox`.

    Closing the generator closes `events`.

    Raises:
        Unauthenticated, Unavailable: As `Outbox.stream`.
        Exception: What `events` raises.
    """
    outbox = Outbox(say, caller, policy)
    outbox.follow(events, convert, outbox.end)
    return outbox.stream()


async def stop(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
