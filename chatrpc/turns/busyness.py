"""How busy a thread is, as the operating system sees it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

# Linux alone has it: nanoseconds on a CPU, nanoseconds of waiting for one, and a count.
_SCHEDSTAT = "/proc/thread-self/schedstat"
# Seconds between two readings of it at least; one costs some ten microseconds.
_RESOLUTION = 0.001


def runnable_seconds() -> float:
    """For how long the current thread had something to do, since it began: at work, or waiting for a CPU.

    The wait counts because a thread that shares its CPUs with others is fully busy long before it gets all of one.
    Where the system does not tell it, the work alone.
    """
    try:
        with open(_SCHEDSTAT) as file:
            at_work, waiting, _ = file.read().split()
    except (OSError, ValueError):
        return time.thread_time()
    return (int(at_work) + int(waiting)) / 1e9


class TimeBudget:
    """Tells a thread that has been busy for more than a share of the time lately: a leaky bucket.

    Args:
        share: Of the time that passes, what the thread may be busy for.
        credit: Seconds that it may save up while it has little to do.
        debt: Seconds that it can be overdrawn by at most, however long it was busy.
        runnable: Seconds for which the thread had something to do, so far.
    """

    def __init__(self, share: float, credit: float, debt: float, runnable: Callable[[], float]) -> None:
        self._share = share
        self._credit = credit
        self._debt = debt
        self._runnable = runnable
        self._balance = credit
        # An infinite time before the first look, so that it finds the credit full.
        self._looked_at = -math.inf
        self._used = 0.0

    def overdrawn(self, now: float) -> bool:
        """Args:
        now: Seconds by the monotonic clock.
        """
        passed = now - self._looked_at
        if passed >= _RESOLUTION:
            used = self._runnable()
            earned = self._share * passed - (used - self._used)
            self._balance = max(-self._debt, min(self._credit, self._balance + earned))
            self._looked_at, self._used = now, used
        return self._balance < 0.0
