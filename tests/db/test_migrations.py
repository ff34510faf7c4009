"""The migrations make what the models say, go down as well as up, and bind the server's role."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
import pytest_asyncio
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from chatrpc.db.engine import Database, open_database, require_row_level_security
from chatrpc.db.memory import MemoryTasks
from chatrpc.db.migrate import ROOT, config, engine, include_name, upgrade
from chatrpc.db.recall import Recall
from chatrpc.db.search import Query
from chatrpc.db.tables import Base
from chatrpc.dev.postgres import PostgresServer
from chatrpc.errors import SettingsError
from chatrpc.settings import DatabaseSettings
from tests.db.test_transcript import append, new_conversation

OF_A_USER = [name for name, table in Base.metadata.tables.items() if "user_id" in table.columns]


@pytest_asyncio.fixture
async def empty_url(postgres: PostgresServer) -> AsyncIterator[str]:
    name = f"empty_{uuid4().hex}"
    yield await postgres.create_database(name)
    await postgres.drop_database(name)


def test_migrations_and_models_are_equal(database_url: str) -> None:
    with engine(database_url).connect() as connection:
        options = {"include_name": include_name, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


async def test_migrations_go_down_and_up_again(empty_url: str) -> None:
    await asyncio.to_thread(upgrade, empty_url)
    await asyncio.to_thread(command.downgrade, config(empty_url), "base")
    async with await psycopg.AsyncConnection.connect(empty_url) as connection:
        left = await connection.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        assert {name for (name,) in await left.fetchall()} == {"alembic_version", "alembic_version_pkc"}
    await asyncio.to_thread(upgrade, empty_url)


async def test_two_migrations_at_once_wait_for_each_other(empty_url: str) -> None:
    environment = {**os.environ, "CHATRPC_DATABASE_URL": empty_url}
    command_line = (sys.executable, "-m", "alembic", "upgrade", "head")
    running = [await asyncio.create_subprocess_exec(*command_line, env=environment, cwd=ROOT) for _ in range(2)]
    assert [await process.wait() for process in running] == [0, 0]


@pytest.mark.parametrize("table", OF_A_USER)
async def test_row_level_security_hides_other_users_rows(database: Database, user_id: UUID, table: str) -> None:
    conversation_id = await new_conversation(database, user_id)
    await append(database, user_id, conversation_id, "a")
    statement = (f"SELECT count(*) AS n FROM {table} WHERE user_id = %s", (user_id,))
    own, foreign = await database.query(user_id, statement), await database.query(uuid4(), statement)
    assert foreign[0][0]["n"] == 0
    if table in {"conversations", "messages"}:
        assert own[0][0]["n"] > 0
    async with database.unbound() as connection:
        nobody = await (await connection.execute(f"SELECT count(*) AS n FROM {table}")).fetchone()
        assert nobody == {"n": 0}


async def test_row_level_security_refuses_rows_for_other_users(database: Database, user_id: UUID) -> None:
    statement = (
        "INSERT INTO conversations (user_id, id, title, settings, labels) VALUES (%s, %s, '', '{}', '{}')",
        (uuid4(), uuid4()),
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await database.query(user_id, statement)


async def test_the_servers_role_cannot_put_a_table_under_the_hands_of_the_owner(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute("SET ROLE chatrpc_server")
        await connection.execute("CREATE TEMPORARY TABLE memory_tasks (LIKE public.memory_tasks INCLUDING DEFAULTS)")
        await connection.execute(
            "INSERT INTO pg_temp.memory_tasks VALUES (gen_random_uuid(), gen_random_uuid(), now(), NULL, 0, 0)"
        )
        claimed = await connection.execute("SELECT * FROM claim_memory_tasks(10, interval '1 minute')")
        assert await claimed.fetchall() == []


async def test_the_server_refuses_a_role_that_is_not_bound(database_url: str, database: Database) -> None:
    await require_row_level_security(database)
    async with open_database(DatabaseSettings(url=database_url, role="")) as unbound:
        with pytest.raises(SettingsError, match="does not bind the role 'postgres'"):
            await require_row_level_security(unbound)


async def test_a_missing_schema_is_named(empty_url: str) -> None:
    async with open_database(DatabaseSettings(url=empty_url, role="")) as database:
        with pytest.raises(SettingsError, match="chatrpc migrate"):
            await require_row_level_security(database)


async def test_vectors_of_the_first_schema_are_found_after_the_migration_and_read_again(empty_url: str) -> None:
    await asyncio.to_thread(command.upgrade, config(empty_url), "0001")
    user, conversation, message = uuid4(), uuid4(), uuid4()
    async with await psycopg.AsyncConnection.connect(empty_url) as connection:
        await connection.execute(
            "INSERT INTO conversations (user_id, id, title, settings, labels) VALUES (%s, %s, '', '{}', '{}')",
            (user, conversation),
        )
        await connection.execute(
            "INSERT INTO messages (user_id, conversation_id, branch, depth, id, sequence, role, state, parts, tokens,"
            " created_at) "
            "VALUES (%s, %s, 0, 1, %s, 1, 'user', 'complete', '[{\"text\": \"Hello.\"}]', 1, '2024-02-03Z')",
            (user, conversation, message),
        )
        await connection.execute("INSERT INTO embedding_spaces (fingerprint, name, dimension) VALUES ('f', 'test', 3)")
        await connection.execute(
            "INSERT INTO embeddings VALUES (%s, 1, %s, 0, %s, 0, 1, true, 0, 6, '[0,0.6,0.8]')",
            (user, message, conversation),
        )
        await connection.execute(
            "INSERT INTO memory_tasks (user_id, conversation_id, embedded_sequence) VALUES (%s, %s, 1)",
            (user, conversation),
        )
    await asyncio.to_thread(upgrade, empty_url)
    async with open_database(DatabaseSettings(url=empty_url)) as database:
        query = Query(1, ("hello",), elsewhere=True, vector=np.array([0, 0.6, 0.8], np.float32))
        for exact_to in (100, -1):
            pool = await Recall(database).pool(user, None, replace(query, exact_to=exact_to), ())
            assert [pool.unit_id(row) for row in range(len(pool))] == [message]
            assert pool.cosine[0] == pytest.approx(1, abs=1e-2)
            assert pool.created[0] == datetime(2024, 2, 3, tzinfo=UTC).timestamp()
        [task] = await MemoryTasks(database).claim(10, timedelta(minutes=1))
        assert (task.conversation_id, task.embedded_sequence) == (conversation, 0)
