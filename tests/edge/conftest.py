from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chatrpc.settings import AuthSettings
from tests.edge.edge import Edge, edge_before
from tests.edge.issuer import AUDIENCE, ISSUER, SigningKey, key_set
from tests.edge.upstream import Upstream, serve_upstream


@pytest.fixture(scope="session")
def key() -> SigningKey:
    """The issuer's key."""
    return SigningKey("first")


@pytest.fixture(scope="session")
def auth(key: SigningKey, tmp_path_factory: pytest.TempPathFactory) -> AuthSettings:
    """Settings that trust the issuer's key, from a file."""
    file = tmp_path_factory.mktemp("keys") / "jwks.json"
    file.write_text(key_set(key))
    return AuthSettings(issuer=ISSUER, jwks_file=str(file), audience=AUDIENCE)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def upstream() -> AsyncIterator[Upstream]:
    """A server that no test breaks."""
    async with serve_upstream() as serving:
        yield serving


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def edge(upstream: Upstream, auth: AuthSettings) -> AsyncIterator[Edge]:
    """Envoy before that server, which pages of one origin may call."""
    async with edge_before(upstream.port, auth, allowed_origins=("https://page.test",)) as running:
        yield running
