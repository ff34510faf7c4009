"""Runs the process that reads a document, from outside of it."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from chatrpc.domain import Chunk
from chatrpc.errors import Reason
from chatrpc.knowledge.parse_worker import ParseJob
from chatrpc.knowledge.text import ParseError
from chatrpc.settings import KnowledgeSettings

# Nothing of the server's own environment: it holds the database's password and the model's key. A numeric library
# that is loaded along would otherwise reserve memory for a thread of each core.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "LANG": "C.UTF-8"}
_COMMAND = (sys.executable, "-I", "-m", "chatrpc.knowledge.parse_worker")
# Bytes of a line at most. A chunk has some thousand characters, and its headings as many.
_LINE = 4 * 1024 * 1024
# Where cores are shared, the time on the clock is longer than that on the CPU.
_PATIENCE = 3


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document that could be read.

    Attributes:
        title: What it calls itself, or empty.
        characters, pages, chunks: How many it has.
    """

    title: str
    characters: int
    pages: int
    chunks: int
    _process: Process

    async def read_chunks(self) -> AsyncGenerator[Chunk, None]:
        """The chunks in order; read them once.

        Raises:
            ParseError: The process ended before the last, or says what cannot be.
        """
        end = 0
        for number in range(self.chunks):
            match await _line(self._process):
                case [int(start), int(stop), int(page), list(headings), str(text)] if (
                    start == end and stop - start == len(text) and all(isinstance(each, str) for each in headings)
                ):
                    yield Chunk(number, start, stop, page, tuple(headings), text)
                    end = stop
                case _:
                    raise ParseError(Reason.DOCUMENT_BROKEN)


class Parser:
    """Parses documents, each in a process of its own.

    Args:
        max_tokens: What the embedding model reads of a text.
    """

    def __init__(self, settings: KnowledgeSettings, max_tokens: int) -> None:
        self._settings = settings
        self._max_tokens = max_tokens

    @asynccontextmanager
    async def parse(self, media_type: str, parts: AsyncIterator[bytes]) -> AsyncIterator[Parsed]:
        """Parse a document; its process lives until the end of the block at most.

        Raises:
            ParseError: It is broken, too costly or empty.
        """
        settings = self._settings
        job = ParseJob(media_type, self._max_tokens, settings.max_bytes, settings.parse_memory, settings.parse_seconds)
        # A new program, never a fork of this one: gRPC's threads do not survive a fork.
        process = await asyncio.create_subprocess_exec(
            *_COMMAND, job.encode(), stdin=PIPE, stdout=PIPE, stderr=asyncio.subprocess.DEVNULL, env=_ENVIRONMENT,
            cwd="/", limit=_LINE,
        )  # fmt: skip
        feeding = asyncio.create_task(_feed(process, parts))
        try:
            match await self._header(process, feeding):
                case [str(reason)] if reason in Reason.__members__:
                    raise ParseError(Reason(reason))
                case [str(title), int(characters), int(pages), int(chunks)]:
                    yield Parsed(title, characters, pages, chunks, process)
                case _:
                    raise ParseError(Reason.DOCUMENT_BROKEN)
        finally:
            feeding.cancel()
            with suppress(ProcessLookupError):
                process.kill()
            await asyncio.wait({feeding})
            await process.wait()

    async def _header(self, process: Process, feeding: asyncio.Task[None]) -> object:
        try:
            async with asyncio.timeout(self._settings.parse_seconds * _PATIENCE):
                return await _line(process)
        except (TimeoutError, ParseError) as error:
            if feeding.done():
                feeding.result()  # Raises what kept the bytes from coming.
            raise ParseError(getattr(error, "reason", Reason.DOCUMENT_TOO_COSTLY)) from None


async def _feed(process: Process, parts: AsyncIterator[bytes]) -> None:
    """Give the process its document. One that ends early has said why."""
    assert process.stdin is not None  # It is piped.
    try:
        async for part in parts:
            process.stdin.write(part)
            await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass
    except Exception:
        # A document of which the rest cannot be had is not a broken one.
        process.kill()
        raise
    process.stdin.close()


async def _line(process: Process) -> object:
    assert process.stdout is not None  # It is piped.
    try:
        line = await process.stdout.readline()
        if line.endswith(b"\n"):
            found: object = json.loads(line)
            return found
    except ValueError:
        raise ParseError(Reason.DOCUMENT_BROKEN) from None
    # The kernel has ended it for its CPU time, or it ran into the end of its memory in a library in C.
    raise ParseError(Reason.DOCUMENT_TOO_COSTLY)
