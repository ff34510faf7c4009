"""A circuit breaker: an endpoint that keeps failing is left alone for a while, then tried by one request.

Of the libraries at hand none fits a stream: pybreaker, purgatory and circuitbreaker let every request through while
they are half open, and take a request that its reader gives up for a success, so a cancelled probe closes the circuit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger(__name__)


class CircuitOpenError(Exception):
    """The endpoint is being left alone; `wait` tells for how many seconds more."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"open for {wait:.1f} s more")
        self.wait = wait


class CircuitBreaker:
    """Counts the failures of one endpoint that follow each other. Changes of its health are logged.

    Args:
        endpoint: Its name in the log.
        failures: As many in a row open the circuit.
        pause: Seconds until one request probes an open circuit. It closes with that probe's first token, and stays
            open for another pause if the probe fails; until the probe has ended, no other request passes.
        clock: Monotonic seconds.
    """

    def __init__(self, endpoint: str, failures: int, pause: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._endpoint = endpoint
        self._limit = failures
        self._pause = pause
        self._clock = clock
        self._failures = 0
        self._opened: float | None = None
        self._probe: Attempt | None = None

    @property
    def wait(self) -> float:
        """Seconds until a request may pass, 0 where one may now; a pause at most while a probe is under way."""
        if self._opened is None:
            return 0.0
        if self._probe is not None:
            return self._pause
        return max(self._opened + self._pause - self._clock(), 0.0)

    @contextmanager
    def attempt(self) -> Iterator[Attempt]:
        """Let one request through, which tells how it went; one that tells nothing counts neither way.

        Raises:
            CircuitOpenError: None may pass now.
        """
        wait = self.wait
        if wait > 0:
            raise CircuitOpenError(wait)
        attempt = Attempt(self)
        if self._opened is not None:
            self._probe = attempt
            log.info("model_endpoint_probed", endpoint=self._endpoint)
        try:
            yield attempt
        finally:
            if self._probe is attempt:
                self._probe = None

    def _answering(self, attempt: Attempt) -> None:
        # What began before the circuit opened says nothing of how the endpoint is now.
        if self._probe is attempt:
            self._probe = self._opened = None
            self._failures = 0
            log.info("model_endpoint_healthy", endpoint=self._endpoint)

    def _succeeded(self) -> None:
        if self._opened is None:
            self._failures = 0

    def _failed(self, attempt: Attempt) -> None:
        self._failures += 1
        if self._probe is attempt or (self._opened is None and self._failures >= self._limit):
            self._probe = None
            self._opened = self._clock()
            log.warning("model_endpoint_unhealthy", endpoint=self._endpoint, failures=self._failures, pause=self._pause)


class Attempt:
    """One request that a circuit breaker let through."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker

    def answering(self) -> None:
        """A first token has come."""
        self._breaker._answering(self)

    def succeeded(self) -> None:
        self._breaker._answering(self)
        self._breaker._succeeded()

    def failed(self) -> None:
        self._breaker._failed(self)
