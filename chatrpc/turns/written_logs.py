"""The logs that this process writes, carried to Redis: one task takes what is new, of all replies together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

from chatrpc.streams.streams import PAUSE, Batch, Streams, StreamsAway, Verdict
from chatrpc.turns.event_codec import encode
from chatrpc.turns.reply_log import ReplyLog
from chatrpc.turns.shared_keys import reply_key

# Events that one call carries at most, so that none holds Redis up.
CALL_EVENTS = 1_000
# Seconds for which Redis keeps the log of a running reply that says nothing, and of one that is over.
LIFE = 900.0
LIFE_AFTER = 10.0


class _Outgoing:
    """A log of this process, and how much of it Redis has."""

    __slots__ = ("closed", "key", "log", "sent")

    def __init__(self, log: ReplyLog) -> None:
        self.log = log
        self.key = reply_key(log.reply_id)
        self.sent = 0
        self.closed = False

    @property
    def done(self) -> bool:
        return self.closed and self.sent == len(self.log.events)

    def batch(self, room: int) -> Batch:
        events = self.log.events[self.sent : self.sent + room]
        life = LIFE_AFTER if events and events[-1].last else LIFE
        return Batch(self.key, self.log.attempt, self.sent + 1, [encode(each.event) for each in events], life)


class WrittenLogs:
    """Knows how much of each log Redis has. After a loss of Redis, all that runs is carried there again.

    Attributes:
        on_stale: Called with a log whose attempt is found not to be the current one any more.
    """

    def __init__(self, streams: Streams) -> None:
        self.on_stale: Callable[[ReplyLog], None] = lambda log: None
        self._streams = streams
        self._own: dict[UUID, _Outgoing] = {}
        self._unsent: dict[_Outgoing, None] = {}
        self._all_sent = asyncio.Event()
        self._all_sent.set()
        self._something_unsent = asyncio.Event()

    def get(self, reply_id: UUID) -> ReplyLog | None:
        """The log of a reply that is being written here."""
        own = self._own.get(reply_id)
        return None if own is None else own.log

    def begin(self, log: ReplyLog) -> None:
        """Carry what is written to a log from now on."""
        outgoing = self._own[log.reply_id] = _Outgoing(log)
        log.listen(outgoing, lambda: self._send(outgoing))

    def close(self, log: ReplyLog) -> None:
        """Nothing further will be written."""
        outgoing = self._own.get(log.reply_id)
        if outgoing is not None and outgoing.log is log:
            del self._own[log.reply_id]
            outgoing.closed = True
            log.forget(outgoing)
            if not outgoing.done:
                self._send(outgoing)

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
