"""A `chatrpc` command as an operator runs it: configured by the environment alone, logging JSON on standard error."""

from __future__ import annotations

import asyncio
import json
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.e2e.stack import PATIENCE, SCRIPTS, environment

Variables = dict[str, str]

# May take the server's role, and nothing more.
LOGIN = "chatrpc_login"


async def login_role(connection: psycopg.AsyncConnection[Any], name: str) -> None:
    """Make a login where there is none yet; roles outlive the databases of the tests."""
    known = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,))
    if await known.fetchone() is None:
        await connection.execute(f"CREATE ROLE {name} LOGIN")


class Running:
    """A running command, and what it has logged so far.

    Attributes:
        output: Lines of standard error that are no log records.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.records: list[dict[str, Any]] = []
        self.output: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def logged(self, event: str) -> dict[str, Any]:
        """The first record of this name, once it is there."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found = [record for record in self.records if record["event"] == event]
                if found:
                    return found[0]
                assert not self._reading.done(), f"ended without {event!r}: {self.records} {self.output}"
                await asyncio.sleep(0.01)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Exit code, once it has ended by itself and all that it logged is read."""
        async with asyncio.timeout(PATIENCE):
            code = await self.process.wait()
            await self._reading
        return code

    async def _read(self) -> None:
        assert self.process.stderr is not None  # It is piped.
        async for line in self.process.stderr:
            try:
                self.records.append(dict(json.loads(line)))
            except ValueError:
                self.output.append(line.decode().rstrip("\n"))


@asynccontextmanager
async def running(command: str, variables: Mapping[str, str], cwd: Path) -> AsyncIterator[Running]:
    """The command until the end of the block, where it is killed if it still runs."""
    process = await asyncio.create_subprocess_exec(
        SCRIPTS / "chatrpc",
        command,
        stdin=DEVNULL,
        stderr=PIPE,
        env=environment(**variables),
        cwd=cwd,
        # A log line with a traceback is longer than the usual limit.
        limit=1024 * 1024,
    )
    started = Running(process)
    try:
        yield started
    finally:
        if process.returncode is None:
            process.kill()
        await started.ended()
