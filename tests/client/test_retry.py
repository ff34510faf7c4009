"""Waits grow, are bounded, differ from client to client, and are never shorter than the server asks."""

from __future__ import annotations

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from chatrpc.client import CallError, RetryPolicy
from chatrpc.client.credentials import Credentials
from chatrpc.client.retry import Backoff

failures = st.integers(1, 10_000)
draws = st.floats(0, 1)
policies = st.builds(RetryPolicy, first_delay=st.floats(0.001, 10), longest_delay=st.floats(0.001, 100))
USED = (("authorization", "Bearer token"),)


@given(policies, failures, draws)
def test_a_wait_is_bounded_and_at_least_half_its_bound(policy: RetryPolicy, failures: int, draw: float) -> None:
    delay = policy.delay(failures, None, draw)
    bound = min(policy.longest_delay, policy.first_delay * 2.0 ** min(failures - 1, 32))
    assert bound / 2 <= delay <= bound


@given(policies, failures, st.floats(0, 1_000), draws)
def test_a_wait_is_never_shorter_than_the_server_asks(
    policy: RetryPolicy, failures: int, asked: float, draw: float
) -> None:
    assert policy.delay(failures, asked, draw) >= asked


def test_clients_told_the_same_time_do_not_come_back_together() -> None:
    policy = RetryPolicy()
    assert policy.delay(1, 5.0, 0.1) != policy.delay(1, 5.0, 0.9)


def test_the_defaults_outlast_a_drain() -> None:
    policy = RetryPolicy()
    waits = [sum(policy.delay(failures, None, draw) for failures in range(1, policy.tries)) for draw in (0, 0.5)]
    assert waits[0] > 30
    assert 45 < waits[1] < 47


async def test_a_wait_longer_than_the_policy_admits_ends_the_trying() -> None:
    heard: list[float] = []
    policy = RetryPolicy(longest_request=60)
    backoff = Backoff(policy, Credentials("token", None), lambda error, delay: heard.append(delay))
    error = CallError(StatusCode.UNAVAILABLE, "Come tomorrow.", retry_after=86_400)
    with pytest.raises(CallError) as caught:
        await backoff.pause(error, USED)
    assert caught.value is error
    assert heard == []


@pytest.mark.parametrize(
    ("error", "temporary"),
    [
        (CallError(StatusCode.UNAVAILABLE, "connection refused"), True),
        (CallError(StatusCode.UNAVAILABLE, "", reason="SERVER_DRAINING"), True),
        (CallError(StatusCode.INTERNAL, "RST_STREAM"), True),
        (CallError(StatusCode.INTERNAL, "", reason="INTERNAL"), False),
        (CallError(StatusCode.RESOURCE_EXHAUSTED, "", reason="TOO_MANY_TURNS"), False),
        (CallError(StatusCode.RESOURCE_EXHAUSTED, "", retry_after=1.0), True),
        (CallError(StatusCode.DEADLINE_EXCEEDED, ""), False),
        (CallError(StatusCode.ALREADY_EXISTS, "", reason="CLIENT_MESSAGE_ID_REUSED"), False),
    ],
)
def test_only_what_may_pass_is_temporary(error: CallError, temporary: bool) -> None:
    assert error.temporary is temporary
