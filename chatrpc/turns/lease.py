"""The lease of this process: while it is renewed, no other process takes over its replies.

Others compare it with the database's clock alone. This process, which must stop before they begin, counts from the
moment at which it asked for the lease, on a clock that only goes forward.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from chatrpc.db.processes import Processes
from chatrpc.errors import Reason, Unavailable

log = structlog.get_logger(__name__)

LEASE = timedelta(seconds=10)
RENEWAL = timedelta(seconds=3)
RETRY = timedelta(seconds=0.5)


# Seconds before the lease runs out at which this process counts it as lost, for clocks that run at different speeds.
MARGIN = timedelta(seconds=0.5)


class ProcessLease:
    """This process's lease. Each one has an id of its own, and one that is lost is followed by a new one.

    Attributes:
        process_id: The id of the lease.
        on_lapse: Called when the lease is lost or may be: others may take over this process's replies.
        on_acquire: Called with the id of each new lease.
    """

    def __init__(self, processes: Processes) -> None:
        self.process_id: UUID = uuid7()
        self.on_lapse: Callable[[], None] = lambda: None
        self.on_acquire: Callable[[UUID], None] = lambda process_id: None
        self._processes = processes
        self._valid_until = 0.0
        self._acquired = False

    @property
    def held(self) -> bool:
        """Whether no other process can have taken over, by this process's own clock, which no one sets."""
        return time.monotonic() < self._valid_until

    def owner(self) -> UUID:
        """The id for a reply that begins now.

        Raises:
            Unavailable: Without a lease, whatever was begun would be taken over at once.
        """
        if not self.held:
            raise Unavailable(Reason.DATABASE_UNAVAILABLE, "The database cannot be reached; try again.")
        return self.process_id

    async def acquire(self) -> None:
        # An id that was tried may be in the database, even if the answer was lost.
        asked, process_id = time.monotonic(), uuid7()
        await self._processes.acquire(process_id, LEASE)
        self.process_id, self._acquired = process_id, True
        self._extend(asked)
        log.info("lease_acquired", process_id=str(process_id))
        self.on_acquire(self.process_id)

    async def renew(self) -> None:
        """Prolong the lease, or take a new one after a loss."""
        if self._acquired:
            asked = time.monotonic()
            if await self._processes.renew(self.process_id, LEASE):
                self._extend(asked)
                return
            self._lapse()
        await self.acquire()

    async def keep(self) -> None:
        """Renew until cancelled. No fault ends it: without the lease, this process would lose all its replies."""
        pause = RENEWAL
        while True:
            await asyncio.sleep(pause.total_seconds())
            left = self._valid_until - time.monotonic()
            try:
                # The lapse is noticed when it comes, whatever the database does.
                async with asyncio.timeout(left if left > 0 else RENEWAL.total_seconds()):
                    await self.renew()
                pause = RENEWAL
            except Exception as error:
                log.warning("lease_not_renewed", process_id=str(self.process_id), exc_info=error)
                pause = RETRY
                if self._acquired and not self.held:
                    self._lapse()

    def _extend(self, asked: float) -> None:
        self._valid_until = asked + (LEASE - MARGIN).total_seconds()

    def _lapse(self) -> None:
        log.warning("lease_lost", process_id=str(self.process_id))
        self._acquired = False
        self._valid_until = 0.0
        self.on_lapse()


@asynccontextmanager
async def process_lease(processes: Processes) -> AsyncIterator[ProcessLease]:
    """Hold a lease, and release it at the end.

    Raises:
        Unavailable: The database cannot be reached at the start. Later outages are waited out.
    """
    lease = ProcessLease(processes)
    await lease.acquire()
    keeping = asyncio.create_task(lease.keep(), name="process lease")
    try:
        yield lease
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        # Where the database is away, the lease ends by itself.
        with suppress(Unavailable):
            await processes.release(lease.process_id)
