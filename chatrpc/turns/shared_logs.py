"""The logs of running replies, shared by several server processes through Redis.

Whoever writes a log writes it in memory, for the readers of its own process, and it is carried to Redis from there. A
reader elsewhere reads a mirror. Redis holds nothing that is needed: the logs are in memory where they are written and
are sent again after a loss, and whatever is over is in the database.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

from chatrpc.db.codec import parts_from_json, parts_to_json
from chatrpc.domain import ToolResultPart
from chatrpc.streams.streams import PAUSE, Streams, StreamsAway, end
from chatrpc.turns.mirrors import Mirrors
from chatrpc.turns.reply_log import ReplyLog
from chatrpc.turns.reply_logs import OnResults
from chatrpc.turns.shared_changes import CHANNEL, SharedChanges
from chatrpc.turns.shared_keys import process_key, reply_key
from chatrpc.turns.stored import StoredReplies
from chatrpc.turns.tasks import Tasks
from chatrpc.turns.tool_results import results_of
from chatrpc.turns.written_logs import WrittenLogs


class SharedReplyLogs:
    """Implements `ReplyLogs`; opened by `share_reply_logs`.

    Attributes:
        written: The logs of this process.
        mirrors: Those of others.
        changes: The way of hints.
    """

    def __init__(self, streams: Streams, stored: StoredReplies) -> None:
        self.on_cancel: Callable[[UUID, UUID], None] = lambda user_id, reply_id: None
        self.on_results: OnResults = lambda user_id, reply_id, results: None
        self.on_stale: Callable[[ReplyLog], None] = lambda log: None
        self.on_change: Callable[[UUID], None] = lambda conversation_id: None
        self.written = WrittenLogs(streams)
        self.written.on_stale = lambda log: self.on_stale(log)
        self.mirrors = Mirrors(streams, stored)
        self.changes = SharedChanges(streams)
        self.changes.on_change = lambda conversation_id: self.on_change(conversation_id)
        self._streams = streams
        self._process: str | None = None
        self._tasks = Tasks()
        streams.on_message = self._hear
        streams.on_loss = self.mirrors.lose

    def join(self, process_id: UUID) -> None:
        if self._process is not None:
            self._tasks.begin(self._streams.unsubscribe(self._process))
        self._process = process_key(process_id)
        self._tasks.begin(self._subscribe_for_good(self._process))

    def begin(self, user_id: UUID, reply_id: UUID, attempt: int) -> ReplyLog:
        new = ReplyLog(reply_id, attempt)
        self.mirrors.give_way(new)
        self.written.begin(new)
        return new

    def close(self, log: ReplyLog) -> None:
        self.written.close(log)

    async def find(self, user_id: UUID, reply_id: UUID, attempt: int) -> ReplyLog | None:
        own = self.written.get(reply_id)
        if own is not None and own.attempt >= attempt:
            return own
        return await self.mirrors.find(user_id, reply_id, attempt)

    async def cancel(self, owner: UUID, user_id: UUID, reply_id: UUID) -> bool:
        return await self._say(owner, [str(user_id), str(reply_id)])

    async def submit(self, owner: UUID, user_id: UUID, reply_id: UUID, results: Sequence[ToolResultPart]) -> bool:
        return await self._say(owner, [str(user_id), str(reply_id), parts_to_json(results)])

    async def _say(self, owner: UUID, words: list[Any]) -> bool:
        try:
            return await self._streams.say(process_key(owner), json.dumps(words).encode())
        except StreamsAway:
            return False

    async def forget(self, reply_id: UUID) -> None:
        with suppress(StreamsAway):
            await self._streams.delete(reply_key(reply_id))

    def changed(self, conversation_id: UUID) -> None:
        self.changes.tell(conversation_id)

    async def flush(self) -> None:
        """Wait until Redis has all that was written."""
        await self.written.flush()

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
            self.mirrors.announce(UUID(channel.rpartition(":")[2]))

    async def _subscribe_for_good(self, channel: str) -> None:
        with suppress(StreamsAway):
            await self._streams.subscribe(channel, lasting=True)


@asynccontextmanager
async def share_reply_logs(streams: Streams, stored: StoredReplies) -> AsyncIterator[SharedReplyLogs]:
    """Share until the end of the block; what is written by then is carried to Redis, if it is there."""
    logs = SharedReplyLogs(streams, stored)
    works = (logs.written.write(), logs.mirrors.read(), logs.mirrors.check(), logs.changes.run())
    working = [asyncio.create_task(work) for work in works]
    try:
        yield logs
        with suppress(TimeoutError):
            async with asyncio.timeout(PAUSE):
                await logs.flush()
    finally:
        await end(*working)
