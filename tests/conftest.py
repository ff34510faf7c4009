"""What all tests share: one PostgreSQL, and a fresh database a test, copied from a migrated template."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from hypothesis import settings

from chatrpc.db.engine import Database, open_database
from chatrpc.db.migrate import upgrade
from chatrpc.dev.postgres import PostgresServer, run_postgres
from chatrpc.settings import DatabaseSettings

TEMPLATE = "chatrpc_template"

# Linux's file system in memory, and the bytes that must be free there for it to be used: a run takes some 100 MB, and
# containers often have no more than 64 MB.
MEMORY = Path("/dev/shm")
ROOM = 2 * 1024**3

# Tests wait for processes and the database more than they reckon, so there is work for one more than the cores.
WORKERS = min((os.cpu_count() or 1) + 1, 4)

# A test does not fail for the time that it takes, but where that is what it tests. In CI, hypothesis' own profile of
# that name says so already, and takes the same examples each time.
if settings.get_current_profile_name() == "default":
    settings.register_profile("here", deadline=None)
    settings.load_profile("here")
# For hours, by `--hypothesis-profile=long`; tests that go by it say so.
settings.register_profile("long", deadline=None, max_examples=3_000)


def pytest_configure(config: pytest.Config) -> None:
    """End at SIGTERM as at SIGINT: with all that was started for the tests taken down."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    config.add_cleanup(lambda: signal.signal(signal.SIGTERM, before))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Begun in the background of a script, whose shell has it ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite in as many processes as pay; what is named on the command line in this one, begun at once."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    return 0 if named else WORKERS


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres() -> AsyncIterator[PostgresServer]:
    """A PostgreSQL for the whole run; no test of durability may use it.

    A database is 300 files: made in memory in some 15 ms, and on a disk in 100 to 600.
    """
    in_memory = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM
    with TemporaryDirectory(prefix="chatrpc-tests-", dir=MEMORY if in_memory else None) as directory:
        async with run_postgres(Path(directory), durable=False) as server:
            url = await server.create_database(TEMPLATE)
            await asyncio.to_thread(upgrade, url)
            yield server


@pytest_asyncio.fixture
async def database_url(postgres: PostgresServer) -> AsyncIterator[str]:
    """URL of an empty database with the newest schema."""
    name = f"test_{uuid4().hex}"
    yield await postgres.create_database(name, TEMPLATE)
    await postgres.drop_database(name)


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An empty database with the newest schema, as the server sees it."""
    async with open_database(DatabaseSettings(url=database_url)) as opened:
        yield opened


@pytest.fixture
def user_id() -> UUID:
    return uuid4()
