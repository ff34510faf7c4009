"""`chatrpc serve` in processes of its own, as benchmarks start, end and start it again."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from chatrpc.dev.issuer import AUDIENCE, ISSUER, LocalIssuer
from chatrpc.dev.ports import free_port

# A busy machine takes its time.
START_TIMEOUT = 60.0
STOP_TIMEOUT = 60.0


def server_environment(database_url: str, redis_url: str, issuer: LocalIssuer, provider_url: str) -> dict[str, str]:
    """What servers that share all this need to know; they listen on loopback and leave the background work."""
    return {
        "CHATRPC_DATABASE_URL": database_url,
        "CHATRPC_REDIS_URL": redis_url,
        "CHATRPC_AUTH_ISSUER": ISSUER,
        "CHATRPC_AUTH_AUDIENCE": AUDIENCE,
        "CHATRPC_AUTH_JWKS_FILE": str(issuer.jwks_file),
        "CHATRPC_MODEL_BASE_URL": provider_url,
        "CHATRPC_MODEL_NAME": "scripted",
        "CHATRPC_SERVER_HOST": "127.0.0.1",
        "CHATRPC_SERVER_EMBEDDED_WORKER": "false",
    }


class Server:
    """One server. It keeps its port when it is started again.

    Attributes:
        reasons: How many calls have ended for a reason, by its name, over all its processes.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self.reasons: dict[str, int] = {}
        self._environment = {**os.environ, **environment, "CHATRPC_SERVER_PORT": str(self.port)}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Return once it serves."""
        self._process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("chatrpc"),
            "serve",
            env=self._environment,
            stderr=asyncio.subprocess.PIPE,
        )
        ready = asyncio.Event()
        # A server whose log nobody takes would stand still.
        self._reading = asyncio.create_task(self._read(self._process, ready))
        async with asyncio.timeout(START_TIMEOUT):
            await ready.wait()

    async def _read(self, process: asyncio.subprocess.Process, ready: asyncio.Event) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            try:
                record = json.loads(line)
            except ValueError:
                # gRPC's own library writes plain lines.
                continue
            if record.get("event") == "ready":
                ready.set()
            if record.get("reason"):
                self.reasons[record["reason"]] = self.reasons.get(record["reason"], 0) + 1

    async def stop(self) -> None:
        """SIGTERM, and return once it has drained and ended."""
        if self._process is None or self._reading is None:
            return
        process, self._process = self._process, None
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        await self._reading


@asynccontextmanager
async def run_servers(number: int, environment: Mapping[str, str]) -> AsyncIterator[list[Server]]:
    """So many servers until the end of the block, all of them serving."""
    servers = [Server(environment) for _ in range(number)]
    try:
        await asyncio.gather(*(server.start() for server in servers))
        yield servers
    finally:
        await asyncio.gather(*(server.stop() for server in servers))
