"""Global admission control: new turns are refused before those that run become slow.

It goes by what the server itself has too little of, never by response times: a slow language model makes answers late,
but to refuse turns for that would help nobody. It follows what large services have found to work:

- A turn holds a slot while the server works for it: from its acceptance until its context stands and the model is
  asked. Slots adapt as TCP's window does (additive increase, multiplicative decrease, as in Netflix's
  concurrency-limits). The signal is how busy the thread of the event loop is, since one loop does all the work of a
  process. Delays inside the process would tell too late: gRPC takes in calls one by one, and those that a busy loop
  does not come to stand in a line of gRPC's own, where nobody sees them. The number of turns that run says nothing:
  most of them wait for the model.
- Turns beyond the slots stand in line: a burst is no overload, so nobody is refused for it. A line that does not move
  is one (controlled delay, as Facebook applies it to requests: "Fail at Scale", ACM Queue, 2015). Once somebody has
  waited for the target and the loop is busy, the line is dissolved, and whoever then finds no slot free is refused at
  once: to wait would only make those late that are accepted. That ends when nobody had to be refused for `CALM`.
- If the loop is not busy, the turns wait for something else, such as an embedder over the network, and get more slots.
  Not without end: they also wait for connections to the database, and more of them only make that line longer.

A server that is no longer offered too much is back to normal within a second.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable

import structlog

from chatrpc.errors import Reason, Unavailable
from chatrpc.turns.busyness import runnable_seconds

log = structlog.get_logger(__name__)

# Seconds without a refusal after which an overload is over.
CALM = 0.1
# Seconds between two looks at the loop's thread, and the share of them that makes it too busy.
INTERVAL = 0.02
BUSY = 0.85
# The share of the slots that is left after an interval that was too busy, and how many a second come back otherwise.
DECREASE = 0.7
INCREASE = 12.0
# There are never fewer, since one turn alone mostly waits for the database; and at most so many times the usual number.
LEAST = 2
STRETCH = 8
# Seconds between two lines of the log that say how many were refused.
LOG_INTERVAL = 10.0
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
    """Slots for new turns, and the line before them. Call it inside the event loop.

    Args:
        target: Seconds that a turn waits for a slot at most; 0 admits everything at once.
        slots: How many there usually are; as many as connections to the database, of which each turn takes one.
        runnable: Seconds for which the loop's thread had something to do, so far.
    """

    def __init__(self, target: float = 0.0, slots: int = 1, runnable: Callable[[], float] = runnable_seconds) -> None:
        self._target = target
        self._usual = slots
        self._limit = float(slots)
        self._runnable = runnable
        self._held = 0
        self._line: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._refused_at = -math.inf
        self._refused = 0
        self._logged_at = -math.inf
        self._looked_at = -math.inf
        self._looked_runnable = 0.0
        self._busy = False

    def refuses(self) -> bool:
        """For the earliest look at a new turn, before it has cost anything: whether it is to be refused."""
        if not self._target:
            return False
        now = time.monotonic()
        self._look(now)
        refuses = self._held >= int(self._limit) and now - self._refused_at < CALM
        if refuses:
            self._note_refusals(now, 1)
        return refuses

    async def enter(self, *, always: bool = False) -> Slot:
        """Take a slot.

        Args:
            always: Whether to take it at once even if none is free.

        Raises:
            Unavailable: The server is overloaded.
        """
        if not self._target:
            return Slot(None)
        if not always:
            if self.refuses():
                raise overloaded()
            if self._line or self._held >= int(self._limit):
                await self._wait()
                return Slot(self._leave)
        self._held += 1
        return Slot(self._leave)

    async def _wait(self) -> None:
        """Stand in line; a slot is held on return."""
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        self._line.append((time.monotonic(), granted))
        if self._timer is None:
            self._timer = loop.call_later(self._target, self._expire, loop)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self._leave()
            raise

    def _leave(self) -> None:
        self._held -= 1
        self._serve()

    def _serve(self) -> None:
        while self._line and self._held < int(self._limit):
            _, granted = self._line.popleft()
            # Whoever was cancelled in line is still in it.
            if not granted.done():
                self._held += 1
                granted.set_result(None)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Dissolve the line if the first in it has waited for as long as one may; else come again when that is due."""
        self._timer = None
        if not self._line:
            return
        now = time.monotonic()
        left = self._line[0][0] + self._target - now
        # Event loops round, so a timer may fire a little early.
        if left > 0.001:
            self._timer = loop.call_later(left, self._expire, loop)
            return
        self._look(now)
        if not self._busy:
            self._limit = min(float(self._held + len(self._line)), float(STRETCH * self._usual))
            self._serve()
        if self._line:
            self._note_refusals(now, len(self._line))
        for _, granted in self._line:
            if not granted.done():
                granted.set_exception(overloaded())
        self._line.clear()

    def _note_refusals(self, now: float, number: int) -> None:
        self._refused_at = now
        self._refused += number
        if now - self._logged_at >= LOG_INTERVAL:
            log.warning("overloaded", refused=self._refused, slots=int(self._limit))
            self._logged_at, self._refused = now, 0

    def _look(self, now: float) -> None:
        """Adapt the number of slots to how busy the loop's thread was since the last look."""
        passed = now - self._looked_at
        if passed < min(INTERVAL, self._target):
            return
        runnable = self._runnable()
        # The first look has none to compare with: an infinite time has passed.
        self._busy = runnable - self._looked_runnable > BUSY * passed
        if self._busy:
            self._limit = max(float(min(LEAST, self._usual)), self._limit * DECREASE)
        elif self._limit < self._usual:
            self._limit = min(float(self._usual), self._limit + INCREASE * passed)
        self._looked_at, self._looked_runnable = now, runnable
        self._serve()


def overloaded() -> Unavailable:
    """What those hear who are refused."""
    # Chance spreads those who come back, and hides nothing.
    after = random.uniform(*COME_BACK)  # noqa: S311
    return Unavailable(Reason.SERVER_OVERLOADED, "The server is overloaded; try again in a few seconds.", after)
