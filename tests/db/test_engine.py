"""The pool under a database that restarts, and what an error may say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.recall import Recall
from chatrpc.domain import TurnSettings
from chatrpc.errors import Unavailable

KINDS: dict[str, Callable[[Database], Callable[[UUID, UUID], Awaitable[object]]]] = {
    "sqlalchemy": lambda database: Conversations(database).get,
    "psycopg": lambda database: Recall(database).conversation,
}


async def _restart(database_url: str) -> None:
    """End every session of the database, as a restart does, and wait until they are gone."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(f"SELECT pg_terminate_backend(pid, 5000) {others}")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_restart_costs_few_calls_and_no_connection_for_good(
    database: Database, database_url: str, user_id: UUID, kind: str
) -> None:
    made = await Conversations(database).create(user_id, title="", settings=TurnSettings(), labels={}, request_id=None)
    read = KINDS[kind](database)
    # More rounds than the pool has connections: each would cost one if it did not come back.
    for _ in range(3):
        for _ in range(5):
            await asyncio.gather(*(read(user_id, made.id) for _ in range(20)))
        await _restart(database_url)
        failed = 0
        for _ in range(20):
            try:
                await read(user_id, made.id)
            except Unavailable:
                failed += 1
        assert failed <= 3


async def test_the_text_of_an_error_holds_nothing_that_a_user_said(database: Database, user_id: UUID) -> None:
    with pytest.raises(DBAPIError) as caught:
        await Conversations(database).create(
            user_id, title="a secret\0", settings=TurnSettings(), labels={}, request_id=None
        )
    assert "secret" not in str(caught.value)


async def test_sessions_that_are_cancelled_again_and_again_leave_whole_connections(database: Database) -> None:
    async def ask(number: int) -> None:
        user_id = uuid4()
        async with database.session(user_id) as connection:
            found = await connection.execute(text("SELECT current_setting('chatrpc.user_id')"))
            assert found.scalar_one() == str(user_id)

    for moments in range(60):
        asking = [asyncio.create_task(ask(number)) for number in range(4)]
        for _ in range(3):
            for _ in range(moments):
                await asyncio.sleep(0)
            for task in asking:
                task.cancel()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert not [each for each in ended if isinstance(each, Exception)]
    async with asyncio.timeout(20):
        await asyncio.gather(*(ask(number) for number in range(40)))
