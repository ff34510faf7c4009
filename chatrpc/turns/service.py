"""Turns: send, follow, cancel. The running generations of this process, and the way back to all others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TypeVar
from uuid import UUID

from chatrpc.context.exchange import parts_tokens
from chatrpc.context.query import PendingQuery
from chatrpc.db.transcript import Claim
from chatrpc.domain import (
    Accepted,
    BusyPolicy,
    Caller,
    Message,
    MessageState,
    OutgoingMessage,
    Regeneration,
    ToolResultPart,
)
from chatrpc.errors import ChatError, Unavailable
from chatrpc.turns.admission import Slot
from chatrpc.turns.generation import Generation, TurnParts
from chatrpc.turns.in_vain import InVain
from chatrpc.turns.lease import ProcessLease
from chatrpc.turns.left_behind import LeftBehind
from chatrpc.turns.locks import Locks
from chatrpc.turns.reply_log import ReplyLog, ReplyReader, held_elsewhere
from chatrpc.turns.reply_logs import ReplyLogs
from chatrpc.turns.running import RunningReplies
from chatrpc.turns.stored import StoredReplies
from chatrpc.turns.submission import Submissions

_T = TypeVar("_T")

# How often a queued turn looks whether the reply before it, in another process, is finished.
PREDECESSOR_POLL = 0.5
# How many seconds an erasure waits for a reply that another process is to stop.
STOP_PATIENCE = 5.0


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
        self._locks = Locks()
        self._running = RunningReplies(parts, lease, logs, self._finished, self._ended)
        self._left = LeftBehind(parts, lease, logs, self._running, self._locks, self.changed)
        self._in_vain = InVain()
        self._submissions = Submissions(parts.transcript, logs, self._running)
        lease.on_lapse = self.abandon
        lease.on_acquire = logs.join
        self.on_change: Callable[[UUID], None] = lambda conversation_id: None
        logs.on_change = lambda conversation_id: self.on_change(conversation_id)
        logs.on_cancel = self._cancel_here
        logs.on_results = self._submissions.hear
        logs.on_stale = self._running.supersede
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
        return await self._begin(caller, message)

    async def regenerate(self, caller: Caller, asked: Regeneration) -> tuple[Accepted, ReplyReader]:
        """Begin a further reply to a message, beside those that it has; otherwise as `send`.

        Raises:
            NotFound, AlreadyExists, FailedPrecondition, Conflict, ResourceExhausted: As Transcript.regenerate.
            Unavailable: The database cannot be reached, or the server is overloaded; the same request succeeds later,
                once.
        """
        return await self._begin(caller, asked)

    async def _begin(self, caller: Caller, asked: OutgoingMessage | Regeneration) -> tuple[Accepted, ReplyReader]:
        # A resend of what is accepted is no new turn. Those that this process does not know of are taken for one.
        known = self._running.answers(caller.user_id, asked.conversation_id, asked.client_message_id)
        slot = await self._parts.admission.enter(always=known)
        return await self._running.whole(self._send(caller, asked, slot))

    async def _send(
        self, caller: Caller, asked: OutgoingMessage | Regeneration, slot: Slot
    ) -> tuple[Accepted, ReplyReader]:
        pending: PendingQuery | None = None
        try:
            if isinstance(asked, OutgoingMessage) and caller.user_id not in self._in_vain:
                pending = self._parts.assembler.embed_query(asked.parts)
            accepted, events = await self._accept(caller, asked, pending, slot)
            self._in_vain.note(caller.user_id, vain=accepted.duplicate)
            return accepted, events
        except BaseException as error:
            if isinstance(error, ChatError) and not isinstance(error, Unavailable):
                self._in_vain.note(caller.user_id, vain=True)
            # Not where the sender is cancelled: the reply needs the embedding all the same.
            if pending is not None:
                pending.cancel()
            slot.leave()
            raise

    async def as_turn(self, work: Callable[[], Coroutine[None, None, _T]]) -> _T:
        """Do other work of a turn's kind: admitted as one, and to its end even if its caller is cancelled.

        It holds no slot meanwhile, since it is the database that works.

        Raises:
            Unavailable: The server is overloaded.
        """
        (await self._parts.admission.enter()).leave()
        return await self._running.whole(work())

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
            running = self._running.start(
                user_id, accepted, 1, pending=pending, coalesce_window=asked.coalesce_window, slot=slot
            )
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
                actor=caller.actor,
                owner=self._lease.owner(),
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
            owner=self._lease.owner(),
            limits=limits,
            reservation=self._parts.assembler.reservation(asked.settings, tokens),
            quota=caller.quota,
        )
        self._parts.assembler.appended(caller.user_id, accepted)
        return accepted

    async def _interrupt(self, user_id: UUID, accepted: Accepted) -> None:
        """Stop the replies that a new one waits for, in whichever process. It begins when they are stored."""
        with suppress(Unavailable):
            reply = accepted.reply
            pending = await self._parts.transcript.pending(user_id, reply.conversation_id, reply.sequence)
            for reply_id, owner in pending.items():
                running = self._running.get(user_id, reply_id)
                if running is not None:
                    running.cancel()
                elif owner is not None:
                    await self._logs.cancel(owner, user_id, reply_id)

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
        running = self._running.get(user_id, reply_id)
        if running is not None and attempt <= running.log.attempt:
            return _read(running.log, attempt, after_sequence)
        return await self._running.whole(self._follow_stored(user_id, reply_id, attempt, after_sequence))

    async def _follow_stored(self, user_id: UUID, reply_id: UUID, attempt: int, after_sequence: int) -> ReplyReader:
        accepted = await self._parts.transcript.turn(user_id, reply_id)
        async with self._locks.held((user_id, accepted.message.conversation_id)):
            return await self._attach(user_id, accepted, attempt, after_sequence)

    async def cancel(self, caller: Caller, reply_id: UUID) -> bool:
        """Stop a reply, in whichever process it is generated.

        Returns:
            Whether it was running.

        Raises:
            NotFound: No such reply.
            Unavailable: Another process is at work on it, and cannot be reached.
        """
        running = self._running.get(caller.user_id, reply_id)
        if running is not None:
            running.cancel()
            return True
        accepted = await self._parts.transcript.turn(caller.user_id, reply_id)
        if accepted.reply.state.finished:
            return False
        return await self._running.whole(self._left.cancel(caller.user_id, accepted))

    async def submit_tool_results(self, caller: Caller, reply_id: UUID, results: Sequence[ToolResultPart]) -> None:
        """Give a running reply the results of tool calls, in whichever process it is generated; all or none.

        Raises:
            NotFound: No such reply of this user.
            FailedPrecondition: The reply does not wait for one of them.
            ResourceExhausted: All results of the reply together are too long.
            Unavailable: Another process is at work on it, and cannot be reached.
        """
        await self._submissions.submit(caller.user_id, reply_id, results)

    def _cancel_here(self, user_id: UUID, reply_id: UUID) -> None:
        """Stop a reply of this process. It may be between two attempts."""
        running = self._running.get(user_id, reply_id)
        if running is not None:
            running.cancel()
        else:
            self._running.spawn(self._cancel_pending(user_id, reply_id))

    async def _cancel_pending(self, user_id: UUID, reply_id: UUID) -> None:
        with suppress(ChatError):
            accepted = await self._parts.transcript.turn(user_id, reply_id)
            owner = await self._parts.transcript.owner(user_id, reply_id)
            if owner == self._lease.process_id:
                await self._left.cancel(user_id, accepted)

    def changed(self, conversation_id: UUID) -> None:
        """Tell those who watch a conversation, in whichever process, that it has changed."""
        self.on_change(conversation_id)
        self._logs.changed(conversation_id)

    def abandon(self) -> None:
        """As RunningReplies.supersede_all."""
        self._running.supersede_all()

    def cancel_conversation(self, user_id: UUID, conversation_id: UUID) -> None:
        """Stop all replies of a conversation that this process generates."""
        self._running.cancel_conversation(user_id, conversation_id)

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

    async def _attach(self, user_id: UUID, accepted: Accepted, attempt: int, after_sequence: int) -> ReplyReader:
        """Read a turn that is stored: live, finished, or started anew. The conversation's lock is held."""
        reply_id = accepted.reply.id
        running = self._running.get(user_id, reply_id)
        if running is not None and accepted.reply.attempt <= running.log.attempt:
            return _read(running.log, attempt, after_sequence)
        if running is not None:
            # A reader who has seen a later attempt brings the news that this one is over.
            running.supersede()
        if accepted.reply.state.finished:
            return await self._replayed(user_id, accepted.reply, attempt, after_sequence)
        begun = await self._left.begin_attempt(user_id, reply_id)
        # The reply was read before the lock was held, so it is read again.
        current = await self._parts.transcript.turn(user_id, reply_id)
        if begun is not None:
            return _read(self._running.start(user_id, current, begun), attempt, after_sequence)
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

    async def retry_left_behind(self, *, interrupt: bool) -> None:
        """As LeftBehind.retry."""
        await self._left.retry(interrupt=interrupt)

    async def take_over(self, claim: Claim, *, interrupt: bool) -> None:
        """As LeftBehind.take_over."""
        await self._left.take_over(claim, interrupt=interrupt)

    async def drain(self, grace: float) -> None:
        """As RunningReplies.drain; and what those attempts used is booked whose end could not be stored."""
        await self._running.drain(grace)
        await self._left.book()

    def _ended(self, generation: Generation) -> None:
        self._left.note(generation)
        self.changed(generation.conversation_id)

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
