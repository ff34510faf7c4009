"""The lease of a process outlives whatever a renewal dies of."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from chatrpc.db.engine import Database
from chatrpc.db.processes import Processes
from chatrpc.turns import lease as timing
from chatrpc.turns.lease import process_lease

LEASE_UNTIL = "SELECT lease_until FROM server_processes WHERE id = %s"


async def _lease_until(database: Database, process_id: UUID) -> object:
    async with database.unbound() as connection:
        row = await (await connection.execute(LEASE_UNTIL, (process_id,))).fetchone()
    return None if row is None else row["lease_until"]


async def test_renewals_outlive_a_fault_that_is_no_outage_and_the_end_releases_the_lease(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "RENEWAL", timedelta(seconds=0.02))
    failures: asyncio.Queue[str] = asyncio.Queue()
    monkeypatch.setattr(timing.log, "warning", lambda event, **_: failures.put_nowait(event))
    async with (
        asyncio.timeout(20),
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner,
        process_lease(Processes(database)) as lease,
    ):
        await owner.execute("REVOKE INSERT, UPDATE ON server_processes FROM chatrpc_server")
        assert await failures.get() == "lease_not_renewed"
        await owner.execute("GRANT INSERT, UPDATE ON server_processes TO chatrpc_server")
        held = await _lease_until(database, lease.process_id)
        while await _lease_until(database, lease.process_id) == held:
            await asyncio.sleep(0.01)
    assert await _lease_until(database, lease.process_id) is None


async def test_a_lapse_is_told_once(database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("LEASE", 1.0), ("RENEWAL", 0.05), ("RETRY", 0.01)):
        monkeypatch.setattr(timing, name, timedelta(seconds=seconds))
    lapses: asyncio.Queue[None] = asyncio.Queue()
    async with (
        asyncio.timeout(20),
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner,
        process_lease(Processes(database)) as lease,
    ):
        lease.on_lapse, lost = lambda: lapses.put_nowait(None), lease.process_id
        await owner.execute("REVOKE INSERT, UPDATE ON server_processes FROM chatrpc_server")
        await lapses.get()
        await owner.execute("GRANT INSERT, UPDATE ON server_processes TO chatrpc_server")
        while not lease.held:
            await asyncio.sleep(0.01)
        assert lease.process_id != lost
        assert await _lease_until(database, lease.process_id) is not None
        assert lapses.empty()


async def test_a_lease_that_ran_out_is_followed_by_another_and_never_taken_up_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "RENEWAL", timedelta(seconds=0.02))
    lapses: asyncio.Queue[None] = asyncio.Queue()
    acquired: asyncio.Queue[UUID] = asyncio.Queue()
    async with asyncio.timeout(20), process_lease(Processes(database)) as lease:
        lease.on_lapse, lease.on_acquire = lambda: lapses.put_nowait(None), acquired.put_nowait
        lost = lease.process_id
        # By the database's clock it is over, while this process's own says nothing of the kind.
        async with database.unbound() as connection:
            await connection.execute("UPDATE server_processes SET lease_until = now() WHERE id = %s", (lost,))
        await lapses.get()
        assert await acquired.get() == lease.process_id != lost
        assert not await Processes(database).renew(lost, timedelta(seconds=10))
