"""The lease of a process outlives whatever a renewal dies of."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from chatrpc.db.engine import Database
from chatrpc.db.processes import Processes
from chatrpc.turns import lease
from chatrpc.turns.lease import process_lease

LEASE_UNTIL = "SELECT lease_until FROM server_processes WHERE id = %s"


async def _lease_until(database: Database, process_id: UUID) -> object:
    async with database.unbound() as connection:
        row = await (await connection.execute(LEASE_UNTIL, (process_id,))).fetchone()
    return None if row is None else row["lease_until"]


async def test_renewals_outlive_a_fault_that_is_no_outage_and_the_end_releases_the_lease(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEWAL", timedelta(seconds=0.02))
    failures: asyncio.Queue[str] = asyncio.Queue()
    monkeypatch.setattr(lease.log, "exception", lambda event, **_: failures.put_nowait(event))
    async with (
        asyncio.timeout(20),
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner,
        process_lease(Processes(database)) as process_id,
    ):
        await owner.execute("REVOKE INSERT ON server_processes FROM chatrpc_server")
        assert await failures.get() == "lease_not_renewed"
        await owner.execute("GRANT INSERT ON server_processes TO chatrpc_server")
        held = await _lease_until(database, process_id)
        while await _lease_until(database, process_id) == held:
            await asyncio.sleep(0.01)
    assert await _lease_until(database, process_id) is None
