"""The lease of this process: while it is renewed, no other process takes over its replies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import structlog
from uuid_utils.compat import uuid7

from chatrpc.db.processes import Processes
from chatrpc.errors import Unavailable

log = structlog.get_logger(__name__)

LEASE = timedelta(seconds=10)
RENEWAL = timedelta(seconds=3)
RETRY = timedelta(seconds=0.5)


class ProcessLease:
    """This process's lease.

    Attributes:
        process_id: Fresh for each process.
        on_lapse: Called when the lease has run out unrenewed: others may take over this process's replies now.
    """

    def __init__(self, processes: Processes) -> None:
        self.process_id = uuid7()
        self.on_lapse: Callable[[], None] = lambda: None
        self._processes = processes
        self._valid_until = 0.0

    async def renew(self) -> None:
        asked = time.monotonic()
        await self._processes.renew(self.process_id, LEASE)
        self._valid_until = asked + LEASE.total_seconds()

    async def keep(self) -> None:
        """Renew until cancelled. No fault ends it: without the lease, this process would lose all its replies."""
        lapsed, pause = False, RENEWAL
        while True:
            await asyncio.sleep(pause.total_seconds())
            left = self._valid_until - time.monotonic()
            try:
                # The lapse is noticed when it comes, whatever the database does.
                async with asyncio.timeout(left if left > 0 else RENEWAL.total_seconds()):
                    await self.renew()
                lapsed, pause = False, RENEWAL
            except Exception as error:
                log.warning("lease_not_renewed", process_id=str(self.process_id), exc_info=error)
                pause = RETRY
                if not lapsed and time.monotonic() >= self._valid_until:
                    lapsed = True
                    self.on_lapse()


@asynccontextmanager
async def process_lease(processes: Processes) -> AsyncIterator[ProcessLease]:
    """Hold a lease, and release it at the end.

    Raises:
        Unavailable: The database cannot be reached at the start. Later outages are waited out.
    """
    lease = ProcessLease(processes)
    await lease.renew()
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
