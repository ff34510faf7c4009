"""Servers of the release before go on while the schema is brought up to date under their open connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest_asyncio
from alembic import command
from pgvector import HalfVector
from pgvector.psycopg import register_vector_async
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from chatrpc.db import transcript
from chatrpc.db.engine import open_database
from chatrpc.db.migrate import config, upgrade
from chatrpc.db.search import TEXTS
from chatrpc.db.terms import query_places
from chatrpc.db.vectors import NewVector, VectorStore
from chatrpc.dev.postgres import PostgresServer
from chatrpc.ports import EmbeddingSpace
from chatrpc.settings import DatabaseSettings

# As the release before calls them.
APPEND = "SELECT * FROM append_message(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
FINISH = "SELECT * FROM finish_reply(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
SEARCH = (
    "SELECT * FROM search_pool(%s, %s, %s, %s::integer[], %s::integer, %s::integer, %s, %s::smallint, %s::integer[], "
    "%s, %s::uuid[], %s::integer, %s::integer, %s::integer)"
)
HOT_PATH = "SELECT * FROM hot_path(%s, %s, %s::integer[], %s::integer[], %s::integer)"
USAGE = {"prompt_tokens": 40, "cached_tokens": 0, "completion_tokens": 2, "estimated": False}


@pytest_asyncio.fixture
async def old_url(postgres: PostgresServer) -> AsyncIterator[str]:
    """A database as the release before has it."""
    name = f"rolling_{uuid4().hex}"
    url = await postgres.create_database(name)
    await asyncio.to_thread(command.upgrade, config(url), "0007")
    yield url
    await postgres.drop_database(name)


async def called(connection: psycopg.AsyncConnection[DictRow], query: str, *params: object) -> DictRow:
    row = await (await connection.execute(query, params, prepare=True, binary=True)).fetchone()
    assert row is not None
    return row


async def said(connection: psycopg.AsyncConnection[DictRow], user: UUID, conversation: UUID) -> DictRow:
    """A turn of an old server, from its acceptance to its end."""
    reply, parts = uuid4(), Jsonb([{"text": "Hello."}])
    identity = (user, conversation, uuid4(), reply, uuid4().hex, b"")
    accepted = await called(connection, APPEND, *identity, None, parts, 3, None, None, uuid4(), False, 9, 9)
    end = ("complete", parts, 3, "m", "stop", None, Jsonb(USAGE), [6], None)
    finished = await called(connection, FINISH, user, conversation, reply, 1, *end)
    assert (accepted["outcome"], finished["finished"]) == ("accepted", True)
    return accepted


async def test_an_old_servers_turns_go_on_over_its_open_connections_and_are_booked(old_url: str) -> None:
    user, conversation = uuid4(), uuid4()
    async with await psycopg.AsyncConnection.connect(old_url, autocommit=True, row_factory=dict_row) as connection:
        await connection.execute(
            "INSERT INTO conversations (user_id, id, title, settings, labels) VALUES (%s, %s, '', '{}', '{}')",
            (user, conversation),
        )
        before = await said(connection, user, conversation)
        await asyncio.to_thread(upgrade, old_url)
        after = await said(connection, user, conversation)
        assert (before["sequence"], after["sequence"]) == (1, 3)
        assert list(after) == list(before)
        entries = await connection.execute("SELECT attempt, prompt_tokens, completion_tokens FROM usage_entries")
        assert await entries.fetchall() == [{"attempt": 1, "prompt_tokens": 40, "completion_tokens": 2}]
        await asyncio.to_thread(command.downgrade, config(old_url), "0007")
        again = await said(connection, user, conversation)
        assert again["sequence"] == 5


async def test_a_call_prepared_before_goes_on_with_the_functions_new_body(postgres: PostgresServer) -> None:
    url = await postgres.create_database(name := f"rolling_{uuid4().hex}")
    await asyncio.to_thread(command.upgrade, config(url), "0011")
    user, conversation = uuid4(), uuid4()

    async def accepted(connection: psycopg.AsyncConnection[DictRow]) -> DictRow:
        identity = (user, conversation, uuid4(), uuid4(), uuid4().hex, b"")
        limits = (False, 9, 9, 0, 0, 0, None, None, None)
        said = (None, Jsonb([{"text": "Hello."}]), 3, None, None, uuid4())
        return await called(connection, transcript.APPEND, *identity, *said, *limits)

    async with await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=dict_row) as connection:
        await connection.execute(
            "INSERT INTO conversations (user_id, id, title, settings, labels) VALUES (%s, %s, '', '{}', '{}')",
            (user, conversation),
        )
        rows = [await accepted(connection)]
        await asyncio.to_thread(upgrade, url)
        rows.append(await accepted(connection))
        await asyncio.to_thread(command.downgrade, config(url), "0011")
        rows.append(await accepted(connection))
    assert [(row["outcome"], row["sequence"], row["depth"]) for row in rows] == [("accepted", n, n) for n in (1, 3, 5)]
    await postgres.drop_database(name)


async def test_searches_prepared_before_go_on_with_the_functions_new_bodies(postgres: PostgresServer) -> None:
    url = await postgres.create_database(name := f"rolling_{uuid4().hex}")
    await asyncio.to_thread(command.upgrade, config(url), "0012")
    user, conversation, message = uuid4(), uuid4(), uuid4()
    vector = np.ones(4, np.float32) / 2
    async with (
        open_database(DatabaseSettings(url=url)) as database,
        await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=dict_row) as connection,
    ):
        await register_vector_async(connection)
        await connection.execute(
            "INSERT INTO conversations (user_id, id, title, settings, labels) VALUES (%s, %s, '', '{}', '{}')",
            (user, conversation),
        )
        await connection.execute(
            "INSERT INTO messages (user_id, conversation_id, branch, depth, id, sequence, role, state, parts, tokens) "
            "VALUES (%s, %s, 0, 1, %s, 1, 'user', 'complete', %s, 1)",
            (user, conversation, message, Jsonb([{"text": "Hello."}])),
        )
        store = VectorStore(database)
        space = await store.register_space(EmbeddingSpace("s", "s", 4, floor=0.3, max_tokens=64))
        await store.add(user, space, [NewVector(message, conversation, 0, (0, 6), vector, {"hello": 1})])
        terms = query_places(("hello",))
        search = (user, None, conversation, "{9}", 9, 9, HalfVector(vector), space, terms, True, None, 0, 9, 9)

        async def searched() -> list[DictRow]:
            return [
                await called(connection, HOT_PATH, user, conversation, "{0}", "{9}", 9),
                await called(connection, SEARCH, *search),
                await called(connection, TEXTS, user, None, space, [message], "{0}"),
            ]

        before = await searched()
        assert (before[0]["revision"], before[1]["units"], before[2]["unit"]) == (1, message.bytes, message)
        await asyncio.to_thread(upgrade, url)
        assert await searched() == before
        await asyncio.to_thread(command.downgrade, config(url), "0012")
        assert await searched() == before
    await postgres.drop_database(name)
