"""How busy a thread is, as the operating system sees it."""

from __future__ import annotations

import time

# Linux alone has it: nanoseconds on a CPU, nanoseconds of waiting for one, and a count.
_SCHEDSTAT = "/proc/thread-self/schedstat"


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
