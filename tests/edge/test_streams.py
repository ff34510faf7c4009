"""How long calls may last, and where they go."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from chatrpc.edge.routes import MAX_STREAM_DURATION
from chatrpc.settings import AuthSettings
from tests.edge.edge import Edge, edge_before_two
from tests.edge.issuer import SigningKey
from tests.edge.upstream import CHAT, LIST_MESSAGES, Upstream, serve_upstream

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_chat_goes_both_ways_at_the_same_time(edge: Edge, key: SigningKey) -> None:
    call = edge.channel.stream_stream(CHAT)(metadata=(("authorization", f"Bearer {key.token()}"),), timeout=20)
    for message in (b"one", b"two"):
        await call.write(message)
        assert await call.read() == message
    await call.done_writing()
    assert await call.read() == grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_message_of_a_megabyte_passes(edge: Edge, key: SigningKey) -> None:
    message = bytes(1024 * 1024)
    assert await edge.call(LIST_MESSAGES, message, key.token()) == message


async def test_a_stream_without_deadline_gets_the_longest_one(edge: Edge, upstream: Upstream, key: SigningKey) -> None:
    call = edge.channel.stream_stream(CHAT)(metadata=(("authorization", f"Bearer {key.token()}"),))
    await call.write(b"one")
    await asyncio.wait_for(call.read(), 20)
    call.cancel()
    remaining = upstream.last.time_remaining
    assert remaining is not None
    assert MAX_STREAM_DURATION.total_seconds() - 60 < remaining <= MAX_STREAM_DURATION.total_seconds() + 1


async def test_a_callers_deadline_reaches_the_server(edge: Edge, upstream: Upstream, key: SigningKey) -> None:
    call = edge.channel.stream_stream(CHAT)(metadata=(("authorization", f"Bearer {key.token()}"),), timeout=20)
    await call.write(b"one")
    await call.read()
    call.cancel()
    assert upstream.last.time_remaining is not None
    assert upstream.last.time_remaining < 21


async def test_a_user_keeps_a_server_whoever_calls_for_them(auth: AuthSettings, key: SigningKey) -> None:
    users = [f"user-{number}" for number in range(24)]
    async with serve_upstream() as first, serve_upstream() as second, edge_before_two(first, second, auth) as edge:
        servers = (first, second)

        async def server_of(token: str, *metadata: tuple[str, str]) -> int:
            counts = [len(server.arrivals) for server in servers]
            await edge.call(LIST_MESSAGES, b"hello", token, *metadata)
            return next(i for i, server in enumerate(servers) if len(server.arrivals) > counts[i])

        own = [await server_of(key.token(sub=user)) for user in users]
        again = [await server_of(key.token(sub=user)) for user in users]
        service = key.token(sub="service")
        for_them = [await server_of(service, ("x-chatrpc-on-behalf-of", user)) for user in users]
    assert again == own
    assert for_them == own
    assert set(own) == {0, 1}
