"""The logs of running replies, shared by several server processes through Redis.

Whoever writes a log writes it in memory, for the readers of its own process; one task carries what is new, of all
replies together, to Redis. A reader elsewhere reads a mirror: a log in its own process that one task, for all mirrors
together, feeds from Redis. Redis holds nothing that is needed: the logs are in memory where they are written and are
sent again after a loss, and whatever is over is in the database.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from uuid import UUID

import structlog

from chatrpc.db.codec import parts_from_json, parts_to_json
from chatrpc.domain import MessageState, ToolResultPart
from chatrpc.errors import ChatError
from chatrpc.streams.streams import PAUSE, Batch, Entry, Streams, StreamsAway, Verdict, end
from chatrpc.turns.event_codec import decode, encode
from chatrpc.turns.events import Completed
from chatrpc.turns.reply_log import ReplyLog, held_elsewhere
from chatrpc.turns.reply_logs import OnResults
from chatrpc.turns.shared_changes import CHANNEL, SharedChanges
from chatrpc.turns.stored import StoredReplies
from chatrpc.turns.tool_results import results_of

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

# Events that one call carries at most, so that none holds Redis up.
CALL_EVENTS = 1_000
# Seconds for which Redis keeps the log of a running reply that says nothing, and of one that is over.
LIFE = 900.0
LIFE_AFTER = 10.0
# Seconds after which a silent mirror is compared with the database, and one that nobody reads is given up.
CHECK = 5.0


class _Outgoing:
    """A log of this process, and how much of it Redis has."""

    __slots__ = ("closed", "key", "log", "sent")

    def __init__(self, log: ReplyLog) -> None:
        self.log = log
        self.key = _key(log.reply_id)
        self.sent = 0
        self.closed = False

    @property
    def done(self) -> bool:
        return self.closed and self.sent == len(self.log.events)

    def batch(self, room: int) -> Batch:
        events = self.log.events[self.sent : self.sent + room]
        life = LIFE_AFTER if events and events[-1].last else LIFE
        return Batch(self.key, self.log.attempt, self.sent + 1, [encode(each.event) for each in events], life)


class _Mirror:
    """Another process's log, as it is read here.

    Attributes:
        place: Attempt and number of the last entry that was read.
        heard: When, on the loop's clock.
    """

    __slots__ = ("heard", "key", "loading", "log", "place", "unread", "user_id")

    def __init__(self, user_id: UUID, log: ReplyLog, now: float) -> None:
        self.user_id = user_id
        self.key = _key(log.reply_id)
        self.log = log
        self.place = (log.attempt, 0)
        self.heard = now
        self.unread = False
        self.loading: asyncio.Task[bool] | None = None


class SharedReplyLogs:
    """Implements `ReplyLogs`; opened by `share_reply_logs`.

    Attributes:
        changes: The way of hints.
    """

    def __init__(self, streams: Streams, stored: StoredReplies) -> None:
        self.on_cancel: Callable[[UUID, UUID], None] = lambda user_id, reply_id: None
        self.on_results: OnResults = lambda user_id, reply_id, results: None
        self.on_stale: Callable[[ReplyLog], None] = lambda log: None
        self.on_change: Callable[[UUID], None] = lambda conversation_id: None
        self.changes = SharedChanges(streams)
        self.changes.on_change = lambda conversation_id: self.on_change(conversation_id)
        self._streams = streams
        self._stored = stored
        self._process: str | None = None
        self._own: dict[UUID, _Outgoing] = {}
        self._unsent: dict[_Outgoing, None] = {}
        self._all_sent = asyncio.Event()
        self._all_sent.set()
        self._something_unsent = asyncio.Event()
        self._mirrors: dict[UUID, _Mirror] = {}
        self._announced: dict[UUID, None] = {}
        self._something_announced = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        streams.on_message = self._hear
        streams.on_loss = self._lose

    def join(self, process_id: UUID) -> None:
        if self._process is not None:
            self._begin_task(self._streams.unsubscribe(self._process))
        self._process = _process_key(process_id)
        self._begin_task(self._subscribe_for_good(self._process))

    def begin(self, user_id: UUID, reply_id: UUID, attempt: int) -> ReplyLog:
        mirror = self._mirrors.get(reply_id)
        new = ReplyLog(reply_id, attempt)
        if mirror is not None:
            mirror.log.succeed(new)
            self._drop(mirror)
        outgoing = self._own[reply_id] = _Outgoing(new)
        new.listen(outgoing, lambda: self._send(outgoing))
        return new

    def close(self, log: ReplyLog) -> None:
        outgoing = self._own.get(log.reply_id)
        if outgoing is not None and outgoing.log is log:
            del self._own[log.reply_id]
            outgoing.closed = True
            log.forget(outgoing)
            if not outgoing.done:
                self._send(outgoing)

    async def find(self, user_id: UUID, reply_id: UUID, attempt: int) -> ReplyLog | None:
        own = self._own.get(reply_id)
        if own is not None and own.log.attempt >= attempt:
            return own.log
        mirror = self._mirrors.get(reply_id)
        if mirror is None:
            behind = ReplyLog(reply_id, attempt, behind=True)
            mirror = self._mirrors[reply_id] = _Mirror(user_id, behind, asyncio.get_running_loop().time())
            mirror.loading = self._begin_task(self._load(mirror))
        elif mirror.log.attempt < attempt:
            # The attempt that Redis still tells of is over. What the current one tells may not have come there yet.
            self._go_on(mirror, attempt)
        mirror.unread = False
        assert mirror.loading is not None
        return mirror.log if await asyncio.shield(mirror.loading) else None

    async def cancel(self, owner: UUID, user_id: UUID, reply_id: UUID) -> bool:
        return await self._say(owner, [str(user_id), str(reply_id)])

    async def submit(self, owner: UUID, user_id: UUID, reply_id: UUID, results: Sequence[ToolResultPart]) -> bool:
        return await self._say(owner, [str(user_id), str(reply_id), parts_to_json(results)])

    async def _say(self, owner: UUID, words: list[Any]) -> bool:
        try:
            return await self._streams.say(_process_key(owner), json.dumps(words).encode())
        except StreamsAway:
            return False

    async def forget(self, reply_id: UUID) -> None:
        with suppress(StreamsAway):
            await self._streams.delete(_key(reply_id))

    def changed(self, conversation_id: UUID) -> None:
        self.changes.tell(conversation_id)

    async def flush(self) -> None:
        """Wait until Redis has all that was written."""
        await self._all_sent.wait()

    async def write(self) -> None:
        """Carry what is new to Redis until cancelled."""
        while True:
            await self._something_unsent.wait()
            self._something_unsent.clear()
            try:
                while self._unsent:
                    await self._write_some()
            except StreamsAway:
                self._start_over()
                await asyncio.sleep(PAUSE)
            if self._unsent:
                self._something_unsent.set()
            else:
                self._all_sent.set()

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

    def _send(self, outgoing: _Outgoing) -> None:
        self._unsent[outgoing] = None
        self._something_unsent.set()
        self._all_sent.clear()

    async def _write_some(self) -> None:
        batches: list[Batch] = []
        senders: list[_Outgoing] = []
        room = CALL_EVENTS
        for outgoing in list(self._unsent):
            del self._unsent[outgoing]
            batch = outgoing.batch(room)
            if batch.entries:
                senders.append(outgoing)
                batches.append(batch)
                room -= len(batch.entries)
            if room <= 0:
                break
        if not batches:
            return
        try:
            verdicts = await self._streams.append(batches)
        except StreamsAway:
            self._unsent.update(dict.fromkeys(senders))
            raise
        for outgoing, batch, verdict in zip(senders, batches, verdicts, strict=True):
            match verdict:
                case Verdict.OK:
                    outgoing.sent = batch.first + len(batch.entries) - 1
                case Verdict.GAP:
                    outgoing.sent = 0
                case Verdict.STALE:
                    outgoing.closed, outgoing.sent = True, len(outgoing.log.events)
                    outgoing.log.forget(outgoing)
                    self.on_stale(outgoing.log)
            if outgoing.sent < len(outgoing.log.events):
                self._unsent[outgoing] = None

    def _start_over(self) -> None:
        """After a loss, nobody knows what Redis still has. What is over is in the database."""
        self._unsent = {outgoing: None for outgoing in self._own.values() if outgoing.log.events}
        for outgoing in self._unsent:
            outgoing.sent = 0

    def _hear(self, channel: str, data: bytes) -> None:
        if channel == self._process:
            user_id, reply_id, *results = json.loads(data)
            if results:
                taken = results_of(parts_from_json(results[0]))
                self.on_results(UUID(user_id), UUID(reply_id), tuple(taken.values()))
            else:
                self.on_cancel(UUID(user_id), UUID(reply_id))
        elif channel == CHANNEL:
            self.changes.hear(data)
        else:
            self._announced[UUID(channel.rpartition(":")[2])] = None
            self._something_announced.set()

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
                self._begin_task(self._compare(mirror))
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
            self._begin_task(self._unsubscribe(mirror))

    async def _unsubscribe(self, mirror: _Mirror) -> None:
        # Somebody may have found the reply again meanwhile.
        if mirror.log.reply_id not in self._mirrors:
            await self._streams.unsubscribe(mirror.key)

    def _lose(self) -> None:
        for mirror in list(self._mirrors.values()):
            self._break_off(mirror)

    async def _subscribe_for_good(self, channel: str) -> None:
        with suppress(StreamsAway):
            await self._streams.subscribe(channel, lasting=True)

    def _begin_task(self, work: Coroutine[None, None, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _key(reply_id: UUID) -> str:
    return f"chatrpc:reply:{reply_id}"


def _process_key(process_id: UUID) -> str:
    return f"chatrpc:process:{process_id}"


@asynccontextmanager
async def share_reply_logs(streams: Streams, stored: StoredReplies) -> AsyncIterator[SharedReplyLogs]:
    """Share until the end of the block; what is written by then is carried to Redis, if it is there."""
    logs = SharedReplyLogs(streams, stored)
    working = [asyncio.create_task(work) for work in (logs.write(), logs.read(), logs.check(), logs.changes.run())]
    try:
        yield logs
        with suppress(TimeoutError):
            async with asyncio.timeout(PAUSE):
                await logs.flush()
    finally:
        await end(*working)
