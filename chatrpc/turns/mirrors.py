"""The logs of other processes, as they are read here.

A mirror is a log of this process that one task, for all mirrors together, feeds from Redis. Redis may lose what it has:
then the mirror's readers are told to come again, and find in the database what is over.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

import structlog

from chatrpc.domain import MessageState
from chatrpc.errors import ChatError
from chatrpc.streams.streams import Entry, Streams, StreamsAway
from chatrpc.turns.event_codec import decode
from chatrpc.turns.events import Completed
from chatrpc.turns.reply_log import ReplyLog, held_elsewhere
from chatrpc.turns.shared_keys import reply_key
from chatrpc.turns.stored import StoredReplies
from chatrpc.turns.tasks import Tasks

log = structlog.get_logger(__name__)

# Seconds after which a silent mirror is compared with the database, and one that nobody reads is given up.
CHECK = 5.0


class _Mirror:
    """Another process's log, as it is read here.

    Attributes:
        place: Attempt and number of the last entry that was read.
        heard: When, on the loop's clock.
    """

    __slots__ = ("heard", "key", "loading", "log", "place", "unread", "user_id")

    def __init__(self, user_id: UUID, log: ReplyLog, now: float) -> None:
        self.user_id = user_id
        self.key = reply_key(log.reply_id)
        self.log = log
        self.place = (log.attempt, 0)
        self.heard = now
        self.unread = False
        self.loading: asyncio.Task[bool] | None = None


class Mirrors:
    """Finds, feeds and gives up mirrors."""

    def __init__(self, streams: Streams, stored: StoredReplies) -> None:
        self._streams = streams
        self._stored = stored
        self._mirrors: dict[UUID, _Mirror] = {}
        self._announced: dict[UUID, None] = {}
        self._something_announced = asyncio.Event()
        self._tasks = Tasks()

    def __len__(self) -> int:
        return len(self._mirrors)

    async def find(self, user_id: UUID, reply_id: UUID, attempt: int) -> ReplyLog | None:
        """As ReplyLogs.find, for a reply that another process writes."""
        mirror = self._mirrors.get(reply_id)
        if mirror is None:
            behind = ReplyLog(reply_id, attempt, behind=True)
            mirror = self._mirrors[reply_id] = _Mirror(user_id, behind, asyncio.get_running_loop().time())
            mirror.loading = self._tasks.begin(self._load(mirror))
        elif mirror.log.attempt < attempt:
            # The attempt that Redis still tells of is over. What the current one tells may not have come there yet.
            self._go_on(mirror, attempt)
        mirror.unread = False
        assert mirror.loading is not None
        return mirror.log if await asyncio.shield(mirror.loading) else None

    def give_way(self, written: ReplyLog) -> None:
        """Have the readers of a reply's mirror go on with the log of a later attempt, which this process writes."""
        mirror = self._mirrors.get(written.reply_id)
        if mirror is not None:
            mirror.log.succeed(written)
            self._drop(mirror)

    def announce(self, reply_id: UUID) -> None:
        """There is something new in Redis."""
        self._announced[reply_id] = None
        self._something_announced.set()

    def lose(self) -> None:
        """Redis is away, or was: nobody knows what was missed."""
        for mirror in list(self._mirrors.values()):
            self._break_off(mirror)

    async def read(self) -> None:
        """Feed the mirrors that are announced to have something new, until cancelled."""
        while True:
            await self._something_announced.wait()
            self._something_announced.clear()
            mirrors = [self._mirrors[reply_id] for reply_id in self._announced if reply_id in self._mirrors]
            self._announced.clear()
            if not mirrors:
                continue
            try:
                found = await self._streams.read({mirror.key: mirror.place for mirror in mirrors})
            except StreamsAway:
                for mirror in mirrors:
                    self._break_off(mirror)
            else:
                for mirror in mirrors:
                    self._feed(mirror, found[mirror.key])

    async def check(self) -> None:
        """Give up mirrors that nobody reads, and compare silent ones with the database, until cancelled.

        A process may die between the commit of a reply and its last event.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CHECK)
            for mirror in list(self._mirrors.values()):
                if mirror.unread and not mirror.log.listened:
                    # Who has found it and comes late must not wait for what nobody feeds any more.
                    self._break_off(mirror)
                elif mirror.heard <= loop.time() - CHECK:
                    await self._compare(mirror)
                mirror.unread = not mirror.log.listened

    async def _load(self, mirror: _Mirror) -> bool:
        try:
            await self._streams.subscribe(mirror.key)
            found = await self._streams.read({mirror.key: mirror.place})
        except StreamsAway:
            self._break_off(mirror)
            return False
        self._feed(mirror, found[mirror.key])
        return True

    def _feed(self, mirror: _Mirror, entries: list[Entry]) -> None:
        mirror.heard = asyncio.get_running_loop().time()
        for entry in entries:
            attempt, number = mirror.place
            if (entry.attempt, entry.number) <= mirror.place:
                continue
            if entry.attempt > attempt:
                self._go_on(mirror, entry.attempt)
                number = 0
            if entry.number != number + 1:
                # Redis has lost the beginning, and its writer has not sent it again yet.
                self._break_off(mirror)
                return
            mirror.place = (entry.attempt, entry.number)
            event = decode(entry.data)
            if event is None:
                self._tasks.begin(self._compare(mirror))
            else:
                mirror.log.append(event)

    def _go_on(self, mirror: _Mirror, attempt: int) -> None:
        """Have its readers go on with a later attempt."""
        following = ReplyLog(mirror.log.reply_id, attempt, behind=True)
        mirror.log.succeed(following)
        mirror.log, mirror.place = following, (attempt, 0)

    async def _compare(self, mirror: _Mirror) -> None:
        """Finish a mirror whose reply is finished."""
        mirror.heard = asyncio.get_running_loop().time()
        reply_id = mirror.log.reply_id
        try:
            finished = await self._stored.finished(mirror.user_id, reply_id)
        except ChatError as error:
            log.warning("mirror_not_compared", reply_id=str(reply_id), reason=error.reason)
            self._break_off(mirror)
            return
        if finished is None or self._mirrors.get(reply_id) is not mirror:
            return
        self._drop(mirror)
        last = finished.events[-1].event
        erased = isinstance(last, Completed) and last.message.state is MessageState.ERASED
        if finished.attempt != mirror.log.attempt or erased:
            mirror.log.succeed(finished)
        else:
            for event in finished.events[len(mirror.log.events) :]:
                mirror.log.append(event.event)

    def _break_off(self, mirror: _Mirror) -> None:
        self._drop(mirror)
        if not mirror.log.ended:
            mirror.log.break_off(held_elsewhere())

    def _drop(self, mirror: _Mirror) -> None:
        if self._mirrors.get(mirror.log.reply_id) is mirror:
            del self._mirrors[mirror.log.reply_id]
            self._tasks.begin(self._unsubscribe(mirror))

    async def _unsubscribe(self, mirror: _Mirror) -> None:
        # Somebody may have found the reply again meanwhile.
        if mirror.log.reply_id not in self._mirrors:
            await self._streams.unsubscribe(mirror.key)
