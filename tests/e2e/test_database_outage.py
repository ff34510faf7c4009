"""The database is away at the start or during a turn: UNAVAILABLE with a time to come again, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from chatapi.v1 import chat_service_pb2 as chat_pb
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from chatrpc.db.migrate import upgrade
from chatrpc.dev.issuer import AUDIENCE, ISSUER, LocalIssuer
from chatrpc.dev.postgres import run_postgres
from chatrpc.memory import MemorySettings
from chatrpc.server import Settings, run_server
from chatrpc.settings import (
    AuthSettings,
    ContextSettings,
    DatabaseSettings,
    EmbedderSettings,
    KnowledgeSettings,
    ModelSettings,
    ServerSettings,
)
from tests.e2e.stack import PATIENCE, Client, client
from tests.e2e.test_bad_input import listed, outgoing, send
from tests.support.provider import Answer, Provider


class Outage:
    """A PostgreSQL that a test stops and starts, always on the same directory and so at the same URL."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = AsyncExitStack()
        self.url = ""

    async def start(self) -> None:
        postgres = await self._stack.enter_async_context(run_postgres(self._directory))
        self.url = postgres.url

    async def stop(self) -> None:
        await self._stack.aclose()


@pytest_asyncio.fixture
async def outage(tmp_path: Path) -> AsyncIterator[Outage]:
    database = Outage(tmp_path / "postgres")
    await database.start()
    await asyncio.to_thread(upgrade, database.url)
    yield database
    await database.stop()


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as opened:
        yield opened


@asynccontextmanager
async def served(outage: Outage, provider: Provider, tmp_path: Path, *, wait_ready: bool) -> AsyncIterator[Client]:
    issuer = LocalIssuer.create(tmp_path / "issuer")
    settings = Settings(
        MemorySettings(
            DatabaseSettings(url=outage.url, connect_timeout=0.5),
            ModelSettings(base_url=provider.base_url, name="test-model"),
            EmbedderSettings(),
            ContextSettings(),
            KnowledgeSettings(),
        ),
        AuthSettings(issuer=ISSUER, audience=AUDIENCE, jwks_file=str(issuer.jwks_file)),
        ServerSettings(host="127.0.0.1", port=0, drain_delay=0, drain_grace=1.0),
    )
    async with (
        run_server(settings, wait_ready=wait_ready) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield client(channel, issuer.mint("alice"))


def assert_come_again(error: grpc.aio.AioRpcError) -> None:
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    status = rpc_status.from_call(error)
    retry_info = RetryInfo()
    assert any(detail.Unpack(retry_info) for detail in status.details if detail.Is(RetryInfo.DESCRIPTOR))
    assert retry_info.retry_delay.ToTimedelta().total_seconds() > 0


async def once_available(attempt: object) -> object:
    """Try again as RetryInfo asks, until it works."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await attempt()  # type: ignore[operator]
            except grpc.aio.AioRpcError as error:
                assert_come_again(error)
                await asyncio.sleep(0.05)


async def test_a_server_that_starts_before_its_database(outage: Outage, provider: Provider, tmp_path: Path) -> None:
    await outage.stop()
    async with served(outage, provider, tmp_path, wait_ready=False) as alice:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await alice.conversation()
        assert_come_again(caught.value)
        await outage.start()
        conversation_id = await once_available(alice.conversation)
        told = await send(alice, outgoing(str(conversation_id)))
        assert told[-1].reply.WhichOneof("event") == "completed"


async def test_a_send_while_the_database_is_away_succeeds_afterwards_once(
    outage: Outage, provider: Provider, tmp_path: Path
) -> None:
    async with served(outage, provider, tmp_path, wait_ready=True) as alice:
        conversation_id = await alice.conversation()
        await outage.stop()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send(alice, outgoing(conversation_id))
        assert_come_again(caught.value)
        await outage.start()
        told = await once_available(lambda: send(alice, outgoing(conversation_id)))
        assert told[-1].reply.WhichOneof("event") == "completed"  # type: ignore[index]
        assert len((await listed(alice, conversation_id)).messages) == 2


async def test_a_reply_that_is_finished_while_the_database_is_away_is_stored_when_it_is_back(
    outage: Outage, provider: Provider, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    provider.script(Answer(deltas=("before ", "after"), gate=gate, gate_at=1))
    async with served(outage, provider, tmp_path, wait_ready=True) as alice:
        conversation_id = await alice.conversation()
        call = alice.chat.SendMessage(
            chat_pb.SendMessageRequest(message=outgoing(conversation_id)), metadata=alice.metadata
        )
        while (await call.read()).reply.WhichOneof("event") != "delta":
            pass
        await outage.stop()
        gate.set()
        assert (await call.read()).reply.delta.text == "after"
        await outage.start()
        last = await asyncio.wait_for(call.read(), PATIENCE)
        assert last.reply.WhichOneof("event") == "completed"
        [_, reply] = (await once_available(lambda: listed(alice, conversation_id))).messages  # type: ignore[attr-defined]
        assert reply == last.reply.completed.message
        assert reply.parts[0].text.text == "before after"
