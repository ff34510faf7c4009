"""Global admission control: new turns are refused before those that run become slow.

What it measures is queueing delay, never response time: a slow database or language model makes answers late, but to
refuse turns for that would help nobody. It follows what large services have found to work:

- A turn holds a slot while the server works for it: from its acceptance until its context stands and the model is asked.
  Slots adapt as TCP's window does (additive increase, multiplicative decrease, as in Netflix's concurrency-limits). The
  signal is the delay of the event loop: how long a callback that is ready waits for its turn. One loop does all the
  work of a process, and its delay is paid anew at each of the dozens of steps that a turn takes, so it must stay small.
  The number of turns that run says nothing: most of them wait for the model.
- Turns beyond the slots stand in line, and the line is bounded in time by controlled delay (CoDel), as Facebook applies
  it to requests ("Fail at Scale", ACM Queue, 2015): while the line is empty now and then, it is a burst, and a turn may
  wait for `BURST`; once it has stood for that long, it is overload, and a turn waits for the target at most. The newest
  is then served first, so that those that are accepted have hardly waited.

It recovers by itself within some tenths of a second: as soon as the line is empty, nobody is refused.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable

from chatrpc.errors import Reason, Unavailable

# Seconds for which sends may stand in line before they are taken for overload instead of a burst.
BURST = 0.04
# Seconds after which the slots are adapted again, and the mean delay of the loop meanwhile that takes some away.
INTERVAL = 0.05
LOOP_DELAY = 0.002
DECREASE = 0.7
# Those who are refused come back spread over these seconds.
COME_BACK = (1.0, 3.0)


class Slot:
    """Held by a turn while the server's own work is done for it."""

    __slots__ = ("_free",)

    def __init__(self, free: Callable[[], None] | None) -> None:
        self._free = free

    def leave(self) -> None:
        """Give it back; a second time does nothing."""
        free, self._free = self._free, None
        if free is not None:
            free()


class Admission:
    """Slots for accepting messages, and the line before them. Call it inside the event loop.

    Args:
        target: Seconds that a send waits for a slot at most while the server is overloaded; 0 admits everything.
        slots: How many may be accepted at once at most. Each takes one connection of the pool, so more would only wait
            for one.
    """

    def __init__(self, target: float = 0.0, slots: int = 1) -> None:
        self._target = target
        self._most = slots
        self._limit = float(slots)
        self._busy = 0
        self._line: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._standing_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._probing = False
        self._delays = 0.0
        self._probes = 0
        self._adapted = 0.0

    def refuse(self) -> None:
        """For the earliest look at a new turn, before it has cost anything.

        Raises:
            Unavailable: The server is overloaded, and as many stand in line as can be served soon.
        """
        if len(self._line) >= self._limit and self._overloaded(time.monotonic()):
            raise _overloaded()

    async def enter(self, *, always: bool = False) -> Slot:
        """Take a slot.

        Args:
            always: Whether to take it at once even if none is free.

        Raises:
            Unavailable: The server is overloaded.
        """
        if not self._target:
            return Slot(None)
        loop = asyncio.get_running_loop()
        self._probe(loop)
        if always or (not self._line and self._busy < int(self._limit)):
            self._busy += 1
            return Slot(self._leave)
        now = time.monotonic()
        granted: asyncio.Future[None] = loop.create_future()
        if self._standing_since is None:
            self._standing_since = now
        self._line.append((now, granted))
        if self._timer is None:
            self._arm(loop)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self._leave()
            raise
        return Slot(self._leave)

    def _leave(self) -> None:
        self._busy -= 1
        self._serve(asyncio.get_running_loop())

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._line and self._busy < int(self._limit):
            _, granted = self._line.pop() if self._overloaded(time.monotonic()) else self._line.popleft()
            # Whoever was cancelled in line is still in it.
            if not granted.done():
                self._busy += 1
                granted.set_result(None)
        if not self._line:
            self._standing_since = None

    def _overloaded(self, now: float) -> bool:
        return self._standing_since is not None and now - self._standing_since >= BURST

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake up when the oldest in line has waited for as long as it may."""
        since, _ = self._line[0]
        assert self._standing_since is not None
        now = time.monotonic()
        due = since + self._target if self._overloaded(now) else self._standing_since + BURST
        self._timer = loop.call_later(max(due - now, 0.001), self._refuse, loop)

    def _refuse(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuse those who have waited for too long."""
        self._timer = None
        now = time.monotonic()
        if self._overloaded(now):
            while self._line and now - self._line[0][0] >= self._target:
                _, granted = self._line.popleft()
                if not granted.done():
                    granted.set_exception(_overloaded())
        if self._line:
            self._arm(loop)

    def _probe(self, loop: asyncio.AbstractEventLoop) -> None:
        """Measure how long a callback that is ready now waits for its turn."""
        if not self._probing:
            self._probing = True
            loop.call_soon(self._probed, loop, time.monotonic())

    def _probed(self, loop: asyncio.AbstractEventLoop, since: float) -> None:
        self._probing = False
        now = time.monotonic()
        self._delays += now - since
        self._probes += 1
        if now - self._adapted < INTERVAL:
            return
        if self._delays > LOOP_DELAY * self._probes:
            self._limit = max(1.0, self._limit * DECREASE)
        else:
            self._limit = min(float(self._most), self._limit + 1)
        self._adapted, self._delays, self._probes = now, 0.0, 0
        self._serve(loop)


def _overloaded() -> Unavailable:
    # Chance spreads those who come back, and hides nothing.
    after = random.uniform(*COME_BACK)  # noqa: S311
    return Unavailable(Reason.SERVER_OVERLOADED, "The server is overloaded; try again in a few seconds.", after)
