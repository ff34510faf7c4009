"""Global admission control: new turns are refused before those that run become slow.

It goes by what the server itself has too little of, never by response times: a slow language model makes answers late,
but to refuse turns for that would help nobody. It follows what large services have found to work:

- The loop has a budget: the share of the time for which its thread may be busy, since one loop does all the work of a
  process. While it is overdrawn no turn is begun. Nothing else tells in time: gRPC takes in calls one by one, and those
  that a busy loop does not come to stand in a line of gRPC's own, where nobody sees them; and the number of turns that
  run says nothing, since most of them wait for the model. The rest of the time is what keeps that line short.
- A turn holds a slot while the server works for it: from its acceptance until its context stands and the model is
  asked. It may wait for the database meanwhile, and so costs the loop nothing yet; slots keep too many from being begun
  on one credit. They adapt as TCP's window does (additive increase, multiplicative decrease, as in Netflix's
  concurrency-limits), by the budget.
- Turns beyond that stand in line: a burst that passes within the target is no overload, so nobody is refused for it. A
  line that lasts longer is one (controlled delay, as Facebook applies it to requests: "Fail at Scale", ACM Queue,
  2015). Once somebody has waited for the target, the line is dissolved, and whoever then finds no room is refused at
  once: to wait would only make those late that are accepted. That ends when nobody had to be refused for `CALM`. To
  serve the newest first, as is also done there, would turn round what a user says in two calls.
- If the budget is not overdrawn, the turns wait for something else, such as an embedder over the network, and get more
  slots. Not without end: they also wait for connections to the database, and more of them only make that line longer.
- Now and then a turn is begun whatever budget and slots say, so that a server whose machine has no time for it stays
  alive.

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
from chatrpc.turns.busyness import TimeBudget, busy_seconds

log = structlog.get_logger(__name__)

# Seconds without a refusal after which an overload is over.
CALM = 0.1
# The share of the time for which the loop's thread may be busy, and the seconds that it may save up and overdraw. With
# seven tenths, p99 of accepted turns stays below twice the unloaded; with more credit, an overload begins with a line
# in gRPC that takes longer to pass (bench.overload).
SHARE = 0.7
CREDIT = 0.005
DEBT = 0.02
# Seconds after the last turn after which one is begun though the budget is overdrawn and no slot free.
TRICKLE = 0.05
# Seconds between two looks at the line.
ATTENTION = 0.005
# The share of the slots that is left after 20 ms in which the budget is overdrawn, and how many a second come back.
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
        busy: Seconds for which the loop's thread was busy, so far.
    """

    def __init__(self, target: float = 0.0, slots: int = 1, busy: Callable[[], float] = busy_seconds) -> None:
        self._target = target
        self._usual = slots
        self._limit = float(slots)
        self._budget = TimeBudget(SHARE, CREDIT, DEBT, busy)
        self._overdrawn = False
        self._looked_at = -math.inf
        self._begun_at = -math.inf
        self._held = 0
        self._line: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._refused_at = -math.inf
        self._refused = 0
        self._logged_at = -math.inf

    def refuses(self) -> bool:
        """For the earliest look at a new turn, before it has cost anything: whether it is to be refused."""
        if not self._target:
            return False
        now = time.monotonic()
        refuses = now - self._refused_at < CALM and not self._has_room(now)
        if refuses:
            self._note_refusals(now, 1)
        return refuses

    async def enter(self, *, always: bool = False) -> Slot:
        """Take a slot, once there is room.

        Args:
            always: Whether to take it at once even if none is free.

        Raises:
            Unavailable: The server is overloaded.
        """
        if not self._target:
            return Slot(None)
        if always:
            # Not taken for a turn that was begun, or many of these would leave no room for one.
            self._held += 1
        elif self.refuses():
            raise overloaded()
        elif self._line or not self._has_room(now := time.monotonic()):
            await self._wait()
        else:
            self._take(now)
        return Slot(self._leave)

    async def _wait(self) -> None:
        """Stand in line; a slot is held on return."""
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        self._line.append((time.monotonic(), granted))
        if self._timer is None:
            self._timer = loop.call_later(min(ATTENTION, self._target), self._attend, loop)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self._leave()
            raise

    def _take(self, now: float) -> None:
        self._held += 1
        self._begun_at = now

    def _leave(self) -> None:
        self._held -= 1
        self._serve()

    def _serve(self) -> None:
        while self._line and self._has_room(now := time.monotonic()):
            _, granted = self._line.popleft()
            if not granted.done():
                self._take(now)
                granted.set_result(None)

    def _attend(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve the line, and dissolve it if the first in it has waited for as long as one may.

        Whoever was cancelled in line is still in it.
        """
        self._timer = None
        self._serve()
        while self._line and self._line[0][1].done():
            self._line.popleft()
        if not self._line:
            return
        now = time.monotonic()
        if now - self._line[0][0] < self._target:
            self._timer = loop.call_later(min(ATTENTION, self._target), self._attend, loop)
            return
        if not self._overdrawn:
            self._limit = min(float(self._held + len(self._line)), float(STRETCH * self._usual))
            self._serve()
        waiting = [granted for _, granted in self._line if not granted.done()]
        self._line.clear()
        if waiting:
            self._note_refusals(now, len(waiting))
        for granted in waiting:
            granted.set_exception(overloaded())

    def _has_room(self, now: float) -> bool:
        """Whether another turn may be begun; slots are adapted meanwhile."""
        passed, self._looked_at = now - self._looked_at, now
        self._overdrawn = self._budget.overdrawn(now)
        if self._overdrawn:
            self._limit = max(float(min(LEAST, self._usual)), self._limit * DECREASE ** (passed / 0.02))
            # Whatever the slots say, too: those who hold them may wait for something for long.
            return now - self._begun_at >= TRICKLE and self._held < STRETCH * self._usual
        if self._limit < self._usual:
            self._limit = min(float(self._usual), self._limit + INCREASE * passed)
        elif not self._line:
            self._limit = max(float(self._usual), self._limit - INCREASE * passed)
        return self._held < int(self._limit)

    def _note_refusals(self, now: float, number: int) -> None:
        self._refused_at = now
        self._refused += number
        if now - self._logged_at >= LOG_INTERVAL:
            log.warning("overloaded", refused=self._refused, slots=int(self._limit))
            self._logged_at, self._refused = now, 0


def overloaded() -> Unavailable:
    """What those hear who are refused."""
    # Chance spreads those who come back, and hides nothing.
    after = random.uniform(*COME_BACK)  # noqa: S311
    return Unavailable(Reason.SERVER_OVERLOADED, "The server is overloaded; try again in a few seconds.", after)
