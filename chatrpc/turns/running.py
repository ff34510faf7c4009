"""The replies that this process generates."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import structlog

from chatrpc.context.query import PendingQuery
from chatrpc.domain import Accepted
from chatrpc.turns.admission import Slot
from chatrpc.turns.checkpoints import checkpoint_while_running
from chatrpc.turns.generation import Generation, TurnParts
from chatrpc.turns.lease import ProcessLease
from chatrpc.turns.reply_log import ReplyLog
from chatrpc.turns.reply_logs import ReplyLogs

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

_Asked = tuple[UUID, UUID, str | None]
"""A turn by what asked for it: user, conversation and the client's key."""


class RunningReplies:
    """Starts generations, and knows them until their end, with all other work that must come to its own.

    Args:
        finished: Waits until another reply of a user is finished.
        ended: Told of each generation at its end.
    """

    def __init__(
        self,
        parts: TurnParts,
        lease: ProcessLease,
        logs: ReplyLogs,
        finished: Callable[[UUID, UUID], Awaitable[None]],
        ended: Callable[[Generation], None],
    ) -> None:
        self._parts = parts
        self._lease = lease
        self._logs = logs
        self._finished = finished
        self._ended = ended
        self._by_reply: dict[tuple[UUID, UUID], Generation] = {}
        self._by_key: dict[_Asked, Generation] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._checkpoints: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._by_reply)

    def __iter__(self) -> Iterator[Generation]:
        return iter(list(self._by_reply.values()))

    def get(self, user_id: UUID, reply_id: UUID) -> Generation | None:
        return self._by_reply.get((user_id, reply_id))

    def answers(self, user_id: UUID, conversation_id: UUID, client_message_id: str) -> bool:
        """Whether what a client asked for under a key of its own is being generated here."""
        return (user_id, conversation_id, client_message_id) in self._by_key

    def start(
        self,
        user_id: UUID,
        accepted: Accepted,
        attempt: int,
        *,
        pending: PendingQuery | None = None,
        coalesce_window: float | None = None,
        slot: Slot | None = None,
    ) -> ReplyLog:
        """Generate a reply; the arguments are those of Generation."""
        generation = Generation(
            self._parts,
            user_id,
            accepted,
            self._logs.begin(user_id, accepted.reply.id, attempt),
            held=lambda: self._lease.held,
            coalesce_window=coalesce_window,
            pending=pending,
            slot=slot,
            finished=partial(self._finished, user_id),
        )
        # A regenerated reply has the key of its own request.
        key = accepted.reply.client_message_id or accepted.message.client_message_id
        asked = (user_id, generation.conversation_id, key)
        self._by_reply[user_id, accepted.reply.id] = generation
        self._by_key[asked] = generation
        if self._checkpoints is None or self._checkpoints.done():
            work = checkpoint_while_running(self._parts.transcript, self._by_reply)
            self._checkpoints = asyncio.create_task(work, name="checkpoints")
        self.spawn(self._run(asked, generation), f"reply {accepted.reply.id}")
        return generation.log

    async def _run(self, asked: _Asked, generation: Generation) -> None:
        reply = generation.user_id, generation.log.reply_id
        try:
            await generation.run()
        except Exception:
            log.exception("generation_failed", reply_id=str(generation.log.reply_id))
        finally:
            if self._by_reply.get(reply) is generation:
                del self._by_reply[reply]
            if self._by_key.get(asked) is generation:
                del self._by_key[asked]
            self._logs.close(generation.log)
            self._ended(generation)

    def supersede(self, log: ReplyLog) -> None:
        """Stop the generation that tells a log which others have replaced."""
        for running in self:
            if running.log is log:
                running.supersede()

    def supersede_all(self) -> None:
        """Stop telling: this process has lost its lease, so others may have taken over its replies."""
        for running in self:
            running.supersede()

    def cancel_conversation(self, user_id: UUID, conversation_id: UUID) -> None:
        """Stop all replies of a conversation that this process generates."""
        for running in self:
            if running.user_id == user_id and running.conversation_id == conversation_id:
                running.cancel()

    async def whole(self, work: Coroutine[None, None, _T]) -> _T:
        """Do work to its end even if its caller is cancelled: what it commits must not be left without its reply."""
        return await asyncio.shield(self.spawn(work))

    def spawn(self, work: Coroutine[None, None, _T], name: str | None = None) -> asyncio.Task[_T]:
        """Do work to its end, for whoever waits for it or nobody; a drain waits for it."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Whoever still waits gets the error; whoever was cancelled does not want it.
            task.exception()

    async def drain(self, grace: float) -> None:
        """Wait up to `grace` seconds for the running replies, then stop the rest; what they have is stored."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        # What ends may have begun something else: a send begins a reply.
        while self._tasks and loop.time() < deadline:
            await asyncio.wait(self._tasks, timeout=deadline - loop.time())
        while self._tasks:
            for running in self:
                running.cancel()
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        if self._checkpoints is not None:
            self._checkpoints.cancel()
