"""One pool of connections for psycopg and SQLAlchemy alike, bound to one user at a time by row-level security."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from pgvector.psycopg import register_vector_async
from psycopg import AsyncConnection, AsyncCursor
from psycopg.pq.abc import PGconn
from psycopg.rows import AsyncRowFactory, DictRow, dict_row, tuple_row
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from pydantic_core import from_json
from sqlalchemy import NullPool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection as SqlConnection
from sqlalchemy.ext.asyncio import create_async_engine

from chatrpc.errors import Reason, SettingsError, Unavailable
from chatrpc.settings import DatabaseSettings

Params = Mapping[str, Any] | Sequence[Any]
Statement = tuple[str, Params]

# How long a call that has lost its connection waits, in seconds, so that its next try does not meet another such one.
MENDING_PATIENCE = 1.0

# Seconds after which a call is given up: a network that swallows packets never says so.
CALL_TIMEOUT = 15.0
# A former primary that has become a standby refuses writes, until the name leads to the new one.
AWAY = (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction)

# Plans are kept: all statements name a user, and find the rows by an index whatever the user's size; what does not sets
# its own. Without the second, a plan made while the tables were small would read them whole until they are analysed.
PLANNING = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}

# Of what a connection does before it serves: it holds up the pool.
WARM_UP_LIMITS = "SET LOCAL statement_timeout = '2s'; SET LOCAL lock_timeout = '100ms'"

SET_USER = "SELECT set_config('chatrpc.user_id', %s, true)"


class Connection(AsyncConnection[DictRow]):
    """A connection that goes back to its pool when it is closed, by SQLAlchemy for instance.

    psycopg's own `close` passes over a connection that the server has closed. The pool would then wait for it for ever,
    and be empty for good once each of its connections has met a restart of the database.
    """

    def __init__(self, pgconn: PGconn, row_factory: AsyncRowFactory[DictRow] = dict_row) -> None:
        super().__init__(pgconn, row_factory)
        self._cursors: dict[str, AsyncCursor[DictRow]] = {}

    def cursor_of(self, query: str) -> AsyncCursor[DictRow]:
        """The one cursor of a statement, which knows from the last time how parameters and results are converted.

        It also keeps its last parameters and result until it is used again, so this is for statements of small results.
        """
        cursor = self._cursors.get(query)
        if cursor is None:
            cursor = self._cursors[query] = self.cursor()
        return cursor

    async def close(self) -> None:
        pool = getattr(self, "_pool", None)
        if pool is None:
            self._cursors.clear()
            await super().close()
        else:
            await pool.putconn(self)
            # A second `close` must not give it back twice.
            self._pool = None


WarmUp = Callable[[Connection], Awaitable[None]]


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turn the loss of the database into the domain's error; every other error is a fault of ours and passes.

    No cancellation is lost: `asyncio.wait_for`, by which the pool waits, forgets one that meets an answer, before
    Python 3.12. A task that goes on as if nothing had been would let whoever ends it wait for ever.
    """
    task = asyncio.current_task()
    assert task is not None
    asked = task.cancelling()
    try:
        async with asyncio.timeout(CALL_TIMEOUT):
            yield
    except Exception as error:
        if task.cancelling() > asked:
            raise asyncio.CancelledError from error
        if _is_loss(error):
            raise _unavailable() from error
        raise
    if task.cancelling() > asked:
        raise asyncio.CancelledError


def _is_loss(error: Exception) -> bool:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(cause, (*AWAY, PoolTimeout, TimeoutError))


def _unavailable() -> Unavailable:
    return Unavailable(Reason.DATABASE_UNAVAILABLE, "The database cannot be reached; try again.", retry_after=1.0)


class _LastUsedFirst(deque[Connection]):
    """The idle connections of a pool, which takes the one that was used last: the plans of its process are still in the
    processor's caches. In turn, each call would find them cold, and an append takes a tenth longer."""

    def popleft(self) -> Connection:
        return self.pop()


