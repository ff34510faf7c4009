"""Replies that nobody generates any more: attempted anew, or ended with the text that they have."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import structlog

from chatrpc.context.exchange import parts_tokens
from chatrpc.db.transcript import Claim, FinishedReply
from chatrpc.domain import Accepted, FinishReason, Message, MessageState
from chatrpc.errors import ChatError, NotFound, Unavailable
from chatrpc.turns.generation import Generation, TurnParts
from chatrpc.turns.lease import ProcessLease
from chatrpc.turns.locks import Locks
from chatrpc.turns.replay import replay
from chatrpc.turns.reply_log import held_elsewhere
from chatrpc.turns.reply_logs import ReplyLogs
from chatrpc.turns.running import RunningReplies

log = structlog.get_logger(__name__)

# A reply that as many attempts did not bring to its end is ended, lest it take down one process after the other.
MAX_ATTEMPTS = 5


class LeftBehind:
    """Takes replies over, those of dead processes and those that this one could not finish.

    Args:
        locks: By user and conversation; nobody else begins a reply of a conversation meanwhile. Also by user and reply.
        changed: Told of each conversation whose reply was ended.
    """

    def __init__(
        self,
        parts: TurnParts,
        lease: ProcessLease,
        logs: ReplyLogs,
        running: RunningReplies,
        locks: Locks,
        changed: Callable[[UUID], None],
    ) -> None:
        self._parts = parts
        self._lease = lease
        self._logs = logs
        self._running = running
        self._locks = locks
        self._changed = changed
        # With the last attempts at them here that may have asked a model, so that those can be booked.
        self._left: dict[tuple[UUID, UUID], Generation | None] = {}

    def note(self, generation: Generation) -> None:
        """A generation of this process has ended, perhaps without an end of its reply."""
        if generation.left_behind:
            self._left[generation.user_id, generation.log.reply_id] = generation

    async def begin_attempt(self, user_id: UUID, reply_id: UUID) -> int | None:
        """As Transcript.begin_attempt, telling what the attempt before was served if it was this process's own."""
        key = user_id, reply_id
        async with self._locks.held(key):
            return await self._begin_attempt(key)

    async def _begin_attempt(self, key: tuple[UUID, UUID]) -> int | None:
        before = self._left.get(key)
        used, served = (None, None) if before is None else (before.log.attempt, before.served)
        attempt = await self._parts.transcript.begin_attempt(*key, self._lease.owner(), used, served)
        if attempt is None and before is not None:
            # Whoever took it over has booked it, but not whoever erased it.
            await self._book(key, before)
        self._left.pop(key, None)
        return attempt

    async def book(self) -> None:
        """Book what this process's own attempts used, where their ends could not be stored: nobody else knows it."""
        with suppress(Unavailable):
            for key, before in list(self._left.items()):
                if before is not None:
                    await self._book(key, before)

    async def _book(self, key: tuple[UUID, UUID], left: Generation) -> None:
        await self._parts.transcript.book_attempt(*key, left.log.attempt, left.conversation_id, left.served)

    async def retry(self, *, interrupt: bool) -> None:
        """Attempt anew what this process could not finish, while the database was away for instance, or because it was
        not sure of its lease. What another process has taken over is left to that one."""
        for key in list(self._left):
            try:
                async with self._locks.held(key):
                    # Another attempt may be running here by now, begun by a reader who came back.
                    attempt = await self._begin_attempt(key) if key in self._left else None
            except Unavailable:
                return
            except Exception:
                # One that cannot be begun must not keep this process from taking over any other.
                log.exception("reply_not_begun", reply_id=str(key[1]))
                continue
            if attempt is not None:
                await self.take_over(Claim(*key, attempt), interrupt=interrupt)

    async def take_over(self, claim: Claim, *, interrupt: bool) -> None:
        """Generate a reply anew whose attempt has begun, or end it with the text that is stored.

        Args:
            interrupt: Whether to end it. Without text, it is generated anyway, since nothing would be left of it; and
                one that several processes have not survived is ended anyway.
        """
        with suppress(NotFound):
            await self._running.whole(self._take_over(claim, interrupt))

    async def _take_over(self, claim: Claim, interrupt: bool) -> None:
        user_id, reply_id = claim.user_id, claim.reply_id
        try:
            accepted = await self._parts.transcript.turn(user_id, reply_id)
            async with self._locks.held((user_id, accepted.message.conversation_id)):
                reply = accepted.reply
                running = self._running.get(user_id, reply_id)
                if running is not None or reply.state.finished or reply.attempt != claim.attempt:
                    return
                if claim.attempt > MAX_ATTEMPTS or (interrupt and reply.parts):
                    await self._end(user_id, reply, claim.attempt, FinishReason.INTERRUPTED)
                else:
                    self._running.start(user_id, accepted, claim.attempt)
        except Unavailable:
            self._left[user_id, reply_id] = None

    async def cancel(self, user_id: UUID, accepted: Accepted) -> bool:
        """End a reply with the text that it has, or stop it, where it is generated after all.

        Returns:
            Whether it was pending.

        Raises:
            Unavailable: Another process is at work on it, and cannot be reached.
        """
        async with self._locks.held((user_id, accepted.message.conversation_id)):
            running = self._running.get(user_id, accepted.reply.id)
            if running is not None:
                running.cancel()
                return True
            # Read again, since the lock is held only now.
            reply = (await self._parts.transcript.turn(user_id, accepted.reply.id)).reply
            if reply.state.finished:
                return False
            attempt = await self.begin_attempt(user_id, reply.id)
            if attempt is None:
                owner = await self._parts.transcript.owner(user_id, reply.id)
                if owner is not None and not await self._logs.cancel(owner, user_id, reply.id):
                    raise held_elsewhere()
                return owner is not None
            await self._end(user_id, reply, attempt, FinishReason.CANCELLED)
        return True

    async def _end(self, user_id: UUID, reply: Message, attempt: int, reason: FinishReason) -> None:
        """End a reply with the text that it has. The conversation's lock is held."""
        finished = FinishedReply(
            conversation_id=reply.conversation_id,
            reply=reply,
            attempt=attempt,
            state=MessageState.CANCELLED,
            parts=reply.parts,
            tokens=parts_tokens(reply.parts),
            model=None,
            finish_reason=reason,
            error_reason=None,
            usage=None,
            delta_ends=reply.delta_ends,
            report=None,
        )
        reply_log = self._logs.begin(user_id, reply.id, attempt)
        try:
            written = await self._parts.transcript.finish_reply(user_id, finished)
            if written is None:
                reply_log.break_off(held_elsewhere())
                return
            for event in replay(written[0], None):
                reply_log.append(event.event)
        except ChatError as error:
            self._left[user_id, reply.id] = None
            reply_log.break_off(error)
            raise
        finally:
            self._logs.close(reply_log)
        self._parts.assembler.finished(user_id, *written)
        self._parts.on_finished()
        self._changed(reply.conversation_id)
