"""Web pages: CORS and gRPC-web."""

from __future__ import annotations

import httpx
import pytest

from chatrpc.settings import AuthSettings
from tests.edge.edge import Edge, edge_before
from tests.edge.issuer import SigningKey
from tests.edge.upstream import LIST_MESSAGES, SEND_MESSAGE, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGE = "https://page.test"
TRAILERS = 0x80

# Requests that went on to the server, whatever their method; it refuses all but POST without a word to its handlers.
FORWARDED = "cluster.chatrpc.upstream_rq_total"


async def _preflight(edge: Edge, origin: str) -> httpx.Response:
    wanted = "authorization,content-type,x-grpc-web,x-user-agent,grpc-timeout,x-chatrpc-on-behalf-of,x-request-id"
    return await edge.http.options(
        LIST_MESSAGES,
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": wanted,
        },
    )


async def _post(edge: Edge, method: str, message: bytes, token: str | None, **headers: str) -> httpx.Response:
    """A gRPC-web call as a page makes it."""
    bearer = {"authorization": f"Bearer {token}"} if token is not None else {}
    return await edge.http.post(
        method,
        content=b"\0" + len(message).to_bytes(4) + message,
        headers={"origin": PAGE, "content-type": "application/grpc-web+proto", "x-grpc-web": "1"} | bearer | headers,
    )


def _frames(body: bytes) -> list[tuple[int, bytes]]:
    """The flags and contents of a gRPC-web body."""
    frames = []
    while body:
        length = int.from_bytes(body[1:5])
        frames.append((body[0], body[5 : 5 + length]))
        body = body[5 + length :]
    return frames


async def test_a_preflight_needs_no_token(edge: Edge) -> None:
    before = await edge.figure(FORWARDED)
    answer = await _preflight(edge, PAGE)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-methods"] == "POST"
    allowed = set(answer.headers["access-control-allow-headers"].split(","))
    assert allowed >= {"authorization", "content-type", "x-grpc-web", "x-user-agent", "grpc-timeout"}
    assert allowed >= {"x-chatrpc-on-behalf-of", "x-request-id"}
    assert "access-control-allow-credentials" not in answer.headers
    assert await edge.figure(FORWARDED) == before


async def test_a_page_of_another_origin_gets_no_permission(edge: Edge) -> None:
    before = await edge.figure(FORWARDED)
    answer = await _preflight(edge, "https://elsewhere.test")
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    assert await edge.figure(FORWARDED) == before


@pytest.mark.parametrize(("origins", "permission"), [(("*",), "https://any.test"), ((), None)])
async def test_origins_can_be_any_or_none(
    upstream: Upstream, auth: AuthSettings, origins: tuple[str, ...], permission: str | None
) -> None:
    async with edge_before(upstream.port, auth, allowed_origins=origins) as edge:
        answer = await _preflight(edge, "https://any.test")
        assert answer.status_code == 200
        assert answer.headers.get("access-control-allow-origin") == permission
        assert await edge.figure(FORWARDED) == 0


async def test_a_unary_call_by_grpc_web(edge: Edge, upstream: Upstream, key: SigningKey) -> None:
    answer = await _post(edge, LIST_MESSAGES, b"hello", key.token(), **{"X-User-Id": "mallory"})
    (flag, message), (trailer_flag, trailers) = _frames(answer.content)
    assert (flag, message) == (0, b"hello")
    assert trailer_flag == TRAILERS
    assert b"grpc-status:0" in trailers
    assert upstream.last.metadata["x-token-subject"] == "alice"
    assert "x-user-id" not in upstream.last.metadata


async def test_a_stream_by_grpc_web(edge: Edge, key: SigningKey) -> None:
    answer = await _post(edge, SEND_MESSAGE, b"hello", key.token())
    *messages, (trailer_flag, trailers) = _frames(answer.content)
    assert messages == [(0, b"hello")] * 3
    assert trailer_flag == TRAILERS
    assert b"grpc-status:0" in trailers


async def test_a_page_can_read_why_its_call_was_refused(edge: Edge) -> None:
    answer = await _post(edge, LIST_MESSAGES, b"hello", None)
    assert answer.headers["grpc-status"] == "16"
    assert answer.headers["access-control-allow-origin"] == PAGE
    exposed = set(answer.headers["access-control-expose-headers"].split(","))
    assert exposed == {"grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id"}
