"""How the parts are put together."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from chatapi.v1.account_service_pb2 import GetUsageRequest
from chatapi.v1.account_service_pb2_grpc import AccountServiceStub
from chatapi.v1.chat_service_pb2 import SendMessageRequest
from chatapi.v1.chat_service_pb2_grpc import ChatServiceStub
from chatapi.v1.conversation_service_pb2 import CreateConversationRequest
from chatapi.v1.conversation_service_pb2_grpc import ConversationServiceStub

from chatrpc.db.engine import Database
from chatrpc.db.issuer import require_issuer
from chatrpc.db.vectors import VectorStore
from chatrpc.errors import SettingsError
from chatrpc.memory import MemorySettings, open_memory
from chatrpc.server import Settings, run_server
from chatrpc.settings import (
    AuthSettings,
    ContextSettings,
    DatabaseSettings,
    EmbedderSettings,
    KnowledgeSettings,
    ModelSettings,
    QuotaSettings,
    ServerSettings,
)
from tests.rpc.signer import AUDIENCE, ISSUER
from tests.rpc.stage import failure, outgoing, rest, signed_in, told, write_keys


@pytest.mark.parametrize(
    ("recorded", "configured", "expected"), [(None, None, 0.3), (0.42, None, 0.42), (0.42, 0.5, 0.5)]
)
async def test_the_floor_is_the_operators_else_the_measured_one_else_the_models(
    database: Database, database_url: str, recorded: float | None, configured: float | None, expected: float
) -> None:
    settings = MemorySettings(
        DatabaseSettings(url=database_url),
        ModelSettings(),
        EmbedderSettings(floor=configured),
        ContextSettings(),
        KnowledgeSettings(),
    )
    async with open_memory(settings) as memory:
        space_id = memory.space_id
    if recorded is not None:
        await VectorStore(database).record_floor(space_id, recorded)
    async with open_memory(settings) as memory:
        assert (memory.space_id, memory.embedder.space.floor) == (space_id, expected)
        assert (await memory.embedder.embed(["hello"])).shape == (1, memory.embedder.space.dimension)


async def test_a_server_of_another_issuer_than_the_databases_does_not_start(
    database: Database, database_url: str
) -> None:
    await require_issuer(database, "https://one")
    settings = MemorySettings(
        DatabaseSettings(url=database_url), ModelSettings(), EmbedderSettings(), ContextSettings(), KnowledgeSettings()
    )
    with pytest.raises(SettingsError, match="CHATRPC_AUTH_ISSUER"):
        async with open_memory(settings, "https://other"):
            pass


async def test_the_settings_quota_holds_for_whoever_has_no_other(database_url: str, tmp_path: Path) -> None:
    settings = Settings(
        MemorySettings(
            DatabaseSettings(url=database_url),
            ModelSettings(),
            EmbedderSettings(),
            ContextSettings(),
            KnowledgeSettings(),
        ),
        AuthSettings(issuer=ISSUER, audience=AUDIENCE, jwks_file=str(write_keys(tmp_path))),
        ServerSettings(host="127.0.0.1", port=0, drain_delay=0, embedded_worker=False),
        quota=QuotaSettings(window="month", tokens=0, claim="plan"),
    )
    async with (
        run_server(settings) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        created = await ConversationServiceStub(channel).CreateConversation(
            CreateConversationRequest(), metadata=signed_in()
        )
        request = SendMessageRequest(message=outgoing(created.conversation.id))
        refused = told(await failure(ChatServiceStub(channel).SendMessage(request, metadata=signed_in())))
        assert (refused.reason, refused.metadata["limit"]) == ("QUOTA_EXCEEDED", "0")
        freed = signed_in(plan={"tokens": None})
        assert await rest(ChatServiceStub(channel).SendMessage(request, metadata=freed))
        usage = await AccountServiceStub(channel).GetUsage(GetUsageRequest(), metadata=signed_in())
        assert (usage.quota.token_limit, usage.quota.used_turns) == (0, 1)
        assert [day.model for day in usage.days] == ["chatrpc-offline"]
