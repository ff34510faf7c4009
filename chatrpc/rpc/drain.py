"""The server is being stopped: streams hear of it, finish what runs, and end before the transport ends them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from chatrpc.errors import Reason, Unavailable


class Drain:
    """Begins once and is never taken back. Streams that are told of it are counted until they leave.

    Args:
        clock: Seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._deadline: float | None = None
        self._streams: dict[object, Callable[[], None]] = {}
        self._last_left = asyncio.Event()
        self._last_left.set()

    @property
    def deadline(self) -> float | None:
        """Seconds since the epoch at which streams end at the latest; None while the server does not drain."""
        return self._deadline

    def begin(self, grace: float) -> None:
        """Tell all streams, those that come later included. `grace` is in seconds."""
        if self._deadline is not None:
            return
        self._deadline = self._clock() + grace
        for tell in list(self._streams.values()):
            tell()

    def refuse(self) -> None:
        """Raises: Unavailable: The server drains, so no new turn begins."""
        if self._deadline is not None:
            raise self.error()

    def error(self) -> Unavailable:
        return Unavailable(Reason.SERVER_DRAINING, "The server is being stopped; call again, another one answers.")

    def join(self, stream: object, tell: Callable[[], None]) -> None:
        """Count a stream; `tell` is called when the drain begins, at once if it has begun."""
        self._streams[stream] = tell
        self._last_left.clear()
        if self._deadline is not None:
            tell()

    def leave(self, stream: object) -> None:
        self._streams.pop(stream, None)
        if not self._streams:
            self._last_left.set()

    async def streams_ended(self) -> None:
        """Wait until no stream is left. They end at the deadline by themselves, if not before."""
        await self._last_left.wait()
