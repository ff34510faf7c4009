"""One embedded stack for all end-to-end tests, each a user of its own; and what an operator sets to run the parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import grpc
import psycopg
import pytest
import pytest_asyncio

from chatrpc.dev.issuer import AUDIENCE, ISSUER, LocalIssuer
from chatrpc.dev.postgres import PostgresServer
from tests.e2e.commands import LOGIN, Variables, login_role
from tests.e2e.stack import Client, Dev, client, running_dev
from tests.support.provider import Provider


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    with running_dev(tmp_path_factory.mktemp("dev") / "data") as running:
        yield running


@pytest.fixture
def token(dev: Dev) -> str:
    """A token of a user of the test's own."""
    return dev.token_of(f"user-{uuid4().hex}")


@pytest.fixture(params=["edge", "direct"])
def door(request: pytest.FixtureRequest, dev: Dev) -> str:
    """`host:port`: through Envoy, and straight to the server."""
    return dev.doors[request.param]


@pytest_asyncio.fixture
async def person(door: str, token: str) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(door) as channel:
        yield client(channel, token)


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as opened:
        yield opened


@pytest.fixture
def issuer(tmp_path: Path) -> LocalIssuer:
    return LocalIssuer.create(tmp_path / "issuer")


@pytest_asyncio.fixture
async def variables(database_url: str, provider: Provider, issuer: LocalIssuer) -> Variables:
    """What an operator sets. The login is a member of the server's role, and nothing more."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await login_role(connection, LOGIN)
        await connection.execute(f"GRANT chatrpc_server TO {LOGIN}")
    return {
        "CHATRPC_DATABASE_URL": database_url.replace("//postgres@", f"//{LOGIN}@"),
        "CHATRPC_DATABASE_MIGRATION_URL": database_url,
        "CHATRPC_AUTH_ISSUER": ISSUER,
        "CHATRPC_AUTH_AUDIENCE": AUDIENCE,
        "CHATRPC_AUTH_JWKS_FILE": str(issuer.jwks_file),
        "CHATRPC_MODEL_BASE_URL": provider.base_url,
        "CHATRPC_MODEL_NAME": "test-model",
        "CHATRPC_SERVER_HOST": "127.0.0.1",
        "CHATRPC_SERVER_PORT": "0",
        "CHATRPC_SERVER_DRAIN_DELAY": "0",
    }


@pytest_asyncio.fixture
async def empty_url(postgres: PostgresServer) -> AsyncIterator[str]:
    name = f"empty_{uuid4().hex}"
    yield await postgres.create_database(name)
    await postgres.drop_database(name)
