"""A durable database of its own for a benchmark, and its round trips, counted on the wire."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

from chatrpc.db.engine import Database, open_database
from chatrpc.db.migrate import upgrade
from chatrpc.dev.postgres import PostgresServer, run_postgres
from chatrpc.settings import DatabaseSettings


@asynccontextmanager
async def fresh_database() -> AsyncIterator[tuple[PostgresServer, Database]]:
    """PostgreSQL as `chatrpc dev` runs it (fsync and synchronous_commit on), with the newest schema."""
    with tempfile.TemporaryDirectory(prefix="chatrpc-bench-") as scratch:
        async with run_postgres(Path(scratch, "postgres")) as postgres:
            await asyncio.to_thread(upgrade, postgres.url)
            async with open_database(DatabaseSettings(url=postgres.url)) as database:
                yield postgres, database


async def on_the_wire(url: str, work: Callable[[Database], Awaitable[object]]) -> tuple[int, int]:
    """Round trips and executed statements of some work, by libpq's own trace of a connection.

    A round trip is a change of direction: the client, having sent, reads. The work is done twice and the second time
    counted, since the first also prepares its statements.
    """
    with tempfile.TemporaryFile() as trace:
        async with open_database(DatabaseSettings(url=url, pool_size=1)) as database:
            await work(database)
            async with database.unbound() as connection:
                connection.pgconn.trace(trace.fileno())
            await work(database)
            async with database.unbound() as connection:
                connection.pgconn.untrace()
        trace.seek(0)
        # A line of the trace: time, direction (F to the server, B back), length, kind, content.
        events = re.findall(r"^\S+ \S+\t([FB])\t\d+\t(\w+)", trace.read().decode(errors="replace"), re.MULTILINE)
    directions = [direction for direction, _ in events]
    turns = sum(before == "F" and after == "B" for before, after in pairwise(directions))
    return turns, sum(direction == "F" and kind == "Execute" for direction, kind in events)
