from __future__ import annotations

from uuid import uuid4

from bench.database import on_the_wire
from chatrpc.db.engine import Database


async def test_a_statement_is_one_round_trip(database_url: str) -> None:
    async def work(database: Database) -> None:
        async with database.unbound() as connection:
            await connection.execute("SELECT 1", prepare=True)

    assert await on_the_wire(database_url, work) == (1, 1)


async def test_statements_that_wait_for_each_other_are_as_many_round_trips(database_url: str) -> None:
    async def work(database: Database) -> None:
        async with database.unbound() as connection:
            for number in range(3):
                await connection.execute("SELECT %s::int", (number,), prepare=True)

    assert await on_the_wire(database_url, work) == (3, 3)


async def test_pipelined_statements_are_one_round_trip(database_url: str) -> None:
    async def work(database: Database) -> None:
        await database.query(uuid4(), ("SELECT 1", ()), ("SELECT 2", ()))

    # The third statement sets the user.
    assert await on_the_wire(database_url, work) == (1, 3)
