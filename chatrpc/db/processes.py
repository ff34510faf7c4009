"""Leases of server processes: while one lasts, no other process takes over its replies."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from chatrpc.db.engine import Database

RENEW = """
INSERT INTO server_processes (id, lease_until) VALUES (%(id)s, now() + %(ttl)s)
ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until
"""
RELEASE = "DELETE FROM server_processes WHERE id = %s OR lease_until < now() - interval '1 day'"


class Processes:
    """Keeps the lease of this process."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def renew(self, process_id: UUID, ttl: timedelta) -> None:
        async with self._database.unbound() as connection:
            await connection.execute(RENEW, {"id": process_id, "ttl": ttl})

    async def release(self, process_id: UUID) -> None:
        """End the lease, and sweep the rows of processes that died long ago."""
        async with self._database.unbound() as connection:
            await connection.execute(RELEASE, (process_id,))
