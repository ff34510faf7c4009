"""When to try again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import SystemRandom

from chatrpc.client.credentials import Credentials, Metadata
from chatrpc.client.errors import CallError, StatusCode

# Called before each wait with what went wrong and with the seconds until the next try.
RetryListener = Callable[[CallError, float], None]

_random = SystemRandom().random


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient a client is.

    The defaults outlast a server that drains for 30 seconds and takes a few more to come back: 12 tries wait 46
    seconds on average, 31 at least.

    Attributes:
        tries: Tries in a row without progress, the first one included; 1 never repeats anything.
        first_delay: Seconds before the second try at most; each further delay may be twice as long.
        longest_delay: Seconds between two tries at most, unless the server asks for more.
        longest_request: Seconds that a server may ask for at most; a longer time ends the trying.
    """

    tries: int = 12
    first_delay: float = 0.2
    longest_delay: float = 10.0
    longest_request: float = 60.0

    def delay(self, failures: int, asked: float | None, draw: float) -> float:
        """Seconds to wait after so many failures in a row, from 1.

        Args:
            asked: Seconds that the server asked for, or None. They are the least; the jitter comes on top.
            draw: 0 to 1, chosen at random, so that clients that failed together do not come back together.
        """
        # Beyond 2**32 the exponent has no effect but to overflow.
        bound = min(self.longest_delay, self.first_delay * 2.0 ** min(failures - 1, 32))
        jittered = bound * (1 + draw) / 2
        return jittered if asked is None else max(jittered, asked + bound * draw / 2)


class Backoff:
    """The tries of one piece of work: a call, or a turn."""

    def __init__(self, policy: RetryPolicy, credentials: Credentials, listener: RetryListener | None) -> None:
        self._policy = policy
        self._credentials = credentials
        self._listener = listener
        self._failures = 0

    def progressed(self) -> None:
        """Something was achieved: the next failure is the first again."""
        self._failures = 0

    async def pause(self, error: CallError, used: Metadata) -> None:
        """Wait until the next try is due.

        Args:
            used: Metadata of the failed try: a token that was refused is worth another try only if there is a new one.

        Raises:
            CallError: The error itself, where another try is of no use or too many have failed.
        """
        self._failures += 1
        if self._failures >= self._policy.tries or (error.retry_after or 0) > self._policy.longest_request:
            raise error
        if error.code is StatusCode.UNAUTHENTICATED:
            if not await self._credentials.replaced(used):
                raise error
        elif not error.temporary:
            raise error
        delay = self._policy.delay(self._failures, error.retry_after, _random())
        if self._listener is not None:
            self._listener(error, delay)
        await asyncio.sleep(delay)
