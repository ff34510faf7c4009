"""The loop of a background worker: claim due tasks, work on some at a time, look again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Generic, TypeVar

import structlog

from chatrpc.errors import ChatError, SummaryRefused

POLL_SECONDS = 1.0
"""Pause between two looks for work that other processes left."""
LONGEST_PAUSE = timedelta(minutes=5)
"""Between two tries of a task, or of a database that is away, the pauses double from a second up to this."""

_Task = TypeVar("_Task")

log = structlog.get_logger(__name__)


class WorkLoop(Generic[_Task]):
    """Works on tasks as they become due; several processes may each run one.

    Args:
        name: Of the work, as logs have it.
        claim: Claims so many due tasks at most.
        work: Does a task and gives it back, however it ends; it raises nothing but CancelledError.
        concurrency: Tasks that are worked on at a time.
    """

    def __init__(
        self,
        name: str,
        claim: Callable[[int], Awaitable[Sequence[_Task]]],
        work: Callable[[_Task], Awaitable[None]],
        concurrency: int,
    ) -> None:
        self._name = name
        self._claim = claim
        self._work = work
        self._concurrency = concurrency
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look for work at once."""
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled. No error ends it; tasks under way when it is cancelled are given back."""
        running: set[asyncio.Task[None]] = set()
        failures = 0
        try:
            while True:
                self._woken.clear()
                claimed: Sequence[_Task] = []
                try:
                    if len(running) < self._concurrency:
                        claimed = await self._claim(self._concurrency - len(running))
                    failures = 0
                except Exception as error:  # noqa: BLE001 - the worker outlives every fault of a look for work.
                    failures += 1
                    log_failure(f"{self._name}_claim_failed", error, attempts=failures)
                for task in claimed:
                    work = asyncio.ensure_future(self._work(task))
                    running.add(work)
                    work.add_done_callback(running.discard)
                    work.add_done_callback(lambda _: self._woken.set())
                await self._pause(failures)
        finally:
            for work in running:
                work.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def drain(self) -> int:
        """Work until nothing is due and return the number of tasks taken; those that fail are not due for a while."""
        taken = 0
        while claimed := await self._claim(self._concurrency):
            await asyncio.gather(*(self._work(task) for task in claimed))
            taken += len(claimed)
        return taken

    async def _pause(self, failures: int) -> None:
        """Wait for a reason to look again; a database that is away is not asked sooner because somebody wakes."""
        if failures:
            await asyncio.sleep(backoff(failures).total_seconds())
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await self._woken.wait()


def backoff(attempts: int) -> timedelta:
    """The pause after so many tries in a row: one second, doubling."""
    return min(timedelta(seconds=2 ** min(attempts - 1, 20)), LONGEST_PAUSE)


def log_failure(event: str, error: BaseException, **details: object) -> None:
    """Log what is expected to happen, such as an outage, in a line, and a fault of ours with its trace."""
    if isinstance(error, ChatError | SummaryRefused | TimeoutError):
        log.warning(event, problem=str(error) or type(error).__name__, **details)
    else:
        log.error(event, exc_info=error, **details)
