"""What one stream says: its events, and between them the signs of life and the notices of its end.

Streams of replies wait a lot, and there may be ten thousand of them on a server. So one outbox costs one timer and
no task, and an event passes it without a timer of its own. Replies are not queued in it: the stream takes each event
from the reply's log when the client has taken the one before, so a slow client costs no memory.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from chatapi.v1.chat_service_pb2 import GoingAway, Pong
from google.protobuf.timestamp_pb2 import Timestamp

from chatrpc.domain import Caller
from chatrpc.errors import Reason, Unauthenticated
from chatrpc.rpc.drain import Drain
from chatrpc.turns.events import ReplyEvent
from chatrpc.turns.reply_log import ReplyReader

_T = TypeVar("_T")

# Answers that wait for a slow client at most; a further one makes its writer wait.
CAPACITY = 64
# Seconds before its token's expiry at which a stream says that it will end.
EXPIRY_NOTICE = 30.0
# Seconds from the notice that a stream is idle to its end.
IDLE_NOTICE = 10.0
# Seconds that a client gets to take what it was sent when its stream has to end.
WRITE_GRACE = 5.0


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """What all streams of a server have in common.

    Attributes:
        heartbeat: Seconds of silence after which a stream sends a pong.
        max_turns: Turns that one Chat stream runs at most.
        clock: Seconds since the epoch, as in `Caller.expires_at`.
        idle_limit: Seconds after which a Chat stream ends on which nothing is said and no reply followed.
    """

    drain: Drain
    heartbeat: float
    max_turns: int
    clock: Callable[[], float]
    idle_limit: float = math.inf


class _Source(Generic[_T]):
    """A reply that a stream follows.

    Attributes:
        ended: Called once, after the last event or with the error; what it returns is said, if it is not None.
        ready: Whether it is in line.
    """

    __slots__ = ("convert", "ended", "reader", "ready")

    def __init__(
        self, reader: ReplyReader, convert: Callable[[ReplyEvent], _T], ended: Callable[[Exception | None], _T | None]
    ) -> None:
        self.reader = reader
        self.convert = convert
        self.ended = ended
        self.ready = False


class Outbox(Generic[_T]):
    """Bounded; writers wait while it is full. Read it once, by `stream`.

    Args:
        say: Makes a response of the method, by its fields `pong` and `going_away`.
        on_drain: Called when the server begins to drain, after the notice is in line.
        idle_limit: Seconds without `heard` and without a reply to follow after which it ends.
    """

    __slots__ = (
        "_cut",
        "_ended",
        "_error",
        "_expires_at",
        "_idle_end",
        "_idle_limit",
        "_idle_since",
        "_items",
        "_notice_at",
        "_notices",
        "_on_drain",
        "_policy",
        "_reader",
        "_ready",
        "_room",
        "_say",
        "_silent_since",
        "_sources",
        "_timer",
    )

    def __init__(
        self,
        say: Callable[..., _T],
        caller: Caller,
        policy: StreamPolicy,
        on_drain: Callable[[], None] | None = None,
        idle_limit: float = math.inf,
    ) -> None:
        self._say = say
        self._policy = policy
        self._on_drain = on_drain
        self._expires_at = caller.expires_at
        # A list, which is small while it is empty; taking the first of some dozens costs nothing.
        self._items: list[_T] = []
        self._sources: list[_Source[_T]] = []
        self._ready: deque[_Source[_T]] | None = None
        self._room = asyncio.Semaphore(CAPACITY)
        self._reader: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._notices: list[GoingAway] = []
        self._ended = False
        self._error: Exception | None = None
        self._cut: Exception | None = None
        self._silent_since = 0.0
        self._notice_at: float | None = None
        self._idle_limit = idle_limit
        self._idle_since = policy.clock()
        self._idle_end: float | None = None

    async def put(self, item: _T) -> None:
        await self._room.acquire()
        self._items.append(item)
        self._wake()

    def follow(
        self,
        reader: ReplyReader,
        convert: Callable[[ReplyEvent], _T],
        ended: Callable[[Exception | None], _T | None],
    ) -> None:
        """Say the events of a reply, after what was put before; replies take turns. Closed with the stream.

        Args:
            ended: Called after the last event, or with the error that the reply could not be followed for; what it
                returns is said.
        """
        source = _Source(reader, convert, ended)
        self._sources.append(source)
        if self._ready is None:
            self._ready = deque()
        reader.listen(lambda: self._line_up(source))
        self._line_up(source)

    def heard(self) -> None:
        """The client has said something, so the stream is not idle; if its end was announced for that, it goes on."""
        self._idle_since = self._policy.clock()
        self._idle_end = None

    def end(self, error: Exception | None = None) -> None:
        """No further item follows; the stream ends after those that are there, with the error if one is given."""
        if not self._ended:
            self._ended, self._error = True, error
            self._wake()

    async def stream(self) -> AsyncGenerator[_T, None]:
        """All that is put, until the end.

        Raises:
            Unauthenticated: The caller's token has expired.
            Unavailable: The drain's deadline has passed.
            Exception: The error of `end`.
        """
        loop = asyncio.get_running_loop()
        left = self._expires_at - self._policy.clock()
        # With less than a minute left, the notice comes half-way: at once, it would have a client that comes back
        # with the same token turn in circles.
        self._notice_at = self._expires_at - min(EXPIRY_NOTICE, left / 2)
        self._silent_since = loop.time()
        task = asyncio.current_task()
        assert task is not None
        self._arm(task)
        self._policy.drain.join(self, lambda: self._drain_begins(task))
        try:
            while True:
                if self._cut is not None:
                    raise self._cut
                if self._notices:
                    response = self._say(going_away=self._notices.pop(0))
                elif self._items:
                    response = self._items.pop(0)
                    self._room.release()
                elif self._ready:
                    taken = self._take(self._ready)
                    if taken is None:
                        continue
                    response = taken
                elif self._ended:
                    if self._error is not None:
                        raise self._error
                    return
                elif loop.time() >= self._silent_since + self._policy.heartbeat:
                    response = self._say(pong=Pong())
                else:
                    await self._woken(loop)
                    continue
                yield response
                self._silent_since = loop.time()
        finally:
            self._policy.drain.leave(self)
            if self._timer is not None:
                self._timer.cancel()
            for source in self._sources:
                source.reader.close()

    def _take(self, ready: deque[_Source[_T]]) -> _T | None:
        """The next event of the reply whose turn it is; None where it has none, or has nothing to say of its end."""
        source = ready.popleft()
        reader = source.reader
        try:
            event = None if reader.finished else reader.take()
        except Exception as error:
            self._forget(source)
            return source.ended(error)
        if event is not None:
            # Once more, be it to find that there is nothing further, or to end.
            ready.append(source)
            return source.convert(event)
        source.ready = False
        if reader.finished:
            self._forget(source)
            return source.ended(None)
        return None

    def _forget(self, source: _Source[_T]) -> None:
        self._sources.remove(source)
        self._idle_since = self._policy.clock()

    def _line_up(self, source: _Source[_T]) -> None:
        if not source.ready and self._ready is not None:
            source.ready = True
            self._ready.append(source)
            self._wake()

    async def _woken(self, loop: asyncio.AbstractEventLoop) -> None:
        self._reader = loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _drain_begins(self, task: asyncio.Task[object]) -> None:
        deadline = self._policy.drain.deadline
        assert deadline is not None
        self._notices.append(_going_away(GoingAway.REASON_DRAINING, deadline))
        if self._on_drain is not None:
            self._on_drain()
        self._arm(task)
        self._wake()

    def _arm(self, task: asyncio.Task[object]) -> None:
        """Set the timer to whatever is due first: a heartbeat, a notice, or the end."""
        loop = asyncio.get_running_loop()
        now = self._policy.clock()
        silence = loop.time() - self._silent_since
        # A reader that is busy writing is not silent, however long it takes.
        beat = self._policy.heartbeat - silence if self._reader is not None else self._policy.heartbeat
        idle_at = self._idle_since + self._idle_limit if self._idle_end is None else self._idle_end
        due = [beat, self._expires_at - now, idle_at - now]
        if self._notice_at is not None:
            due.append(self._notice_at - now)
        if self._policy.drain.deadline is not None:
            due.append(self._policy.drain.deadline - now)
        if self._timer is not None:
            self._timer.cancel()
        # Event loops round, so a timer may fire a little early; the floor keeps it from firing at once again.
        self._timer = loop.call_later(max(min(due), 0.001), self._tick, task)

    def _tick(self, task: asyncio.Task[object]) -> None:
        now = self._policy.clock()
        deadline = self._policy.drain.deadline
        if now >= self._expires_at:
            self._cut = Unauthenticated(
                Reason.TOKEN_EXPIRED, "The token has expired; open a new stream with a fresh one."
            )
        elif deadline is not None and now >= deadline:
            self._cut = self._policy.drain.error()
        elif self._notice_at is not None and now >= self._notice_at:
            self._notice_at = None
            self._notices.append(_going_away(GoingAway.REASON_TOKEN_EXPIRING, self._expires_at))
        elif self._sources:
            self._idle_since = now
        elif self._idle_end is None and now >= self._idle_since + self._idle_limit:
            self._idle_end = now + IDLE_NOTICE
            self._notices.append(_going_away(GoingAway.REASON_IDLE, self._idle_end))
        idle = self._idle_end is not None and now >= self._idle_end
        if idle:
            self.end()
        if self._cut is None and not idle:
            self._arm(task)
        elif self._reader is None:
            # The client does not take what it was sent, so it cannot be told why its stream ends.
            self._timer = asyncio.get_running_loop().call_later(WRITE_GRACE, task.cancel)
        self._wake()


def _going_away(reason: GoingAway.Reason.ValueType, deadline: float) -> GoingAway:
    stamp = Timestamp()
    stamp.FromMilliseconds(round(deadline * 1000))
    return GoingAway(reason=reason, deadline=stamp)
