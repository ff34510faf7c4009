"""Replies whose process died are taken over by the others."""

from __future__ import annotations

import asyncio
import random

import structlog

from chatrpc.db.transcript import Transcript
from chatrpc.errors import Unavailable
from chatrpc.turns.lease import ProcessLease
from chatrpc.turns.service import Turns

log = structlog.get_logger(__name__)

# Seconds between two looks, on average. After a death, the lease's rest and one of them pass until the next attempt.
INTERVAL = 1.0
# Replies taken over at once; the processes take turns, so a dead one's replies spread over all others.
BATCH = 8


class Takeover:
    """Looks for abandoned replies.

    Args:
        interrupt: Whether they are ended with the text that they have, rather than generated anew.
    """

    def __init__(self, turns: Turns, transcript: Transcript, lease: ProcessLease, *, interrupt: bool) -> None:
        self._turns = turns
        self._transcript = transcript
        self._lease = lease
        self._interrupt = interrupt

    async def sweep(self) -> int:
        """Take over a batch of what is abandoned, and attempt anew what this process left behind itself.

        Returns:
            How many replies of others were taken over.

        Raises:
            Unavailable: The database cannot be reached.
        """
        if not self._lease.held:
            return 0
        await self._turns.retry_left_behind(interrupt=self._interrupt)
        claims = await self._transcript.claim_abandoned(self._lease.process_id, BATCH)
        for claim in claims:
            log.info("taken_over", reply_id=str(claim.reply_id), attempt=claim.attempt)
            await self._turns.take_over(claim, interrupt=self._interrupt)
        return len(claims)

    async def run(self) -> None:
        """Look until cancelled. No fault ends it."""
        pause = INTERVAL
        while True:
            # At different moments in each process.
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            try:
                # Where there is more, the others get their share.
                pause = 0.05 if await self.sweep() == BATCH else INTERVAL
            except Unavailable:
                pause = INTERVAL
            except Exception:
                log.exception("takeover_failed")
                pause = INTERVAL
