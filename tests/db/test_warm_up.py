"""What a connection does before it serves."""

from __future__ import annotations

import psycopg

from chatrpc.db.engine import Connection, Database, open_database
from chatrpc.db.recall import plan_searches
from chatrpc.settings import DatabaseSettings

BOUND_TO = "SELECT coalesce(current_setting('chatrpc.user_id', true), '') AS user_id"


async def test_searches_are_prepared_by_a_search_for_nobody(database: Database) -> None:
    # Not in the pool, which would pass over an error.
    async with database.unbound() as connection:
        await plan_searches(connection)
        prepared = await (await connection.execute("SELECT statement FROM pg_prepared_statements")).fetchall()
        bound = await (await connection.execute(BOUND_TO)).fetchone()
    for function in ("hot_path_row(", "search_units(", "passage_texts("):
        assert any(function in row["statement"] for row in prepared)
    assert bound == {"user_id": ""}


async def test_a_connection_serves_that_could_not_warm_up(database_url: str) -> None:
    async def warm_up(connection: Connection) -> None:
        tried.append(connection)
        await connection.execute("SELECT 1 / 0")

    tried: list[Connection] = []
    async with (
        open_database(DatabaseSettings(url=database_url, pool_size=1), warm_up) as database,
        database.unbound() as connection,
    ):
        row = await (await connection.execute("SELECT 1 AS one")).fetchone()
        assert (row, tried) == ({"one": 1}, [connection])


async def test_a_warm_up_does_not_wait_for_a_lock(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as owner:
        await owner.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
        async with (
            open_database(DatabaseSettings(url=database_url), plan_searches) as database,
            database.unbound() as connection,
        ):
            row = await (await connection.execute("SHOW lock_timeout")).fetchone()
    # And what it bounds itself by ends with it.
    assert row == {"lock_timeout": "0"}
