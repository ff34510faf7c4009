"""What of a caller's headers reaches the server."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest

from chatrpc.settings import AuthSettings
from tests.edge.edge import Edge, edge_before
from tests.edge.issuer import SigningKey
from tests.edge.upstream import LIST_MESSAGES, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

SPOOFED = ("x-user-id", "x-user-scopes", "x-token-roles", "x-token-subject", "x-token-expires-at", "x-envoy-retry-on")


async def test_spoofed_identity_headers_do_not_arrive(edge: Edge, upstream: Upstream, key: SigningKey) -> None:
    token = key.token(exp=4_000_000_000)
    await edge.call(LIST_MESSAGES, b"hello", token, *((name, "mallory") for name in SPOOFED))
    arrived = {name: value for name, value in upstream.last.metadata.items() if name in SPOOFED}
    assert arrived == {"x-token-subject": "alice", "x-token-expires-at": "4000000000"}


async def test_a_header_with_an_underscore_is_refused(edge: Edge, upstream: Upstream, key: SigningKey) -> None:
    before = len(upstream.arrivals)
    with pytest.raises(grpc.aio.AioRpcError):
        await edge.call(LIST_MESSAGES, b"hello", key.token(), ("x_user_id", "mallory"))
    assert len(upstream.arrivals) == before


async def test_whom_a_service_acts_for_arrives(edge: Edge, upstream: Upstream, key: SigningKey) -> None:
    await edge.call(LIST_MESSAGES, b"hello", key.token(), ("x-chatrpc-on-behalf-of", "bob"))
    assert upstream.last.metadata["x-chatrpc-on-behalf-of"] == "bob"


async def test_a_request_id_of_the_caller_is_kept(edge: Edge, upstream: Upstream, key: SigningKey) -> None:
    call = edge.channel.unary_unary(LIST_MESSAGES)(
        b"hello", metadata=(("authorization", f"Bearer {key.token()}"), ("x-request-id", "mine-1")), timeout=20
    )
    answered = dict(await call.initial_metadata())
    assert upstream.last.metadata["x-request-id"] == answered["x-request-id"] == "mine-1"


async def test_a_call_without_request_id_gets_one(edge: Edge, upstream: Upstream, key: SigningKey) -> None:
    await edge.call(LIST_MESSAGES, b"hello", key.token())
    first = upstream.last.metadata["x-request-id"]
    await edge.call(LIST_MESSAGES, b"hello", key.token())
    assert first
    assert upstream.last.metadata["x-request-id"] != first


async def test_the_access_log_has_every_call_and_no_token(
    upstream: Upstream, auth: AuthSettings, key: SigningKey, tmp_path: Path
) -> None:
    log = tmp_path / "envoy.log"
    token = key.token()
    async with edge_before(upstream.port, auth, log_path=log) as edge:
        await edge.call(LIST_MESSAGES, b"hello", token, ("x-request-id", "logged-1"))
        await edge.refusal(f"{LIST_MESSAGES}?access_token={token}", None, ("x-request-id", "logged-2"))
        await edge.http.get("/healthz")
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert [(line["request_id"], line["path"], line["grpc_status"]) for line in lines] == [
        ("logged-1", LIST_MESSAGES, "OK"),
        ("logged-2", LIST_MESSAGES, "Unauthenticated"),
    ]
    assert token not in text
    assert "alice" not in text
