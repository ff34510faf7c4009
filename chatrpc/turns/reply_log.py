"""The events of one attempt at a reply, in memory, for any number of readers.

A reader pulls by its place in the log. Nothing is queued for it, so a slow one costs nothing but the log itself, and
an event wakes each reader once, straight from the append.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Self
from uuid import UUID

from chatrpc.errors import ChatError, OutOfRange, Reason, Unavailable
from chatrpc.turns.events import Event, ReplyEvent


class ReplyLog:
    """An append-only list that readers follow. Writing never waits for a reader.

    Attributes:
        events: From sequence 1 on, without gaps.
        broken: Why the attempt has ended without a last event.
        successor: The log of the next attempt, where readers go on.
        behind: Whether it repeats another process's log and may be short of what has been told there.
    """

    def __init__(self, reply_id: UUID, attempt: int, *, behind: bool = False) -> None:
        self.reply_id = reply_id
        self.attempt = attempt
        self.events: list[ReplyEvent] = []
        self.broken: ChatError | None = None
        self.successor: ReplyLog | None = None
        self.behind = behind
        self._listeners: dict[object, Callable[[], None]] = {}

    @classmethod
    def told(cls, reply_id: UUID, attempt: int, events: Iterable[ReplyEvent]) -> ReplyLog:
        """The log of a reply that is finished."""
        log = cls(reply_id, attempt)
        log.events.extend(events)
        return log

    @property
    def ended(self) -> bool:
        """Whether the attempt is over, with its last event or without."""
        return self.broken is not None or self.successor is not None or (bool(self.events) and self.events[-1].last)

    @property
    def listened(self) -> bool:
        """Whether anybody waits for the next event."""
        return bool(self._listeners)

    def append(self, event: Event) -> None:
        self.events.append(ReplyEvent(self.reply_id, self.attempt, len(self.events) + 1, event))
        self._wake()

    def break_off(self, error: ChatError) -> None:
        """End the attempt without a last event: its readers are told to come again."""
        self.broken = error
        self._wake()

    def succeed(self, log: ReplyLog) -> None:
        """End the attempt without a last event: its readers go on with the next attempt."""
        self.successor = log
        self._wake()

    def read(self, after_sequence: int) -> ReplyReader:
        """Follow the events after a sequence until the last.

        Raises:
            OutOfRange: The attempt has not come so far.
        """
        if after_sequence > len(self.events) and not (self.behind and not self.ended):
            raise beyond_the_end(after_sequence, len(self.events))
        return ReplyReader(self, after_sequence)

    def listen(self, listener: object, wake: Callable[[], None]) -> None:
        """Have `wake` called at each change, until `forget`."""
        self._listeners[listener] = wake

    def forget(self, listener: object) -> None:
        self._listeners.pop(listener, None)

    def _wake(self) -> None:
        for wake in tuple(self._listeners.values()):
            wake()


class ReplyReader:
    """A reader's place in the events of a reply, by `take` and `listen` or as an asynchronous iterator.

    Attributes:
        finished: Whether the last event has been taken.
    """

    __slots__ = ("_log", "_position", "_waiting", "_wake", "finished")

    def __init__(self, log: ReplyLog, position: int) -> None:
        self._log = log
        self._position = position
        self._wake: Callable[[], None] | None = None
        self._waiting: asyncio.Future[None] | None = None
        self.finished = 0 < position == len(log.events) and log.events[-1].last

    def take(self) -> ReplyEvent | None:
        """The next event; None where there is none yet, or none any more.

        Raises:
            ChatError: The attempt was broken off, or has ended before the reader's place.
        """
        if self.finished:
            return None
        log = self._log
        if self._position < len(log.events):
            event = log.events[self._position]
            self._position += 1
            if event.last:
                self._end()
            return event
        if log.successor is not None:
            self._move(log.successor)
            return self.take()
        if log.ended:
            self._end()
            raise log.broken or beyond_the_end(self._position, len(log.events))
        return None

    def listen(self, wake: Callable[[], None]) -> None:
        """Have `wake` called at each change of the log, until the last event is taken or the reader is closed."""
        self._wake = wake
        if not self.finished:
            self._log.listen(self, wake)

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        self._end()
        self._stop_waiting()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ReplyEvent:
        while True:
            event = self.take()
            if event is not None:
                return event
            if self.finished:
                raise StopAsyncIteration
            self.listen(self._stop_waiting)
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting

    def _stop_waiting(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _move(self, log: ReplyLog) -> None:
        self._log.forget(self)
        self._log, self._position = log, 0
        if self._wake is not None:
            log.listen(self, self._wake)

    def _end(self) -> None:
        self.finished = True
        self._log.forget(self)


def beyond_the_end(after_sequence: int, last: int) -> OutOfRange:
    """The error for a reader who claims to have seen what was never told."""
    return OutOfRange(
        Reason.SEQUENCE_OUT_OF_RANGE,
        f"after_sequence is {after_sequence}, but the reply's last event is {last}; resume from an event that you saw.",
        after_sequence=str(after_sequence),
        last_sequence=str(last),
    )


def held_elsewhere() -> Unavailable:
    """The error for who wants of a reply what another process has: it was taken over, or is out of reach from here."""
    return Unavailable(
        Reason.REPLY_HELD_ELSEWHERE,
        "Another server process is at work on the reply, out of reach from here; repeat the call, or resume the reply.",
        retry_after=1.0,
    )