class Database:
    """The way to PostgreSQL. Every method that names a user runs where row-level security shows that user alone."""

    def __init__(self, pool: AsyncConnectionPool[Connection]) -> None:
        self._pool = pool
        self._engine = create_async_engine(
            "postgresql+psycopg://",
            poolclass=NullPool,
            async_creator=self._checkout,
            # The text of an error is logged, and the parameters are what users say.
            hide_parameters=True,
        )
        self._mending: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """Close the pool."""
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.wait({self._mending})
        await self._pool.close()

    async def _checkout(self) -> Connection:
        connection = await self._pool.getconn()
        try:
            # SQLAlchemy expects psycopg's defaults; the pool undoes this at return.
            await connection.set_autocommit(False)
        except BaseException:
            await connection.close()
            raise
        connection.row_factory = tuple_row  # type: ignore[assignment]
        return connection

    @asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        """`translated`, and where one connection was lost, a look at all others: a restart breaks them together, and
        without it each would cost a call."""
        try:
            async with translated():
                yield
        except Unavailable:
            if self._mending is None or self._mending.done():
                self._mending = asyncio.create_task(self._pool.check(), name="check of the pool")
            # A task, since whoever is cancelled here must not take along the connections that are being checked.
            await asyncio.wait({self._mending}, timeout=MENDING_PATIENCE)
            raise

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        async with self._watched(), self._pool.connection() as connection:
            try:
                yield connection
            except asyncio.CancelledError:
                # psycopg may leave it in pipeline mode, so that whoever is next misses answers, or believing that the
                # server has prepared what was never sent; the pool looks at neither.
                connection.pgconn.finish()
                raise

    async def call(self, query: str, params: Params) -> DictRow | None:
        """Run one statement that sets the user by itself, such as `append_message`, for its one row."""
        async with self._connection() as connection:
            cursor = connection.cursor_of(query)
            await cursor.execute(query, params, prepare=True, binary=True)
            return await cursor.fetchone()

    async def rows(self, query: str, params: Params) -> list[DictRow]:
        """Run one statement that sets the user by itself, for all its rows, however large."""
        async with self._connection() as connection:
            cursor = await connection.execute(query, params, prepare=True, binary=True)
            return await cursor.fetchall()

    async def query(self, user_id: UUID, *statements: Statement) -> list[list[DictRow]]:
        """Run statements as one transaction of one user, pipelined: one round trip in all."""
        async with self._connection() as connection:
            async with connection.pipeline():
                await connection.execute(SET_USER, (str(user_id),), prepare=True)
                cursors = [
                    await connection.execute(query, params, prepare=True, binary=True) for query, params in statements
                ]
            # Only the end of the pipeline brings the results.
            return [await cursor.fetchall() if cursor.description else [] for cursor in cursors]

    @asynccontextmanager
    async def transaction(self, user_id: UUID) -> AsyncIterator[Connection]:
        """A transaction of one user, for statements that depend on each other."""
        async with self._connection() as connection, connection.transaction():
            await connection.execute(SET_USER, (str(user_id),))
            yield connection

    @asynccontextmanager
    async def session(self, user_id: UUID) -> AsyncIterator[SqlConnection]:
        """A transaction of one user, for SQLAlchemy Core."""
        async with self._watched(), self._engine.begin() as connection:
            await connection.execute(
                text("SELECT set_config('chatrpc.user_id', :user_id, true)"), {"user_id": str(user_id)}
            )
            yield connection

    @asynccontextmanager
    async def unbound(self) -> AsyncIterator[Connection]:
        """A connection for tables that belong to no user; row-level security hides all others."""
        async with self._connection() as connection:
            yield connection


async def _configure(warm_up: WarmUp | None, connection: Connection) -> None:
    # A turn reads some dozens of small documents; this parser takes half the time of the standard library's.
    set_json_loads(from_json, connection)
    # A database without the extension has no schema either, which `require_row_level_security` names.
    with suppress(psycopg.ProgrammingError):
        await register_vector_async(connection)
    if warm_up is not None:
        # Whatever keeps it from that, a lock for instance, the connection serves without.
        with suppress(psycopg.Error):
            async with connection.transaction():
                await connection.execute(WARM_UP_LIMITS)
                await warm_up(connection)


async def _reset(connection: Connection) -> None:
    await connection.set_autocommit(True)
    connection.row_factory = dict_row


@asynccontextmanager
async def open_database(settings: DatabaseSettings, warm_up: WarmUp | None = None) -> AsyncIterator[Database]:
    """Open the pool; it connects when it is first used, and again after the database was away.

    Args:
        warm_up: What each new connection does before it serves, where it can and in short.
    """
    options = " ".join(f"-c {name}={value}" for name, value in PLANNING.items())
    if settings.role:
        options += f" -c role={settings.role}"
    pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
        settings.url,
        connection_class=Connection,
        min_size=1,
        max_size=settings.pool_size,
        timeout=settings.connect_timeout,
        kwargs={
            # A connection whose other end is gone without a word is found out within ten seconds.
            "tcp_user_timeout": 10_000,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 2,
            "autocommit": True,
            "options": options,
            "row_factory": dict_row,
        },
        configure=partial(_configure, warm_up),
        # Besides what it resets: with a hook, the pool takes connections back in a task of its own. Without one it does
        # so in the caller's, and where that is cancelled while the pool is busy, the connection is lost for good.
        reset=_reset,
        check=None,
        close_returns=True,
        open=False,
        name="chatrpc",
        reconnect_timeout=settings.connect_timeout,
    )
    # psycopg_pool has no option for it.
    pool._pool = _LastUsedFirst()
    await pool.open(wait=False)
    database = Database(pool)
    try:
        yield database
    finally:
        await database.aclose()


async def require_row_level_security(database: Database) -> None:
    """Refuse to run as a role that row-level security does not bind, such as a superuser or the schema's owner.

    Raises:
        SettingsError: The role is not bound, or the schema is missing.
        Unavailable: The database cannot be reached.
    """
    async with database.unbound() as connection:
        try:
            cursor = await connection.execute("SELECT row_security_active('messages') AS bound, current_user AS role")
        except psycopg.errors.UndefinedTable:
            raise SettingsError("The database has no chatrpc schema; run `chatrpc migrate` first.") from None
        row = await cursor.fetchone()
    if row is None or not row["bound"]:
        role = row["role"] if row else "?"
        raise SettingsError(
            f"Row-level security does not bind the role {role!r}; set CHATRPC_DATABASE_ROLE to chatrpc_server."
        )
