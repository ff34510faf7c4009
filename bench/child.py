"""A process whose CPU time is measured: it does as it is told on standard input, and answers in JSON."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

Answers = Callable[[str], Awaitable[dict[str, Any]]]


def cpu_seconds() -> float:
    """User and system time of this process so far, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def obey(ready: dict[str, Any], answer: Answers) -> None:
    """Say that all is ready, then answer each line until the input ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps(ready), flush=True)
    while line := await reader.readline():
        print(json.dumps(await answer(line.decode().strip())), flush=True)


async def tell_cpu(_: str) -> dict[str, Any]:
    """For `obey`: the CPU time, whatever is asked."""
    return {"cpu": cpu_seconds()}


class Child:
    """A process that runs `obey`, seen from outside."""

    def __init__(self, process: asyncio.subprocess.Process, ready: dict[str, Any]) -> None:
        self.ready = ready
        self.pid = process.pid
        self._process = process

    async def ask(self, what: str = "cpu") -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(what.encode() + b"\n")
        return await read_answer(self._process)


async def read_answer(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError("A process of the benchmark has ended; its error stands above.")
    answer: dict[str, Any] = json.loads(line)
    return answer


@asynccontextmanager
async def run_child(module: str, *arguments: str) -> AsyncIterator[Child]:
    """Run a module that obeys, until the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # An answer may hold the times of a hundred thousand turns.
        limit=16 * 1024 * 1024,
    )
    try:
        yield Child(process, await read_answer(process))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(30):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
