"""Turns: send, follow, cancel. The running generations of this process, and the way back to all others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import structlog

from chatrpc.context.exchange import parts_tokens
from chatrpc.context.query import PendingQuery
from chatrpc.db.transcript import Claim, FinishedReply
from chatrpc.domain import (
    Accepted,
    BusyPolicy,
    Caller,
    FinishReason,
    Message,
    MessageState,
    OutgoingMessage,
    Regeneration,
    ToolResultPart,
)
from chatrpc.errors import ChatError, NotFound, Reason, Unavailable
from chatrpc.turns.admission import Slot
from chatrpc.turns.checkpoints import checkpoint_while_running
from chatrpc.turns.generation import Generation, TurnParts
from chatrpc.turns.lease import ProcessLease
from chatrpc.turns.locks import Locks
from chatrpc.turns.replay import replay
from chatrpc.turns.reply_log import ReplyLog, ReplyReader, held_elsewhere
from chatrpc.turns.reply_logs import ReplyLogs
from chatrpc.turns.stored import StoredReplies
from chatrpc.turns.submission import Submissions

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

# How often a queued turn looks whether the reply before it, in another process, is finished.
PREDECESSOR_POLL = 0.5
# How many seconds an erasure waits for a reply that another process is to stop.
STOP_PATIENCE = 5.0
# A reply that as many attempts did not bring to its end is ended, lest it take down one process after the other.
MAX_ATTEMPTS = 5


class Turns:
    """Accepts messages and tells their replies.

    Args:
        lease: Its id owns the replies that this process generates.
        logs: Where replies are told, and found.

    Attributes:
        on_change: Called with a conversation that has changed, or may have, in whichever process.
    """

    def __init__(self, parts: TurnParts, stored: StoredReplies, lease: ProcessLease, logs: ReplyLogs) -> None:
        self._parts = parts
        self._stored = stored
        self._lease = lease
        self._logs = logs
        # With the last attempts at them here that may have asked a model, so that those can be booked.
        self._left: dict[tuple[UUID, UUID], Generation | None] = {}
        self._running: dict[tuple[UUID, UUID], Generation] = {}
        # The same by the messages that they reply to: user, conversation and key.
        self._answering: dict[tuple[UUID, UUID, str | None], Generation] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._checkpoints: asyncio.Task[None] | None = None
        self._locks = Locks()
        self._submissions = Submissions(parts.transcript, logs, self._running)
        lease.on_lapse = self.abandon
        lease.on_acquire = logs.join
        self.on_change: Callable[[UUID], None] = lambda conversation_id: None
        logs.on_change = lambda conversation_id: self.on_change(conversation_id)
        logs.on_cancel = self._cancel_here
        logs.on_results = self._submissions.hear
        logs.on_stale = self._supersede
        logs.join(lease.process_id)

    async def send(self, caller: Caller, message: OutgoingMessage) -> tuple[Accepted, ReplyReader]:
        """Accept a message; its reply is generated whether or not the events are read.

        A resend with the same key attaches to the same turn, running, finished or left behind by a dead process.

        Returns:
            What is committed, and the reply's events from the first on.

        Raises:
            NotFound, AlreadyExists, InvalidInput, Conflict, ResourceExhausted: As Transcript.append.
            Unavailable: The database cannot be reached, or the server is overloaded; the same send succeeds later,
                once.
        """
        key = caller.user_id, message.conversation_id, message.client_message_id
        # A resend of what is accepted is no new turn. Those that this process does not know of are taken for one.
        slot = await self._parts.admission.enter(always=key in self._answering)
        return await self._whole(self._send(caller, message, slot))

    async def regenerate(self, caller: Caller, asked: Regeneration) -> tuple[Accepted, ReplyReader]:
        """Begin a further reply to a message, beside those that it has; otherwise as `send`.

        Raises:
            NotFound, AlreadyExists, FailedPrecondition, Conflict, ResourceExhausted: As Transcript.regenerate.
            Unavailable: The database cannot be reached, or the server is overloaded; the same request succeeds later,
                once.
        """
        key = caller.user_id, asked.conversation_id, asked.client_message_id
        slot = await self._parts.admission.enter(always=key in self._answering)
        return await self._whole(self._send(caller, asked, slot))

    async def _send(
        self, caller: Caller, asked: OutgoingMessage | Regeneration, slot: Slot
    ) -> tuple[Accepted, ReplyReader]:
        pending: PendingQuery | None = None
        try:
            if isinstance(asked, OutgoingMessage):
                pending = self._parts.assembler.embed_query(asked.parts)
            return await self._accept(caller, asked, pending, slot)
        except BaseException:
            # Not where the sender is cancelled: the reply needs the embedding all the same.
            if pending is not None:
                pending.cancel()
            slot.leave()
            raise

    async def _accept(
        self, caller: Caller, asked: OutgoingMessage | Regeneration, pending: PendingQuery | None, slot: Slot
    ) -> tuple[Accepted, ReplyReader]:
        user_id = caller.user_id
        # Appends to a conversation are serial in the database anyway. Here they are, too, so that nobody finds a
        # reply that is committed but not yet running.
        async with self._locks.held((user_id, asked.conversation_id)):
            accepted = await self._append(caller, asked)
            if accepted.duplicate:
                if pending is not None:
                    pending.cancel()
                slot.leave()
                return accepted, await self._attach(user_id, accepted, 0, 0)
            running = self._start(user_id, accepted, 1, pending, asked.coalesce_window, slot)
        self.changed(asked.conversation_id)
        if asked.busy_policy is BusyPolicy.INTERRUPT and accepted.queued:
            await self._interrupt(user_id, accepted)
        return accepted, running.read(0)

    async def _append(self, caller: Caller, asked: OutgoingMessage | Regeneration) -> Accepted:
        transcript, limits = self._parts.transcript, self._parts.limits
        if isinstance(asked, Regeneration):
            reservation = self._parts.assembler.reservation(asked.settings, 0)
            return await transcript.regenerate(
                caller.user_id,
                asked,
                owner=self._owner(),
                limits=limits,
                reservation=reservation,
                quota=caller.quota,
            )
        tokens = parts_tokens(asked.parts)
        accepted = await transcript.append(
            caller.user_id,
            asked,
            tokens=tokens,
            actor=caller.actor,
            owner=self._owner(),
            limits=limits,
            reservation=self._parts.assembler.reservation(asked.settings, tokens),
            quota=caller.quota,
        )
        self._parts.assembler.appended(caller.user_id, accepted)
        return accepted

    async def _interrupt(self, user_id: UUID, accepted: Accepted) -> None:
        """Stop the replies that a new one waits for, in whichever process. It begins when they are stored."""
        with suppress(Unavailable):
            pending = await self._parts.transcript.pending(user_id, accepted.message.conversation_id)
            for reply_id, owner in pending.items():
                if reply_id == accepted.reply.id:
                    continue
                running = self._running.get((user_id, reply_id))
                if running is not None:
                    running.cancel()
                elif owner is not None:
                    await self._logs.cancel(owner, user_id, reply_id)

    def _owner(self) -> UUID:
        """Raises: Unavailable: Without a lease, whatever was begun would be taken over at once."""
        if not self._lease.held:
            raise Unavailable(Reason.DATABASE_UNAVAILABLE, "The database cannot be reached; try again.")
        return self._lease.process_id

    async def follow(self, caller: Caller, reply_id: UUID, attempt: int, after_sequence: int) -> ReplyReader:
        """The events of a reply after one that the reader has seen: `(attempt, after_sequence)`, or `(0, 0)`.

        If the reader's attempt is not the current one, all events of the current one.

        Raises:
            NotFound: No such reply.
            OutOfRange: The reply has not come so far.
            Unavailable: Another living process is at work on it, whose log cannot be read from here, or the database
                cannot be reached.
        """
        return await self._follow(caller.user_id, reply_id, attempt, after_sequence)

    async def _follow(self, user_id: UUID, reply_id: UUID, attempt: int, after_sequence: int) -> ReplyReader:
        running = self._running.get((user_id, reply_id))
        if running is not None and attempt <= running.log.attempt:
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
        """Stop a reply, in whichever process it is generated.

        Returns:
            Whether it was running.

        Raises:
            NotFound: No such reply.
            Unavailable: Another process is at work on it, and cannot be reached.
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
            attempt = await self._begin_attempt((user_id, reply.id))
            if attempt is None:
                owner = await self._parts.transcript.owner(user_id, reply.id)
                if owner is not None and not await self._logs.cancel(owner, user_id, reply.id):
                    raise held_elsewhere()
                return owner is not None
            await self._end_left_behind(user_id, reply, attempt, FinishReason.CANCELLED)
        return True

    async def submit_tool_results(self, caller: Caller, reply_id: UUID, results: Sequence[ToolResultPart]) -> None:
        """Give a running reply the results of tool calls, in whichever process it is generated; all or none.

        Raises:
            NotFound: No such reply of this user.
            FailedPrecondition: The reply does not wait for one of them.
            ResourceExhausted: All results of the reply together are too long.
            Unavailable: Another process is at work on it, and cannot be reached.
        """
        await self._submissions.submit(caller.user_id, reply_id, results)

    async def _end_left_behind(self, user_id: UUID, reply: Message, attempt: int, reason: FinishReason) -> None:
        """End a reply that nobody generates with the text that it has. The conversation's lock is held."""
        tokens = parts_tokens(reply.parts)
        finished = FinishedReply(
            conversation_id=reply.conversation_id,
            reply=reply,
            attempt=attempt,
            state=MessageState.CANCELLED,
            parts=reply.parts,
            tokens=tokens,
            model=None,
            finish_reason=reason,
            error_reason=None,
            usage=None,
            delta_ends=reply.delta_ends,
            report=None,
        )
        log = self._logs.begin(user_id, reply.id, attempt)
        try:
            written = await self._parts.transcript.finish_reply(user_id, finished)
            if written is None:
                log.break_off(held_elsewhere())
                return
            for event in replay(written[0], None):
                log.append(event.event)
        except ChatError as error:
            self._left[user_id, reply.id] = None
            log.break_off(error)
            raise
        finally:
            self._logs.close(log)
        self._parts.assembler.finished(user_id, *written)
        self._parts.on_finished()
        self.changed(reply.conversation_id)

    def _cancel_here(self, user_id: UUID, reply_id: UUID) -> None:
        """Stop a reply of this process. It may be between two attempts."""
        running = self._running.get((user_id, reply_id))
        if running is not None:
            running.cancel()
        else:
            task = asyncio.create_task(self._cancel_pending(user_id, reply_id))
            self._tasks.add(task)
            task.add_done_callback(self._forget)

    async def _cancel_pending(self, user_id: UUID, reply_id: UUID) -> None:
        with suppress(ChatError):
            accepted = await self._parts.transcript.turn(user_id, reply_id)
            owner = await self._parts.transcript.owner(user_id, reply_id)
            if owner == self._lease.process_id:
                await self._cancel_left_behind(user_id, accepted)

    def _supersede(self, log: ReplyLog) -> None:
        for running in list(self._running.values()):
            if running.log is log:
                running.supersede()

    def abandon(self) -> None:
        """Stop telling: this process has lost its lease, so others may have taken over its replies."""
        for running in list(self._running.values()):
            running.supersede()

    async def retry_left_behind(self, *, interrupt: bool) -> None:
        """Attempt anew what this process could not finish, while the database was away for instance, or because it was
        not sure of its lease. What another process has taken over is left to that one."""
        for key in list(self._left):
            try:
                attempt = await self._begin_attempt(key)
            except Unavailable:
                return
            if attempt is not None:
                await self.take_over(Claim(*key, attempt), interrupt=interrupt)

    async def _begin_attempt(self, key: tuple[UUID, UUID]) -> int | None:
        """As Transcript.begin_attempt, telling what the attempt before was served if it was this process's own."""
        before = self._left.get(key)
        used, served = (None, None) if before is None else (before.log.attempt, before.served)
        transcript = self._parts.transcript
        attempt = await transcript.begin_attempt(*key, self._owner(), used, served)
        if attempt is None and before is not None:
            # Whoever took it over has booked it, but not whoever erased it.
            await self._book_left(key, before)
        self._left.pop(key, None)
        return attempt

    async def take_over(self, claim: Claim, *, interrupt: bool) -> None:
        """Generate a reply anew whose attempt has begun, or end it with the text that is stored.

        Args:
            interrupt: Whether to end it. Without text, it is generated anyway, since nothing would be left of it; and
                one that several processes have not survived is ended anyway.
        """
        with suppress(NotFound):
            await self._whole(self._take_over(claim, interrupt))

    async def _take_over(self, claim: Claim, interrupt: bool) -> None:
        key = claim.user_id, claim.reply_id
        try:
            accepted = await self._parts.transcript.turn(*key)
            async with self._locks.held((claim.user_id, accepted.message.conversation_id)):
                reply = accepted.reply
                if key in self._running or reply.state.finished or reply.attempt != claim.attempt:
                    return
                if claim.attempt > MAX_ATTEMPTS or (interrupt and reply.parts):
                    await self._end_left_behind(claim.user_id, reply, claim.attempt, FinishReason.INTERRUPTED)
                else:
                    self._start(claim.user_id, accepted, claim.attempt, None, None)
        except Unavailable:
            self._left[key] = None

    def changed(self, conversation_id: UUID) -> None:
        """Tell those who watch a conversation, in whichever process, that it has changed."""
        self.on_change(conversation_id)
        self._logs.changed(conversation_id)

    def cancel_conversation(self, user_id: UUID, conversation_id: UUID) -> None:
        """Stop all replies of a conversation that this process generates."""
        for running in list(self._running.values()):
            if running.user_id == user_id and running.conversation_id == conversation_id:
                running.cancel()

    async def stop(self, caller: Caller, message_id: UUID) -> None:
        """Stop all replies to a message, or the one that it is, in whichever process; nothing of their logs is left.

        It waits for the end, but not for long: whoever erases the message takes them out of their processes' hands.
        """
        replies = await self._parts.transcript.replies_to(caller.user_id, message_id)
        await asyncio.gather(*(self._stop(caller, reply_id) for reply_id in replies))

    async def _stop(self, caller: Caller, reply_id: UUID) -> None:
        with suppress(ChatError, TimeoutError):
            async with asyncio.timeout(STOP_PATIENCE):
                if await self.cancel(caller, reply_id):
                    async for _ in await self._follow(caller.user_id, reply_id, 0, 0):
                        pass
        await self._logs.forget(reply_id)

    async def drain(self, grace: float) -> None:
        """Wait up to `grace` seconds for the running replies, then stop the rest; what they have is stored.

        Of what could not be stored, at least what it used is booked: nobody else knows it.
        """
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
        with suppress(Unavailable):
            for key, left in list(self._left.items()):
                if left is not None:
                    await self._book_left(key, left)

    async def _book_left(self, key: tuple[UUID, UUID], left: Generation) -> None:
        await self._parts.transcript.book_attempt(*key, left.log.attempt, left.conversation_id, left.served)

    def _start(
        self,
        user_id: UUID,
        accepted: Accepted,
        attempt: int,
        pending: PendingQuery | None,
        coalesce_window: float | None,
        slot: Slot | None = None,
    ) -> ReplyLog:
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
        key = (user_id, accepted.reply.id)
        self._running[key] = generation
        # A regenerated reply has the key of its own request.
        asked_by = accepted.reply.client_message_id or accepted.message.client_message_id
        said = (user_id, accepted.message.conversation_id, asked_by)
        self._answering[said] = generation
        if self._checkpoints is None or self._checkpoints.done():
            work = checkpoint_while_running(self._parts.transcript, self._running)
            self._checkpoints = asyncio.create_task(work, name="checkpoints")
        task = asyncio.create_task(self._run(key, said, generation), name=f"reply {accepted.reply.id}")
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return generation.log

    async def _run(self, key: tuple[UUID, UUID], said: tuple[UUID, UUID, str | None], generation: Generation) -> None:
        try:
            await generation.run()
        except Exception:
            log.exception("generation_failed", reply_id=str(key[1]))
        finally:
            if self._running.get(key) is generation:
                del self._running[key]
            if self._answering.get(said) is generation:
                del self._answering[said]
            if generation.left_behind:
                self._left[key] = generation
            self._logs.close(generation.log)
            self.changed(generation.conversation_id)

    async def _attach(self, user_id: UUID, accepted: Accepted, attempt: int, after_sequence: int) -> ReplyReader:
        """Read a turn that is stored: live, finished, or started anew. The conversation's lock is held."""
        reply_id = accepted.reply.id
        running = self._running.get((user_id, reply_id))
        if running is not None and accepted.reply.attempt <= running.log.attempt:
            return _read(running.log, attempt, after_sequence)
        if running is not None:
            # A reader who has seen a later attempt brings the news that this one is over.
            running.supersede()
        if accepted.reply.state.finished:
            return await self._replayed(user_id, accepted.reply, attempt, after_sequence)
        begun = await self._begin_attempt((user_id, reply_id))
        # The reply was read before the lock was held, so it is read again.
        current = await self._parts.transcript.turn(user_id, reply_id)
        if begun is not None:
            return _read(self._start(user_id, current, begun, None, None), attempt, after_sequence)
        if current.reply.state.finished:
            return await self._replayed(user_id, current.reply, attempt, after_sequence)
        found = await self._logs.find(user_id, reply_id, current.reply.attempt)
        if found is None:
            raise held_elsewhere()
        return _read(found, attempt, after_sequence)

    async def _replayed(self, user_id: UUID, reply: Message, attempt: int, after_sequence: int) -> ReplyReader:
        log = await self._stored.log(user_id, reply)
        if reply.state is MessageState.ERASED:
            # Whatever was told of it before, all that can be told now is that it is erased.
            return log.read(0)
        return _read(log, attempt, after_sequence)

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
