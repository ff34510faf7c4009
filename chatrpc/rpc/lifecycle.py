"""The life of a stream that follows one thing: a reply, or a document."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from chatrpc.domain import Caller
from chatrpc.rpc.outbox import Outbox, StreamPolicy
from chatrpc.turns.events import ReplyEvent
from chatrpc.turns.reply_log import ReplyReader

_E = TypeVar("_E")
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


async def pumped(
    events: AsyncGenerator[_E, None],
    convert: Callable[[_E], _T],
    say: Callable[..., _T],
    caller: Caller,
    policy: StreamPolicy,
) -> AsyncGenerator[_T, None]:
    """The events, converted, with signs of life and notices between them; see `Outbox`.

    Raises:
        Unauthenticated, Unavailable: As `Outbox.stream`.
        Exception: What `events` raises.
    """
    outbox = Outbox(say, caller, policy)

    async def pump() -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    await outbox.put(convert(event))
        except Exception as error:
            outbox.end(error)
        else:
            outbox.end()

    task = asyncio.create_task(pump())
    try:
        async with aclosing(outbox.stream()) as stream:
            async for response in stream:
                yield response
    finally:
        await stop([task])


async def stop(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
