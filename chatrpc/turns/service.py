"""Turns: send, follow, cancel. The running generations of this process, and the way back to all others."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import structlog

from chatrpc.context.query import PendingQuery
from chatrpc.db.reports import Reports
from chatrpc.db.transcript import FinishedReply
from chatrpc.domain import Accepted, Caller, FinishReason, Message, MessageState, OutgoingMessage, Usage
from chatrpc.errors import ChatError, NotFound, Unavailable
from chatrpc.tokens import estimate_tokens
from chatrpc.turns.checkpoints import checkpoint_while_running
from chatrpc.turns.generation import Generation, TurnParts, held_elsewhere
from chatrpc.turns.replay import replay
from chatrpc.turns.reply_log import ReplyLog, ReplyReader

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

# How often a queued turn looks whether the reply before it, in another process, is finished.
PREDECESSOR_POLL = 0.5


class Turns:
    """Accepts messages and tells their replies.

    Args:
        process_id: Owner of the replies that this process generates; see `chatrpc.turns.lease`.
    """

    def __init__(self, parts: TurnParts, reports: Reports, process_id: UUID) -> None:
        self._parts = parts
        self._reports = reports
        self._process_id = process_id
        self._running: dict[tuple[UUID, UUID], Generation] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._checkpoints: asyncio.Task[None] | None = None
        self._locks = _Locks()

    async def send(self, caller: Caller, message: OutgoingMessage) -> tuple[Accepted, ReplyReader]:
        """Accept a message; its reply is generated whether or not the events are read.

        A resend with the same key attaches to the same turn, running, finished or left behind by a dead process.

        Returns:
            What is committed, and the reply's events from the first on.

        Raises:
            NotFound, AlreadyExists, InvalidInput: As Transcript.append.
            Unavailable: The database cannot be reached; the same send succeeds later, once.
        """
        return await self._whole(self._send(caller, message, self._parts.assembler.embed_query(message.parts)))

    async def _send(
        self, caller: Caller, message: OutgoingMessage, pending: PendingQuery
    ) -> tuple[Accepted, ReplyReader]:
        try:
            return await self._accept(caller, message, pending)
        except BaseException:
            # Not where the sender is cancelled: the reply needs the embedding all the same.
            pending.cancel()
            raise

    async def _accept(
        self, caller: Caller, message: OutgoingMessage, pending: PendingQuery
    ) -> tuple[Accepted, ReplyReader]:
        user_id = caller.user_id
        tokens = sum(estimate_tokens(part.text) for part in message.parts)
        # Appends to a conversation are serial in the database anyway. Here they are, too, so that nobody finds a
        # reply that is committed but not yet running.
        async with self._locks.held((user_id, message.conversation_id)):
            accepted = await self._parts.transcript.append(
                user_id, message, tokens=tokens, actor=caller.actor, owner=self._process_id
            )
            if accepted.duplicate:
                pending.cancel()
                return accepted, await self._attach(user_id, accepted, 0, 0)
            self._parts.assembler.appended(user_id, accepted)
            running = self._start(user_id, accepted, 1, pending, message.coalesce_window)
            return accepted, running.read(0)

    async def follow(self, caller: Caller, reply_id: UUID, attempt: int, after_sequence: int) -> ReplyReader:
        """The events of a reply after one that the reader has seen: `(attempt, after_sequence)`, or `(0, 0)`.

        If the reader's attempt is not the current one, all events of the current one.

        Raises:
            NotFound: No such reply.
            OutOfRange: The reply has not come so far.
            Unavailable: Another living process is at work on it, or the database cannot be reached.
        """
        return await self._follow(caller.user_id, reply_id, attempt, after_sequence)

    async def _follow(self, user_id: UUID, reply_id: UUID, attempt: int, after_sequence: int) -> ReplyReader:
        running = self._running.get((user_id, reply_id))
        if running is not None:
            return _read(running.log, attempt, after_sequence)
        return await self._whole(self._follow_stored(user_id, reply_id, attempt, after_sequence))

    async def _follow_stored(self, user_id: UUID, reply_id: UUID, attempt: int, after_sequence: int) -> ReplyReader:
        accepted = await self._parts.transcript.turn(user_id, reply_id)
        async with self._locks.held((user_id, accepted.message.conversation_id)):
            return await self._attach(user_id, accepted, attempt, after_sequence)

    async def _whole(self, work: Coroutine[None, None, _T]) -> _T:
        """Do work to its end even if its caller is cancelled: what it commits must not be left without its reply."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Whoever still waits gets the error; whoever was cancelled does not want it.
            task.exception()

    async def cancel(self, caller: Caller, reply_id: UUID) -> bool:
        """Stop a reply that this process generates.

        Returns:
            Whether it was running.

        Raises:
            NotFound: No such reply.
            Unavailable: Another process is at work on it.
        """
        running = self._running.get((caller.user_id, reply_id))
        if running is not None:
            running.cancel()
            return True
        accepted = await self._parts.transcript.turn(caller.user_id, reply_id)
        if accepted.reply.state.finished:
            return False
        return await self._whole(self._cancel_left_behind(caller.user_id, accepted))

    async def _cancel_left_behind(self, user_id: UUID, accepted: Accepted) -> bool:
        """End a reply that a dead process has left behind, with the text that it has."""
        async with self._locks.held((user_id, accepted.message.conversation_id)):
            running = self._running.get((user_id, accepted.reply.id))
            if running is not None:
                running.cancel()
                return True
            # Read again, since the lock is held only now.
            reply = (await self._parts.transcript.turn(user_id, accepted.reply.id)).reply
            if reply.state.finished:
                return False
            attempt = await self._parts.transcript.begin_attempt(user_id, reply.id, self._process_id)
            if attempt is None:
                raise held_elsewhere()
            tokens = estimate_tokens(reply.text) if reply.text else 0
            finished = FinishedReply(
                conversation_id=reply.conversation_id,
                reply=reply,
                attempt=attempt,
                state=MessageState.CANCELLED,
                parts=reply.parts,
                tokens=tokens,
                model=None,
                finish_reason=FinishReason.CANCELLED,
                error_reason=None,
                usage=Usage(completion_tokens=tokens, estimated=True),
                delta_ends=reply.delta_ends,
                report=None,
            )
            written = await self._parts.transcript.finish_reply(user_id, finished)
            if written is not None:
                self._parts.assembler.finished(user_id, *written)
                self._parts.on_finished()
        return True

    def abandon(self) -> None:
        """Stop telling: this process has lost its lease, so others may have taken over its replies."""
        for running in list(self._running.values()):
            running.supersede()

    def cancel_conversation(self, user_id: UUID, conversation_id: UUID) -> None:
        """Stop all replies of a conversation that this process generates."""
        for running in list(self._running.values()):
            if running.user_id == user_id and running.conversation_id == conversation_id:
                running.cancel()

    async def stop(self, user_id: UUID, message_id: UUID) -> None:
        """Stop the reply to a message, or that is it, where this process generates it, and wait until it has ended."""
        for running in list(self._running.values()):
            if running.user_id == user_id and message_id in running.message_ids:
                running.cancel()
                with suppress(ChatError):
                    async for _ in running.log.read(0):
                        pass

    async def drain(self, grace: float) -> None:
        """Wait up to `grace` seconds for the running replies, then stop the rest; what they have is stored."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        # What ends may have begun something else: a send begins a reply.
        while self._tasks and loop.time() < deadline:
            await asyncio.wait(self._tasks, timeout=deadline - loop.time())
        while self._tasks:
            for running in list(self._running.values()):
                running.cancel()
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        if self._checkpoints is not None:
            self._checkpoints.cancel()

    def _start(
        self,
        user_id: UUID,
        accepted: Accepted,
        attempt: int,
        pending: PendingQuery | None,
        coalesce_window: float | None,
    ) -> ReplyLog:
        generation = Generation(
            self._parts,
            user_id,
            accepted,
            attempt,
            coalesce_window=coalesce_window,
            pending=pending,
            finished=partial(self._finished, user_id),
        )
        key = (user_id, accepted.reply.id)
        self._running[key] = generation
        if self._checkpoints is None or self._checkpoints.done():
            work = checkpoint_while_running(self._parts.transcript, self._running)
            self._checkpoints = asyncio.create_task(work, name="checkpoints")
        task = asyncio.create_task(self._run(key, generation), name=f"reply {accepted.reply.id}")
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return generation.log

    async def _run(self, key: tuple[UUID, UUID], generation: Generation) -> None:
        try:
            await generation.run()
        except Exception:
            log.exception("generation_failed", reply_id=str(key[1]))
        finally:
            if self._running.get(key) is generation:
                del self._running[key]

    async def _attach(self, user_id: UUID, accepted: Accepted, attempt: int, after_sequence: int) -> ReplyReader:
        """Read a turn that is stored: live, finished, or started anew. The conversation's lock is held."""
        reply_id = accepted.reply.id
        running = self._running.get((user_id, reply_id))
        if running is not None:
            return _read(running.log, attempt, after_sequence)
        if accepted.reply.state.finished:
            return await self._replayed(user_id, accepted.reply, attempt, after_sequence)
        begun = await self._parts.transcript.begin_attempt(user_id, reply_id, self._process_id)
        # The reply was read before the lock was held, so it is read again.
        current = await self._parts.transcript.turn(user_id, reply_id)
        if begun is not None:
            return _read(self._start(user_id, current, begun, None, None), attempt, after_sequence)
        if current.reply.state.finished:
            return await self._replayed(user_id, current.reply, attempt, after_sequence)
        raise held_elsewhere()

    async def _replayed(self, user_id: UUID, reply: Message, attempt: int, after_sequence: int) -> ReplyReader:
        try:
            report = await self._reports.get(user_id, reply.id)
        except NotFound:
            report = None
        events = replay(reply, report)
        position = after_sequence if attempt == reply.attempt else 0
        if reply.state is MessageState.ERASED:
            # Whatever was told of it before, all that can be told now is that it is erased.
            position = 0
        return ReplyLog.told(reply.id, reply.attempt, events).read(position)

    async def _finished(self, user_id: UUID, reply_id: UUID) -> None:
        """Wait until a reply is finished; a reply that a dead process left behind is attempted anew."""
        while True:
            try:
                async for _ in await self._follow(user_id, reply_id, 0, 0):
                    pass
            except Unavailable:
                await asyncio.sleep(PREDECESSOR_POLL)
            else:
                return


def _read(running: ReplyLog, attempt: int, after_sequence: int) -> ReplyReader:
    return running.read(after_sequence if attempt == running.attempt else 0)


class _Locks:
    """A lock a key, kept while somebody holds or awaits it."""

    def __init__(self) -> None:
        self._locks: defaultdict[tuple[UUID, UUID], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._users: defaultdict[tuple[UUID, UUID], int] = defaultdict(int)

    @asynccontextmanager
    async def held(self, key: tuple[UUID, UUID]) -> AsyncIterator[None]:
        self._users[key] += 1
        try:
            async with self._locks[key]:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]
