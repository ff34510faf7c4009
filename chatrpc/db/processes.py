"""Leases of server processes: while one lasts, no other process takes over its replies.

A lease that has run out is never renewed: its id is void, and what its process began is anybody's to take over. A
process that comes back holds a new one. So the id is the fencing token: every row of a running reply names it, and
each takeover replaces it and raises the attempt, which every later write of the reply must name. All times are those
of the database's clock.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from chatrpc.db.engine import Database

ACQUIRE = "INSERT INTO server_processes (id, lease_until) VALUES (%(id)s, now() + %(ttl)s)"
RENEW = """
UPDATE server_processes SET lease_until = now() + %(ttl)s WHERE id = %(id)s AND lease_until > now()
RETURNING id
"""
RELEASE = "DELETE FROM server_processes WHERE id = %s OR lease_until < now() - interval '1 day'"


class Processes:
    """Keeps the lease of this process."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def acquire(self, process_id: UUID, ttl: timedelta) -> None:
        """Take a new lease; the id must never have been used."""
        async with self._database.unbound() as connection:
            await connection.execute(ACQUIRE, {"id": process_id, "ttl": ttl})

    async def renew(self, process_id: UUID, ttl: timedelta) -> bool:
        """Prolong a lease; False where it has run out."""
        async with self._database.unbound() as connection:
            renewed = await connection.execute(RENEW, {"id": process_id, "ttl": ttl})
            return renewed.rowcount > 0

    async def release(self, process_id: UUID) -> None:
        """End the lease, and sweep the rows of processes that died long ago."""
        async with self._database.unbound() as connection:
            await connection.execute(RELEASE, (process_id,))
