"""How busy a thread is, as the operating system sees it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

# Linux alone has it: nanoseconds on a CPU, nanoseconds of waiting for one, and a count.
_SCHEDSTAT = "/proc/thread-self/schedstat"
# Seconds between two readings of it at least; one costs some ten microseconds.
_RESOLUTION = 0.001


def busy_seconds() -> float:
    """For how long the current thread was busy, since it began: at work, and half of the time that it waited for a CPU.

    A thread that shares its CPUs with others is as busy as it can be long before it gets all of one. But on a machine
    that is busy with other things all threads wait, and keep up all the same: with all of the wait, two servers beside
    their database and their clients on two CPUs refused half of what they could do (bench.rolling). Where the system
    does not tell it, the work alone.
    """
    try:
        with open(_SCHEDSTAT) as file:
            at_work, waiting, _ = file.read().split()
    except (OSError, ValueError):
        return time.thread_time()
    return (int(at_work) + int(waiting) / 2) / 1e9


class TimeBudget:
    """Tells a thread that has been busy for more than a share of the time lately: a leaky bucket.

    Args:
        share: Of the time that passes, what the thread may be busy for.
        credit: Seconds that it may save up while it has little to do.
        debt: Seconds that it can be overdrawn by at most, however long it was busy.
        busy: Seconds for which the thread was busy, so far.
    """

    def __init__(self, share: float, credit: float, debt: float, busy: Callable[[], float]) -> None:
        self._share = share
        self._credit = credit
        self._debt = debt
        self._busy = busy
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
            used = self._busy()
            earned = self._share * passed - (used - self._used)
            self._balance = max(-self._debt, min(self._credit, self._balance + earned))
            self._looked_at, self._used = now, used
        return self._balance < 0.0
