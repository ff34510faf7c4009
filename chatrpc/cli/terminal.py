"""Lines in, text out."""

from __future__ import annotations

import asyncio
import os

from chatrpc.errors import InvalidInput

_CHUNK = 65_536

# What could move the cursor, change colours or answer for the user. Line breaks and tabs stay, carriage returns go.
_CONTROLS: dict[int, str | None] = dict.fromkeys((*range(32), *range(127, 160)), "�")
_CONTROLS |= {ord("\n"): "\n", ord("\t"): "\t", ord("\r"): None}


def printable(text: str) -> str:
    """Text of somebody else's without the control characters that a terminal would obey."""
    return text.translate(_CONTROLS)


class Lines:
    """Lines of a terminal, a pipe or a file. It is read only when a line is asked for, and never blocks the event loop;
    editing is left to the terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._read = bytearray()
        self._ended = False

    async def next(self) -> str | None:
        """The next line, without its end; None at the end of input.

        Raises:
            InvalidInput: The line is not UTF-8. The one after it can be had.
        """
        while b"\n" not in self._read and not self._ended:
            await self._readable()
            chunk = os.read(self._descriptor, _CHUNK)
            self._read += chunk
            self._ended = not chunk
        if not self._read:
            return None
        line, _, rest = self._read.partition(b"\n")
        self._read = rest
        try:
            return line.decode()
        except UnicodeDecodeError:
            raise InvalidInput("line", "That line is not UTF-8; set the terminal to UTF-8 and say it again.") from None

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        try:
            loop.add_reader(self._descriptor, _done, ready)
        except PermissionError:
            # Plain files cannot be waited for, and need not be: reading them never waits for anybody.
            return
        try:
            await ready
        finally:
            loop.remove_reader(self._descriptor)


def _done(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
