"""What is under test: two server processes, PostgreSQL, Redis and Envoy, with a link to stall before each of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from bench.crash.network import Link
from chatrpc.db.migrate import upgrade
from chatrpc.dev.issuer import AUDIENCE, ISSUER, LocalIssuer
from chatrpc.dev.ports import free_port
from chatrpc.dev.postgres import DATABASE, PostgresServer, run_postgres
from chatrpc.errors import SettingsError
from chatrpc.settings import AuthSettings
from tests.edge.edge import edge_before_two
from tests.edge.upstream import Upstream
from tests.support.provider import Provider
from tests.support.redis_server import RedisServer

START_TIMEOUT = 120.0
# Seconds until the provider counts as silent: short ones, so that a silent one costs a turn little time.
FIRST_TOKEN_TIMEOUT = 4.0
TOKEN_TIMEOUT = 2.0
# For the same reason, so that a link that stalls does not fail all turns of a quarter of a minute.
BREAKER_PAUSE = 2.0
HEARTBEAT = 5.0


class Postgres:
    """A durable PostgreSQL that can be killed and started again on its data."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: AbstractAsyncContextManager[PostgresServer] | None = None
        self._server: PostgresServer | None = None

    @property
    def server(self) -> PostgresServer:
        assert self._server is not None
        return self._server

    @property
    def socket(self) -> Path:
        return self.server.socket_directory / ".s.PGSQL.5432"

    async def start(self) -> None:
        """Return once it takes connections. Of one that was killed, the last processes may still be ending."""
        async with asyncio.timeout(START_TIMEOUT):
            while True:
                running = run_postgres(self._directory)
                try:
                    self._server = await running.__aenter__()
                except SettingsError:
                    await asyncio.sleep(0.2)
                else:
                    self._running = running
                    return

    async def end(self, how: signal.Signals) -> None:
        """End it by SIGKILL, SIGQUIT (immediate: nothing is written) or SIGINT."""
        if self._running is None:
            return
        os.kill(self.server.pid, how)
        await self.server.wait()
        running, self._running = self._running, None
        await running.__aexit__(None, None, None)


