"""How long calls may last, and where they go."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import pytest

from chatrpc.edge.routes import MAX_STREAM_DURATION
from chatrpc.settings import AuthSettings
from tests.edge.edge import Edge, edge_before, edge_before_two, until
from tests.edge.issuer import SigningKey
from tests.edge.upstream import CHAT, LIST_MESSAGES, Upstream, serve_upstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

# RFC 9113: a header of 9 bytes and 8 of its own.
PING_FRAME_BYTES = 17


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


async def test_a_silent_stream_outlives_the_pings_between_envoy_and_server(
    auth: AuthSettings, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatrpc.edge.clusters.UPSTREAM_KEEPALIVE", timedelta(milliseconds=50))
    async with serve_upstream() as upstream, edge_before(upstream.port, auth) as edge:
        call = edge.channel.stream_stream(CHAT)(metadata=(("authorization", f"Bearer {key.token()}"),), timeout=60)
        await call.write(b"before")
        assert await call.read() == b"before"
        sent = "cluster.chatrpc.upstream_cx_tx_bytes_total"
        before = await edge.figure(sent)

        async def twenty_pings_later() -> bool:
            return call.done() or await edge.figure(sent) >= before + 20 * PING_FRAME_BYTES

        await until(twenty_pings_later)
        await call.write(b"after")
        assert await call.read() == b"after"
        call.cancel()


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
