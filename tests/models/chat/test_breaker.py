"""The circuit breaker by itself, on a clock of the test's own."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chatrpc.models.chat.breaker import Attempt, CircuitBreaker, CircuitOpenError

FAILURES, PAUSE = 3, 30.0


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker("somewhere", FAILURES, PAUSE, clock)


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with breaker.attempt() as attempt:
            attempt.failed()


def test_failures_in_a_row_open_the_circuit(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, FAILURES - 1)
    assert breaker.wait == 0
    fail(breaker)
    clock.now += 10
    assert breaker.wait == PAUSE - 10
    with pytest.raises(CircuitOpenError) as caught, breaker.attempt():
        pass
    assert caught.value.wait == PAUSE - 10


def test_a_success_between_failures_keeps_it_closed(breaker: CircuitBreaker) -> None:
    fail(breaker, FAILURES - 1)
    with breaker.attempt() as attempt:
        attempt.succeeded()
    fail(breaker, FAILURES - 1)
    assert breaker.wait == 0


def test_one_request_alone_probes_an_open_circuit(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, FAILURES)
    clock.now += PAUSE
    with breaker.attempt() as probe:
        assert breaker.wait == PAUSE
        with pytest.raises(CircuitOpenError), breaker.attempt():
            pass
        probe.answering()
        assert breaker.wait == 0
    assert breaker.wait == 0


def test_a_failed_probe_opens_it_for_another_pause(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, FAILURES)
    clock.now += PAUSE
    fail(breaker)
    assert breaker.wait == PAUSE


def test_a_probe_that_was_given_up_leaves_the_next_one_to_tell(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, FAILURES)
    clock.now += PAUSE
    with pytest.raises(KeyboardInterrupt), breaker.attempt():
        raise KeyboardInterrupt
    with breaker.attempt() as probe:
        probe.succeeded()
    fail(breaker, FAILURES - 1)
    assert breaker.wait == 0


def test_what_began_before_it_opened_does_not_close_it(breaker: CircuitBreaker) -> None:
    with breaker.attempt() as old:
        fail(breaker, FAILURES)
        old.succeeded()
    assert breaker.wait == PAUSE


class Breakers(RuleBasedStateMachine):
    """Requests of any order: an open circuit lets nobody through before its pause, and then one at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = CircuitBreaker("somewhere", FAILURES, PAUSE, self.clock)
        self.open: list[tuple[Attempt, object]] = []
        self.in_a_row = 0
        self.opened: float | None = None
        self.probe: Attempt | None = None

    @rule(seconds=st.floats(0, 2 * PAUSE))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def request(self) -> None:
        manager = self.breaker.attempt()
        may_pass = self.opened is None or (self.probe is None and self.clock.now >= self.opened + PAUSE)
        if not may_pass:
            with pytest.raises(CircuitOpenError):
                manager.__enter__()
            return
        attempt = manager.__enter__()
        self.open.append((attempt, manager))
        if self.opened is not None:
            self.probe = attempt

    @rule(place=st.integers(0, 5), outcome=st.sampled_from(["succeeded", "failed", "given up"]))
    def ends(self, place: int, outcome: str) -> None:
        if not self.open:
            return
        attempt, manager = self.open.pop(place % len(self.open))
        if outcome == "succeeded":
            attempt.succeeded()
            if attempt is self.probe:
                self.opened, self.in_a_row = None, 0
            elif self.opened is None:
                self.in_a_row = 0
        elif outcome == "failed":
            attempt.failed()
            self.in_a_row += 1
            if attempt is self.probe or (self.opened is None and self.in_a_row >= FAILURES):
                self.opened = self.clock.now
        if attempt is self.probe:
            self.probe = None
        manager.__exit__(None, None, None)  # type: ignore[attr-defined]

    @invariant()
    def as_the_model_says(self) -> None:
        if self.opened is None:
            assert self.breaker.wait == 0
        elif self.probe is not None:
            assert self.breaker.wait > 0
        else:
            assert self.breaker.wait == pytest.approx(max(self.opened + PAUSE - self.clock.now, 0))


TestBreakers = Breakers.TestCase
TestBreakers.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