@dataclass
class Server:
    """One of the two.

    Attributes:
        leases: Ids of the leases that its present process has held.
        ready: Whether its present process has begun to serve.
        away: Whether it is killed or stopped just now.
    """

    name: str
    port: int
    environment: dict[str, str]
    logs: Path
    links: dict[str, Link]
    starts: int = 0
    process: asyncio.subprocess.Process | None = None
    log: Path = field(default_factory=Path)
    leases: set[str] = field(default_factory=set)
    ready: bool = False
    paused: bool = False

    async def start(self) -> None:
        """Return once it serves."""
        self.starts += 1
        self.leases = set()
        self.log = self.logs / f"{self.name}-{self.starts:03}.jsonl"
        with self.log.open("wb") as output:
            self.process = await asyncio.create_subprocess_exec(
                Path(sys.executable).with_name("chatrpc"),
                "serve",
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        # It waits for the database where that is away, so there is no bound.
        while not self.ready and self.process.returncode is None:
            await asyncio.sleep(0.05)
            self._read_log()
        if not self.ready:
            raise RuntimeError(f"A server has ended by itself, with {self.process.returncode}; see {self.log}.")

    async def kill(self) -> set[str]:
        """End it by SIGKILL; the leases that it held."""
        assert self.process is not None
        self._read_log()
        self.ready = False
        self.process.kill()
        await self.process.wait()
        return self.leases

    def pause(self) -> None:
        assert self.process is not None
        self.paused = True
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.paused = False

    async def end(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            try:
                async with asyncio.timeout(60):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()

    def _read_log(self) -> None:
        for record in records(self.log):
            self.ready = self.ready or record.get("event") == "ready"
            if record.get("event") == "lease_acquired":
                self.leases.add(record["process_id"])


@dataclass(frozen=True)
class Stack:
    """Where everything is."""

    servers: list[Server]
    postgres: Postgres
    redis: RedisServer
    issuer: LocalIssuer
    edge: str
    logs: Path

    @property
    def doors(self) -> dict[str, str]:
        """Envoy, and each server itself, as `host:port`."""
        return {"edge": self.edge, **{server.name: f"127.0.0.1:{server.port}" for server in self.servers}}


def records(log: Path) -> list[dict[str, Any]]:
    """The records of a server's log so far."""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            found.append(dict(json.loads(line)))
        except ValueError:
            found.append({"event": line, "level": "error"})
    return found


@asynccontextmanager
async def run_stack(directory: Path, provider: Provider) -> AsyncIterator[Stack]:
    """Run all of it until the end of the block.

    Args:
        directory: Gets the data, and under `logs` what the servers say.
    """
    logs = directory / "logs"
    logs.mkdir()
    issuer = LocalIssuer.create(directory / "issuer")
    async with AsyncExitStack() as stack:
        postgres = Postgres(directory / "postgres")
        await postgres.start()
        stack.push_async_callback(postgres.end, signal.SIGINT)
        await asyncio.to_thread(upgrade, postgres.server.url)
        redis = await stack.enter_async_context(RedisServer(directory))
        servers = []
        for name in ("first", "second"):
            port = free_port()
            targets: dict[str, int | Path] = {
                "database": postgres.socket,
                "redis": directory / "redis.sock",
                "provider": int(provider.base_url.rpartition(":")[2].removesuffix("/v1")),
                "edge": port,
            }
            links = {what: await stack.enter_async_context(Link(target)) for what, target in targets.items()}
            environment = {**os.environ, **_environment(issuer, port, links)}
            servers.append(Server(name, port, environment, logs, links))
        # One of them generates replies anew, the other ends them with the text that they have.
        servers[1].environment["CHATRPC_SERVER_TAKEOVER"] = "interrupt"
        for server in servers:
            stack.push_async_callback(server.end)
        await asyncio.gather(*(server.start() for server in servers))
        auth = AuthSettings(issuer=ISSUER, audience=AUDIENCE, jwks_file=str(issuer.jwks_file))
        first, second = (cast("Upstream", SimpleNamespace(port=server.links["edge"].port)) for server in servers)
        edge = await stack.enter_async_context(edge_before_two(first, second, auth))
        yield Stack(servers, postgres, redis, issuer, f"127.0.0.1:{edge.port}", logs)


def _environment(issuer: LocalIssuer, port: int, links: dict[str, Link]) -> dict[str, str]:
    return {
        "CHATRPC_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{links['database'].port}/{DATABASE}",
        "CHATRPC_REDIS_URL": f"redis://127.0.0.1:{links['redis'].port}/0",
        "CHATRPC_AUTH_ISSUER": ISSUER,
        "CHATRPC_AUTH_AUDIENCE": AUDIENCE,
        "CHATRPC_AUTH_JWKS_FILE": str(issuer.jwks_file),
        "CHATRPC_MODEL_BASE_URL": f"http://127.0.0.1:{links['provider'].port}/v1",
        "CHATRPC_MODEL_NAME": "scripted",
        "CHATRPC_MODEL_FIRST_TOKEN_TIMEOUT": str(FIRST_TOKEN_TIMEOUT),
        "CHATRPC_MODEL_TOKEN_TIMEOUT": str(TOKEN_TIMEOUT),
        "CHATRPC_MODEL_BREAKER_PAUSE": str(BREAKER_PAUSE),
        "CHATRPC_SERVER_HOST": "127.0.0.1",
        "CHATRPC_SERVER_PORT": str(port),
        "CHATRPC_SERVER_HEARTBEAT": str(HEARTBEAT),
        "CHATRPC_SERVER_DRAIN_DELAY": "0",
        "CHATRPC_SERVER_DRAIN_GRACE": "5",
    }
