"""The pool under a database that restarts and under callers that are cancelled, and what an error may say."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from functools import partial
from itertools import count, product
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database, open_database
from chatrpc.db.recall import Recall
from chatrpc.domain import TurnSettings
from chatrpc.errors import Unavailable
from chatrpc.settings import DatabaseSettings

Rows = Sequence[Mapping[str, Any] | None]
Statements = list[tuple[str, tuple[str]]]
Way = Callable[[Database, UUID, Statements], Awaitable[Rows]]

KINDS: dict[str, Callable[[Database], Callable[[UUID, UUID], Awaitable[object]]]] = {
    "sqlalchemy": lambda database: Conversations(database).get,
    "psycopg": lambda database: Recall(database).conversation,
}


async def _restart(database_url: str) -> None:
    """End every session of the database, as a restart does, and wait until they are gone."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(f"SELECT pg_terminate_backend(pid, 5000) {others}")


async def test_the_connection_used_last_is_used_next(database: Database) -> None:
    pool = database._pool

    async def all_given_back() -> None:
        async with asyncio.timeout(10):
            while (stats := pool.get_stats())["pool_available"] < stats["pool_size"]:
                await asyncio.sleep(0)

    async with contextlib.AsyncExitStack() as at_once:
        for _ in range(3):
            await at_once.enter_async_context(database.unbound())
    used = set()
    for _ in range(6):
        await all_given_back()
        async with database.unbound() as connection:
            used.add(connection.info.backend_pid)
    assert len(used) == 1


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


async def _call(database: Database, user_id: UUID, asked: Statements) -> Rows:
    return [await database.call(*asked[0])]


async def _rows(database: Database, user_id: UUID, asked: Statements) -> Rows:
    return [(await database.rows(*asked[0]))[0]]


async def _query(database: Database, user_id: UUID, asked: Statements) -> Rows:
    return [rows[0] for rows in await database.query(user_id, *asked)]


async def _transaction(database: Database, user_id: UUID, asked: Statements) -> Rows:
    async with database.transaction(user_id) as connection:
        return [await (await connection.execute(*statement)).fetchone() for statement in asked]


async def _unbound(database: Database, user_id: UUID, asked: Statements) -> Rows:
    async with database.unbound() as connection:
        return [await (await connection.execute(*statement)).fetchone() for statement in asked]


async def _session(database: Database, user_id: UUID, asked: Statements) -> Rows:
    async with database.session(user_id) as connection:
        return [
            (await connection.execute(text(query.replace("%s", ":who")), {"who": params[0]})).mappings().one()
            for query, params in asked
        ]


WAYS = [_call, _rows, _query, _transaction, _unbound, _session]


async def _ask(way: Way, database: Database, name: str = "") -> None:
    """Ask by one way, as a user of one's own, in words that no connection has prepared for another name."""
    user_id = uuid4()
    asked = [(f"SELECT CAST(%s AS text) AS who, '{name}{number}' AS what", (str(user_id),)) for number in range(3)]
    answers = await way(database, user_id, asked)
    assert [dict(each or {}) for each in answers] == [
        {"who": str(user_id), "what": f"{name}{number}"} for number in range(len(answers))
    ]


def _interrupted(work: Coroutine[object, object, None], moments: Sequence[int]) -> asyncio.Task[bool]:
    """Begin the work, and cancel it each time that it waits for the n-th time; the result tells whether it did."""

    async def steps() -> bool:
        return await _steps(work, moments)

    return asyncio.create_task(steps())


@types.coroutine
def _steps(work: Coroutine[object, object, None], moments: Sequence[int]) -> Generator[object, None, bool]:
    task = asyncio.current_task()
    assert task is not None
    waits = count()
    resume: Callable[[], object] = partial(work.send, None)
    while True:
        try:
            waited = resume()
        except StopIteration:
            assert not task.cancelling(), "nothing swallows a cancellation"
            return False
        except asyncio.CancelledError:
            return True
        if next(waits) in moments:
            task.cancel()
        try:
            yield waited
            resume = partial(work.send, None)
        except asyncio.CancelledError as error:
            resume = partial(work.throw, error)


# What psycopg's own generator says when it is dropped half-way and finds its connection closed.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <generator object BasePipeline._exit_gen")
@pytest.mark.parametrize("cancels", [1, 2])
@pytest.mark.parametrize("way", WAYS)
async def test_a_call_cancelled_at_any_await_leaves_everybody_else_their_own_answers(
    database_url: str, monkeypatch: pytest.MonkeyPatch, way: Way, cancels: int
) -> None:
    # An event loop that is always busy: psycopg then lets others run, and itself be cancelled, at each of its steps.
    monkeypatch.setattr("psycopg.waiting.MAX_BUSY_TIME", 0)
    # With one connection, whoever comes next gets the one that was in use.
    async with open_database(DatabaseSettings(url=database_url, pool_size=1)) as database:
        for moment in count():
            asking = _interrupted(_ask(way, database, str(moment)), range(moment, moment + cancels))
            if not await asking:
                break
            for each in WAYS * 2:
                await _ask(each, database, str(moment))
        assert moment > 1
    # While the warning is expected.
    gc.collect()


@pytest.mark.parametrize("cancels", [1, 2])
@pytest.mark.parametrize("cancelled", ["whoever gives back", "whoever waits"])
async def test_who_is_cancelled_while_the_pool_is_busy_costs_it_no_connection(
    database_url: str, cancelled: str, cancels: int
) -> None:
    async with open_database(DatabaseSettings(url=database_url, pool_size=1)) as database:

        async def hold(pause: int) -> None:
            async with database.unbound():
                waiting.append(_interrupted(_ask(_call, database), moments["whoever waits"]))
                for _ in range(pause):
                    await asyncio.sleep(0)

        for pause, moment in product(range(12), range(12)):
            waiting: list[asyncio.Task[bool]] = []
            moments: dict[str, Sequence[int]] = {"whoever gives back": (), "whoever waits": ()}
            moments[cancelled] = range(moment, moment + cancels)
            await _interrupted(hold(pause), moments["whoever gives back"])
            await asyncio.gather(*waiting)
            await _ask(_call, database)


async def test_a_cancellation_that_a_library_forgets_is_heeded_at_the_end_of_the_call(database: Database) -> None:
    async def call() -> None:
        async with database.unbound() as connection:
            with contextlib.suppress(asyncio.CancelledError):
                begun.set()
                await asyncio.Event().wait()
            # As if the answer had come at the same moment.
            await connection.execute("SELECT 1")

    begun = asyncio.Event()
    for work in (call(), asyncio.wait_for(call(), 60)):
        begun.clear()
        task = asyncio.ensure_future(work)
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    # A deadline of the caller's is not mistaken for a cancellation, and what follows goes on.
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await call()
    async with database.unbound() as connection:
        assert (await (await connection.execute("SELECT 1 AS one")).fetchall()) == [{"one": 1}]


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
