"""The lease of this process: while it is renewed, no other process takes over its replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from chatrpc.db.processes import Processes
from chatrpc.errors import Unavailable

log = structlog.get_logger(__name__)

LEASE = timedelta(seconds=10)
RENEWAL = timedelta(seconds=3)


@asynccontextmanager
async def process_lease(processes: Processes) -> AsyncIterator[UUID]:
    """Hold a lease under a fresh process id, which is yielded, and release it at the end.

    Raises:
        Unavailable: The database cannot be reached at the start. Later outages are waited out.
    """
    process_id = uuid7()
    await processes.renew(process_id, LEASE)
    renewing = asyncio.create_task(_renew(processes, process_id), name="process lease")
    try:
        yield process_id
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing
        # Where the database is away, the lease ends by itself.
        with suppress(Unavailable):
            await processes.release(process_id)


async def _renew(processes: Processes, process_id: UUID) -> None:
    while True:
        await asyncio.sleep(RENEWAL.total_seconds())
        try:
            await processes.renew(process_id, LEASE)
        except Unavailable:
            log.warning("lease_not_renewed", process_id=str(process_id))
        except Exception:
            # A database that has become a read-only standby, for instance. Without its lease this process would lose
            # every reply that it writes to the others, so the renewal outlives every fault.
            log.exception("lease_not_renewed", process_id=str(process_id))
