"""The whole stack, as `chatrpc dev` starts it, for benchmarks that go through every part."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from chatrpc.dev.ports import free_port

# A first start builds the embedder's graph and makes a database; a busy machine takes its time.
START_TIMEOUT = 180.0
# The server drains, Envoy and PostgreSQL end in turn.
STOP_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Stack:
    """Where a stack is reached.

    Attributes:
        endpoint: Envoy's address.
        direct_endpoint: The server's own.
        pid: The process that holds the server; Envoy and PostgreSQL are processes of their own.
    """

    endpoint: str
    direct_endpoint: str
    token: str
    database_url: str
    pid: int


@asynccontextmanager
async def run_stack(environment: Mapping[str, str] | None = None, data_dir: Path | None = None) -> AsyncIterator[Stack]:
    """Run `chatrpc dev --json` until the end of the block; nothing of it is left then but a `data_dir` that was given.

    Args:
        environment: Variables over and above this process's own.
        data_dir: Where the data goes; a temporary directory where absent.

    Raises:
        RuntimeError: It does not start; the text is what it said.
    """
    with tempfile.TemporaryDirectory(prefix="chatrpc-bench-") as scratch:
        errors = Path(scratch, "stderr")
        with errors.open("wb") as stderr:  # noqa: ASYNC230 - one small file, before anything runs
            process = await asyncio.create_subprocess_exec(
                *(Path(sys.executable).with_name("chatrpc"), "dev", "--json"),
                *("--port", str(free_port()), "--data-dir", data_dir or Path(scratch, "data")),
                env={**os.environ, **(environment or {})},
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
            )
        try:
            yield _stack(await _ready(process, errors), process.pid)
        finally:
            await _stop(process)


async def _ready(process: asyncio.subprocess.Process, errors: Path) -> dict[str, str]:
    assert process.stdout is not None
    line = b""
    try:
        async with asyncio.timeout(START_TIMEOUT):
            line = await process.stdout.readline()
    except TimeoutError:
        pass
    if not line:
        raise RuntimeError(f"chatrpc dev does not start: {_tail(errors)}")
    ready: dict[str, str] = json.loads(line)
    return ready


def _tail(errors: Path) -> str:
    return errors.read_text(errors="replace").strip()[-2_000:]


def _stack(ready: dict[str, str], pid: int) -> Stack:
    return Stack(
        endpoint=ready["endpoint"],
        direct_endpoint=ready["direct_endpoint"],
        token=ready["token"],
        database_url=ready["database_url"],
        pid=pid,
    )


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_TIMEOUT):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
