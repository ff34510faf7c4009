"""Forks of conversations, within limits: one copies as much as thousands of messages leave, and costs no tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

from chatrpc.db.branches import Branches
from chatrpc.domain import Caller, Conversation, counted
from chatrpc.errors import Reason, ResourceExhausted
from chatrpc.turns.service import Turns

# Seconds in which all messages come back that a user may copy.
HOUR = 3_600.0
# Seconds after which to come again while another fork of the same user is being made.
SOON = 1.0


class Forks:
    """Makes one fork of a user at a time, and admits it as it admits a turn. Counts what this process has copied.

    Args:
        most: Messages that a user may copy at once. They come back evenly within an hour; whoever has one left may
            copy a whole path.
        clock: In seconds.
    """

    def __init__(
        self, turns: Turns, branches: Branches, most: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._turns = turns
        self._branches = branches
        self._most = most
        self._clock = clock
        self._busy: set[UUID] = set()
        # When each user who has copied something will have all messages back, by the time of the last copy.
        self._full_at: dict[UUID, float] = {}

    async def fork(self, caller: Caller, message_id: UUID, *, request_id: str | None) -> Conversation:
        """As Branches.fork. A repeated request is answered whatever the limits.

        Raises:
            NotFound, FailedPrecondition, AlreadyExists: As Branches.fork.
            ResourceExhausted: A fork of the user's is being made, or too much was copied.
            Unavailable: The server is overloaded, or the database cannot be reached.
        """
        user_id = caller.user_id
        if request_id is not None:
            earlier = await self._branches.forked(user_id, message_id, request_id=request_id)
            if earlier is not None:
                return earlier
        # The database does not hear that a caller has gone, and copies on. So it goes on here, too, and counts.
        return await self._turns.as_turn(lambda: self._fork(user_id, message_id, request_id))

    async def _fork(self, user_id: UUID, message_id: UUID, request_id: str | None) -> Conversation:
        self._refuse(user_id)
        self._busy.add(user_id)
        try:
            conversation = await self._branches.fork(user_id, message_id, request_id=request_id)
            self._count(user_id, conversation.message_count)
            return conversation
        finally:
            self._busy.discard(user_id)

    def _refuse(self, user_id: UUID) -> None:
        if user_id in self._busy:
            raise ResourceExhausted(
                Reason.TOO_MANY_FORKS,
                "Another fork of the user's is being made; try again when it is there.",
                subject="user",
                retry_after=SOON,
            )
        # Until one message is back.
        wait = self._full_at.get(user_id, 0.0) - self._clock() - HOUR * (1 - 1 / self._most)
        if wait > 0:
            raise ResourceExhausted(
                Reason.TOO_MANY_FORKS,
                f"Forks may copy {counted(self._most, 'message')} of a user an hour "
                "(CHATRPC_SERVER_MAX_FORKED_MESSAGES); as many have been copied.",
                subject="user",
                retry_after=wait,
            )

    def _count(self, user_id: UUID, copied: int) -> None:
        now = self._clock()
        begun = max(now, self._full_at.pop(user_id, now))
        self._full_at[user_id] = begun + copied * HOUR / self._most
        # Those whose last copy is the oldest stand first. Who has all messages back is forgotten.
        while self._full_at[first := next(iter(self._full_at))] <= now:
            del self._full_at[first]
