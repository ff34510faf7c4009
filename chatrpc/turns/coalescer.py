"""Tokens of one window share one delta: fewer messages cost the server and the network less, and the eye nothing.

Windows end at the same instants in all replies of a process, the multiples of their length on the loop's clock. What
they emit then shares the wake-ups of the event loop and of gRPC's poller and the writes of a connection, which took a
tenth off the CPU of a turn (`bench.turn_cpu`, 32 streams). No reply waits longer for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Coalescer:
    """Passes text on in pieces: the first at once, the rest gathered until the window ends.

    Args:
        window: Length in seconds; 0 passes each piece on by itself.
        emit: Gets each gathered piece.
    """

    def __init__(self, window: float, emit: Callable[[str], None]) -> None:
        self._window = window
        self._emit = emit
        self._pieces: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._opened = False

    def push(self, text: str) -> None:
        self._pieces.append(text)
        if self._timer is not None:
            return
        if self._window <= 0 or not self._opened:
            self._opened = True
            self._pass_on()
        if self._window > 0:
            loop = asyncio.get_running_loop()
            now = loop.time()
            self._timer = loop.call_at(now - now % self._window + self._window, self._close_window)

    def flush(self) -> None:
        """Pass on what is gathered, and end the window."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pass_on()

    def _close_window(self) -> None:
        self._timer = None
        self._pass_on()

    def _pass_on(self) -> None:
        if self._pieces:
            text = "".join(self._pieces)
            self._pieces.clear()
            self._emit(text)
