"""One embedded stack for all end-to-end tests; each test is a user of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio

from tests.e2e.stack import Client, Dev, client, running_dev


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
