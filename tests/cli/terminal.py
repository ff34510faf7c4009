"""A command such as `chatrpc chat` in a process of its own, typed to and read from."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import PIPE

CHATRPC = Path(sys.executable).parent / "chatrpc"
# Seconds after which a test that waits has failed.
PATIENCE = 30.0


class Terminal:
    """Attributes: shown, errors: All that came out so far, on standard output and standard error."""

    def __init__(self, process: asyncio.subprocess.Process, typed: int, output: asyncio.StreamReader) -> None:
        self._process = process
        self._typed = typed
        self._output = output
        self.shown = ""
        self.errors = ""
        self._seen = 0

    def type(self, *lines: str) -> None:
        for line in lines:
            self.type_bytes(f"{line}\n".encode())

    def type_bytes(self, typed: bytes) -> None:
        os.write(self._typed, typed)

    def end_input(self) -> None:
        if self._typed >= 0:
            os.close(self._typed)
        self._typed = -1

    def press_ctrl_c(self) -> None:
        self._process.send_signal(signal.SIGINT)

    async def shows(self, text: str) -> str:
        """Wait until the text is shown, after what was waited for before.

        Returns:
            All that stands between.
        """
        async with asyncio.timeout(PATIENCE):
            while (found := self.shown.find(text, self._seen)) < 0:
                chunk = await self._output.read(4096)
                assert chunk, f"it ended and never showed {text!r}, but {self.shown!r}; errors: {await self._rest()!r}"
                self.shown += chunk.decode()
        between, self._seen = self.shown[self._seen : found], found + len(text)
        return between

    async def code(self) -> int:
        """Wait for the end, and return the exit code."""
        async with asyncio.timeout(PATIENCE):
            # The near end of a pseudo-terminal does not end, it fails.
            with suppress(OSError):
                self.shown += (await self._output.read()).decode()
            self.errors = await self._rest()
            return await self._process.wait()

    async def _rest(self) -> str:
        assert self._process.stderr is not None  # It is piped.
        return (await self._process.stderr.read()).decode()


@asynccontextmanager
async def terminal(
    *arguments: str, command: str = "chat", tty: bool = False, stdin: int | None = None, **env: str
) -> AsyncIterator[Terminal]:
    """Args: stdin: A descriptor to read from, in place of what the test types."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHATRPC_")} | env
    slave = typed = -1
    if tty:
        typed, slave = pty.openpty()
    elif stdin is None:
        stdin, typed = os.pipe()
    process = await asyncio.create_subprocess_exec(
        CHATRPC,
        command,
        *arguments,
        stdin=slave if tty else stdin,
        stdout=slave if tty else PIPE,
        stderr=PIPE,
        env=environment,
    )
    if tty:
        os.close(slave)

    async with _output(process, typed if tty else -1) as output:
        opened = Terminal(process, typed, output)
        try:
            yield opened
        finally:
            opened.end_input()
            if process.returncode is None:
                process.kill()
            await process.wait()


@asynccontextmanager
async def _output(process: asyncio.subprocess.Process, master: int) -> AsyncIterator[asyncio.StreamReader]:
    """What the process shows; on a pseudo-terminal where `master` is its near end."""
    if process.stdout is not None:
        yield process.stdout
        return
    reader = asyncio.StreamReader()
    screen = os.fdopen(os.dup(master), "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), screen
    )
    try:
        yield reader
    finally:
        transport.close()
