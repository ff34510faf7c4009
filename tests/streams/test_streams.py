"""What counts as a loss of Redis."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from chatrpc.streams.streams import StreamsAway, _translated


@pytest.mark.parametrize(
    "failure",
    [
        RedisConnectionError("Connection lost."),
        ConnectionResetError(),
        TimeoutError(),
        # What the client library lets through where another task has closed the connection meanwhile.
        AttributeError("'NoneType' object has no attribute 'writelines'", obj=None),
        RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed"),
    ],
)
async def test_however_a_connection_ends_it_is_a_loss(failure: Exception) -> None:
    with pytest.raises(StreamsAway):
        async with _translated():
            raise failure


async def test_a_fault_of_ours_is_none() -> None:
    with pytest.raises(AttributeError):
        async with _translated():
            raise AttributeError("no such thing", obj=object())
