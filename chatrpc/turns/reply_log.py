"""The events of one running attempt at a reply, in memory, for any number of readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from uuid import UUID

from chatrpc.errors import ChatError, OutOfRange, Reason
from chatrpc.turns.events import Completed, ContextBuilt, Delta, Failed, ReplyEvent, Restarted


class ReplyLog:
    """An append-only list that readers follow. Writing never waits for a reader."""

    def __init__(self, reply_id: UUID, attempt: int) -> None:
        self.reply_id = reply_id
        self.attempt = attempt
        self._events: list[ReplyEvent] = []
        self._broken: ChatError | None = None
        self._changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self._broken is not None or (bool(self._events) and self._events[-1].last)

    def append(self, event: ContextBuilt | Delta | Completed | Failed | Restarted) -> None:
        self._events.append(ReplyEvent(self.reply_id, self.attempt, len(self._events) + 1, event))
        self._wake()

    def break_off(self, error: ChatError) -> None:
        """End the attempt without a last event: its readers are told to come again."""
        self._broken = error
        self._wake()

    def read(self, after_sequence: int) -> AsyncGenerator[ReplyEvent, None]:
        """Follow the events after a sequence until the last.

        Raises:
            OutOfRange: At once, where the attempt has not come so far.
            ChatError: While reading, where the attempt was broken off.
        """
        if after_sequence > len(self._events):
            raise beyond_the_end(after_sequence, len(self._events))
        return self._follow(after_sequence)

    async def _follow(self, position: int) -> AsyncGenerator[ReplyEvent, None]:
        while True:
            while position < len(self._events):
                event = self._events[position]
                position += 1
                yield event
                if event.last:
                    return
            if self._broken is not None:
                raise self._broken
            await self._changed.wait()

    def _wake(self) -> None:
        # Whoever waits is woken by the old event, and waits for the new one next time.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def beyond_the_end(after_sequence: int, last: int) -> OutOfRange:
    """The error for a reader who claims to have seen what was never told."""
    return OutOfRange(
        Reason.SEQUENCE_OUT_OF_RANGE,
        f"after_sequence is {after_sequence}, but the reply's last event is {last}; resume from an event that you saw.",
        after_sequence=str(after_sequence),
        last_sequence=str(last),
    )
