"""Which tokens pass the edge."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
import pytest_asyncio

from chatrpc.settings import AuthSettings
from tests.edge.edge import Edge, edge_before
from tests.edge.issuer import AUDIENCE, ISSUER, SigningKey, handmade
from tests.edge.upstream import CHAT, LIST_MESSAGES, REFLECT, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def edge_for_clients(upstream: Upstream, auth: AuthSettings) -> AsyncIterator[Edge]:
    """An edge that knows two clients, and no audience, as with AWS Cognito."""
    clients = AuthSettings(issuer=auth.issuer, jwks_file=auth.jwks_file, client_ids=("web", "batch"))
    async with edge_before(upstream.port, clients) as running:
        yield running


def _claims() -> dict[str, object]:
    return {"iss": ISSUER, "sub": "alice", "aud": AUDIENCE, "exp": int(time.time()) + 3600}


def _signed_with_public_key(key: SigningKey) -> str:
    """HS256 with the public key as the secret: good where a verifier takes the token's word for the algorithm."""
    header = {"alg": "HS256", "typ": "JWT", "kid": key.kid}
    parts = [urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, _claims())]
    return handmade(header, _claims(), hmac.digest(key.public_pem.encode(), b".".join(parts), hashlib.sha256))


BAD_TOKENS: dict[str, Callable[[SigningKey], str | None]] = {
    "missing": lambda key: None,
    "no token at all": lambda key: "nonsense",
    "expired": lambda key: key.token(exp=int(time.time()) - 3600),
    "without expiry": lambda key: key.token(without="exp"),
    "not yet valid": lambda key: key.token(nbf=int(time.time()) + 3600),
    "of a foreign issuer": lambda key: key.token(iss="https://elsewhere.test"),
    "without issuer": lambda key: key.token(without="iss"),
    "for another audience": lambda key: key.token(aud="another"),
    "without audience": lambda key: key.token(without="aud"),
    "by another key": lambda key: SigningKey(key.kid).token(),
    "alg none": lambda key: handmade({"alg": "none", "typ": "JWT"}, _claims()),
    "alg none with a signature": lambda key: handmade({"alg": "none", "kid": key.kid}, _claims(), b"signature"),
    "HS256 with the public key": _signed_with_public_key,
}


async def test_a_valid_token_passes_and_reaches_the_server(edge: Edge, upstream: Upstream, key: SigningKey) -> None:
    token = key.token()
    assert await edge.call(LIST_MESSAGES, b"hello", token) == b"hello"
    assert upstream.last.metadata["authorization"] == f"Bearer {token}"


@pytest.mark.parametrize("kind", BAD_TOKENS)
@pytest.mark.parametrize("method", [LIST_MESSAGES, CHAT, REFLECT], ids=["unary", "stream", "reflection"])
async def test_a_bad_token_is_unauthenticated(
    edge: Edge, upstream: Upstream, key: SigningKey, kind: str, method: str
) -> None:
    before = len(upstream.arrivals)
    error = await edge.refusal(method, BAD_TOKENS[kind](key))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert len(upstream.arrivals) == before


async def test_a_token_in_the_address_is_not_read(edge: Edge, key: SigningKey) -> None:
    error = await edge.refusal(f"{LIST_MESSAGES}?access_token={key.token()}")
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_another_scheme_than_bearer_is_not_read(edge: Edge, key: SigningKey) -> None:
    error = await edge.refusal(LIST_MESSAGES, None, ("authorization", f"Basic {key.token()}"))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_unknown_methods_need_a_token_and_are_unimplemented(
    edge: Edge, upstream: Upstream, key: SigningKey
) -> None:
    before = len(upstream.arrivals)
    for method in ("/chatapi.v1.NoService/Get", "/chatapi.v1.ChatService", "/other.v1.Service/Get"):
        assert (await edge.refusal(method)).code() is grpc.StatusCode.UNAUTHENTICATED
        assert (await edge.refusal(method, key.token())).code() is grpc.StatusCode.UNIMPLEMENTED
    assert len(upstream.arrivals) == before


async def test_health_needs_no_token(edge: Edge) -> None:
    assert await edge.channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20) == b"\x08\x01"
    watch = edge.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=20)
    assert await watch.read() == b"\x08\x01"
    watch.cancel()


async def test_a_way_around_by_path_is_refused(edge: Edge, upstream: Upstream) -> None:
    before = len(upstream.arrivals)
    for path in (
        f"/grpc.health.v1.Health/..{LIST_MESSAGES}",
        f"/grpc.health.v1.Health/%2e%2e{LIST_MESSAGES}",
        f"/{LIST_MESSAGES}",
    ):
        assert (await edge.refusal(path)).code() is grpc.StatusCode.UNAUTHENTICATED
    # A slash in disguise is no request at all: 400, which gRPC reads as INTERNAL.
    escaped = await edge.refusal(f"/grpc.health.v1.Health/..%2f{LIST_MESSAGES[1:]}")
    assert escaped.code() is grpc.StatusCode.INTERNAL
    assert len(upstream.arrivals) == before


@pytest.mark.parametrize(
    ("claims", "admitted"),
    [
        ({"client_id": "web"}, True),
        ({"client_id": "batch", "token_use": "access"}, True),
        ({"client_id": "web", "token_use": "id"}, False),
        ({"client_id": "another"}, False),
        ({"client_id": ["web"]}, False),
        ({}, False),
    ],
)
async def test_only_named_clients_pass_where_clients_are_named(
    edge_for_clients: Edge, key: SigningKey, claims: dict[str, object], admitted: bool
) -> None:
    token = key.token(without="aud", **claims)
    if admitted:
        assert await edge_for_clients.call(LIST_MESSAGES, b"hello", token) == b"hello"
    else:
        error = await edge_for_clients.refusal(LIST_MESSAGES, token)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_health_stays_open_where_clients_are_named(edge_for_clients: Edge) -> None:
    assert await edge_for_clients.channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20) == b"\x08\x01"
