"""What callers hear when something is down, overloaded or draining."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from chatrpc.settings import AuthSettings
from tests.edge.edge import Edge, edge_before, edge_before_two, until
from tests.edge.issuer import SigningKey
from tests.edge.upstream import CHAT, FAIL, HANG, LIST_MESSAGES, REFUSAL, REFUSE, serve_upstream
from tests.support.ports import free_ports

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def _until_healthy(edge: Edge, servers: int) -> None:
    """Wait until Envoy counts so many healthy servers."""

    async def counted() -> bool:
        return await edge.figure("cluster.chatrpc.membership_healthy") == servers

    await until(counted)


async def test_without_a_server_calls_are_unavailable(auth: AuthSettings, key: SigningKey) -> None:
    async with edge_before(free_ports(1)[0], auth) as edge:
        assert (await edge.refusal(LIST_MESSAGES, key.token())).code() is grpc.StatusCode.UNAVAILABLE
        assert (await edge.refusal("/grpc.health.v1.Health/Check")).code() is grpc.StatusCode.UNAVAILABLE
        assert (await edge.http.get("/healthz")).status_code == 503


async def test_a_server_that_comes_up_late_is_found(auth: AuthSettings, key: SigningKey) -> None:
    async with serve_upstream() as upstream:
        await upstream.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        async with edge_before(upstream.port, auth) as edge:
            assert (await edge.refusal(LIST_MESSAGES, key.token())).code() is grpc.StatusCode.UNAVAILABLE
            await upstream.health.set("", health_pb2.HealthCheckResponse.SERVING)
            await _until_healthy(edge, 1)
            assert await edge.call(LIST_MESSAGES, b"hello", key.token()) == b"hello"
            assert (await edge.http.get("/healthz")).status_code == 200


async def test_a_draining_server_gets_no_new_call_and_keeps_its_streams(auth: AuthSettings, key: SigningKey) -> None:
    async with serve_upstream() as upstream, edge_before(upstream.port, auth) as edge:
        stream = edge.channel.stream_stream(CHAT)(metadata=(("authorization", f"Bearer {key.token()}"),), timeout=40)
        await stream.write(b"before")
        assert await stream.read() == b"before"
        await upstream.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        await _until_healthy(edge, 0)
        assert (await edge.refusal(LIST_MESSAGES, key.token())).code() is grpc.StatusCode.UNAVAILABLE
        await stream.write(b"after")
        assert await stream.read() == b"after"
        stream.cancel()


async def test_a_server_that_dies_during_a_call_makes_it_unavailable(auth: AuthSettings, key: SigningKey) -> None:
    async with serve_upstream() as upstream, edge_before(upstream.port, auth) as edge:
        call = asyncio.create_task(edge.call(LIST_MESSAGES, HANG, key.token()))
        await asyncio.wait_for(upstream.arrived.wait(), 20)
        assert upstream.server is not None
        await upstream.server.stop(None)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert len(upstream.arrivals) == 1


async def test_a_unary_call_that_takes_too_long_is_ended(
    auth: AuthSettings, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatrpc.edge.routes.UNARY_TIMEOUT", timedelta(milliseconds=100))
    async with serve_upstream() as upstream, edge_before(upstream.port, auth) as edge:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await edge.call(LIST_MESSAGES, HANG, key.token())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_server_is_not_ejected_for_what_it_answers(auth: AuthSettings, key: SigningKey) -> None:
    token = key.token()
    async with serve_upstream() as first, serve_upstream() as second, edge_before_two(first, second, auth) as edge:
        for _ in range(20):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await edge.call(LIST_MESSAGES, FAIL, token)
            assert caught.value.code() is grpc.StatusCode.UNKNOWN
        assert {len(first.arrivals), len(second.arrivals)} == {0, 20}
        assert await edge.figure("cluster.chatrpc.outlier_detection.ejections_enforced_total") == 0


async def test_a_refusal_for_overload_reaches_the_caller_whole_is_not_repeated_and_ejects_nobody(
    auth: AuthSettings, key: SigningKey
) -> None:
    token = key.token()
    async with serve_upstream() as first, serve_upstream() as second, edge_before_two(first, second, auth) as edge:
        for _ in range(20):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await edge.call(LIST_MESSAGES, REFUSE, token)
            assert rpc_status.from_call(caught.value) == REFUSAL
        # All of them by the user's own server: another one would only be overloaded next.
        assert {len(first.arrivals), len(second.arrivals)} == {0, 20}
        assert await edge.figure("cluster.chatrpc.upstream_rq_retry") == 0
        assert await edge.figure("cluster.chatrpc.outlier_detection.ejections_enforced_total") == 0
        assert await edge.figure("cluster.chatrpc.membership_healthy") == 2


async def test_too_many_calls_are_resource_exhausted(auth: AuthSettings, key: SigningKey) -> None:
    async with serve_upstream() as upstream, edge_before(upstream.port, auth, requests_per_second=1) as edge:
        token = key.token()
        calls = [edge.call(LIST_MESSAGES, b"hello", token) for _ in range(40)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert len(upstream.arrivals) == answers.count(b"hello") == len(answers) - len(refused)
        assert answers.count(b"hello") >= 1
