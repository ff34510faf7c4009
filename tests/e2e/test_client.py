"""The Python client over real servers: through both doors, across kills, drains and expiring tokens."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psycopg
import pytest
import pytest_asyncio
from chatapi.v1.conversation_service_pb2 import CreateConversationRequest, ListMessagesRequest
from chatapi.v1.message_pb2 import MESSAGE_STATE_COMPLETE, Message
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from chatrpc.client import CallError, ChatClient, RetryPolicy, StatusCode, Turn, connect, text_message
from chatrpc.dev.issuer import AUDIENCE, ISSUER, LocalIssuer
from tests.e2e.stack import PATIENCE, SCRIPTS, Dev, environment
from tests.support.answers import Answer, Fault
from tests.support.ports import free_port
from tests.support.provider import Provider

# As patient as the default, but quick, so that a server that is back is met at once.
QUICK = RetryPolicy(tries=2_000, first_delay=0.02, longest_delay=0.1)


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as opened:
        yield opened


@dataclass
class Place:
    """Where a `chatrpc serve` runs, one after another: the same port, database and issuer."""

    variables: dict[str, str]
    port: int
    issuer: LocalIssuer
    database_url: str

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            SCRIPTS / "chatrpc", "serve", env=environment(**self.variables), stderr=DEVNULL
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def dead_server_is_found_dead(self) -> None:
        """What time does some seconds after a server was killed."""
        async with await psycopg.AsyncConnection.connect(self.database_url) as connection:
            await connection.execute("UPDATE server_processes SET lease_until = now()")


@pytest.fixture
def place(database_url: str, provider: Provider, tmp_path: Path) -> Place:
    issuer = LocalIssuer.create(tmp_path / "issuer")
    port = free_port()
    variables = {
        "CHATRPC_DATABASE_URL": database_url,
        "CHATRPC_AUTH_ISSUER": ISSUER,
        "CHATRPC_AUTH_AUDIENCE": AUDIENCE,
        "CHATRPC_AUTH_JWKS_FILE": str(issuer.jwks_file),
        "CHATRPC_MODEL_BASE_URL": provider.base_url,
        "CHATRPC_MODEL_NAME": "test-model",
        "CHATRPC_SERVER_HOST": "127.0.0.1",
        "CHATRPC_SERVER_PORT": str(port),
        "CHATRPC_SERVER_DRAIN_DELAY": "0",
        "CHATRPC_SERVER_EMBEDDED_WORKER": "false",
    }
    return Place(variables, port, issuer, database_url)


async def draining(port: int) -> None:
    """Wait until a server says that it is being stopped."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        watching = HealthStub(channel).Watch(HealthCheckRequest())
        async for response in watching:
            if response.status == HealthCheckResponse.NOT_SERVING:
                break
        watching.cancel()


async def begun(client: ChatClient) -> str:
    created = await client.call(client.conversations.CreateConversation, CreateConversationRequest(request_id="one"))
    return created.conversation.id


async def stored(client: ChatClient, conversation_id: str) -> list[Message]:
    request = ListMessagesRequest(conversation_id=conversation_id)
    return list((await client.call(client.conversations.ListMessages, request)).messages)


async def until_told(turn: Turn, text: str) -> None:
    while text not in turn.text:
        await anext(turn)


def text_of(message: Message) -> str:
    return "".join(part.text.text for part in message.parts)


async def test_a_conversation_over_either_door(door: str, token: str) -> None:
    async with connect(door, token) as client, client.chat() as session:
        conversation_id = await begun(client)
        assert conversation_id == await begun(client)
        first = await session.send(text_message(conversation_id, "My sister lives in Lisbon."))
        told = [(event.attempt, event.sequence, event.WhichOneof("event")) async for event in first]
        second = await session.send(text_message(conversation_id, "Where does my sister live?"))
        await second.reply()
        assert "Lisbon" in second.text

        again = session.resume(first.reply_id)
        assert [(event.attempt, event.sequence, event.WhichOneof("event")) async for event in again] == told
        assert again.text == first.text == text_of(await first.reply())
        rest = session.resume(first.reply_id, 1, 2)
        assert [(event.attempt, event.sequence, event.WhichOneof("event")) async for event in rest] == told[2:]
        assert await first.cancel() is False
        assert [text_of(message) for message in await stored(client, conversation_id)] == [
            "My sister lives in Lisbon.",
            first.text,
            "Where does my sister live?",
            second.text,
        ]


async def test_errors_are_typed_over_either_door(door: str, token: str) -> None:
    async with connect(door, token, "bob") as client:
        with pytest.raises(CallError) as refused:
            await begun(client)
        assert (refused.value.code, refused.value.reason) == (StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    async with connect(door, token) as client, client.chat() as session:
        with pytest.raises(CallError) as empty:
            await session.send(text_message(await begun(client), ""))
        assert (empty.value.reason, empty.value.field) == ("INVALID_FIELD", "send.parts[0].text.text")
    async with connect(door, f"{token[:-8]}AAAAAAAA") as client, client.chat() as session:
        with pytest.raises(CallError) as unknown:
            await session.resume("01890000-0000-7000-8000-000000000000").reply()
        assert unknown.value.code is StatusCode.UNAUTHENTICATED


async def test_a_service_acts_for_a_user(dev: Dev, door: str) -> None:
    service = dev.token_of("helpdesk", scopes=("chat.act_as",))
    async with connect(door, service, "carol") as client, client.chat() as session:
        conversation_id = await begun(client)
        await (await session.send(text_message(conversation_id, "On her behalf."))).reply()
    async with connect(door, dev.token_of("carol")) as client:
        said, _ = (await stored(client, conversation_id))[:2]
        assert said.actor == "helpdesk"


async def test_a_server_that_is_killed_loses_and_doubles_nothing(place: Place, provider: Provider) -> None:
    provider.script(Answer(deltas=("It is ", "Mon"), fault=Fault.STALL), Answer(deltas=("It is ", "Tuesday.")))
    async with (
        asyncio.timeout(PATIENCE),
        connect(f"127.0.0.1:{place.port}", place.issuer.mint("alice"), retry=QUICK) as client,
        client.chat() as session,
    ):
        async with place.serving() as first:
            conversation_id = await begun(client)
            turn = await session.send(text_message(conversation_id, "What day is it?"))
            await until_told(turn, "It is Mon")
            first.kill()
        late = asyncio.create_task(session.send(text_message(conversation_id, "Really?")))
        await place.dead_server_is_found_dead()
        async with place.serving():
            kinds = [event.WhichOneof("event") async for event in turn]
            assert kinds[0] == "restarted"
            assert turn.text == "It is Tuesday."
            await (await late).reply()
            messages = await stored(client, conversation_id)
    assert [text_of(message) for message in messages][:3] == ["What day is it?", "It is Tuesday.", "Really?"]
    assert len(messages) == 4


async def test_a_server_that_drains_ends_its_reply_and_the_next_message_waits_for_another(
    place: Place, provider: Provider
) -> None:
    gate = asyncio.Event()
    provider.script(Answer(deltas=("first ", "half, ", "second ", "half"), gate=gate, gate_at=2))
    refused = asyncio.Event()
    async with (
        asyncio.timeout(PATIENCE),
        connect(
            f"127.0.0.1:{place.port}",
            place.issuer.mint("alice"),
            retry=QUICK,
            on_retry=lambda error, delay: error.reason == "SERVER_DRAINING" and refused.set(),
        ) as client,
        client.chat() as session,
    ):
        async with place.serving() as first:
            conversation_id = await begun(client)
            turn = await session.send(text_message(conversation_id, "one"))
            await until_told(turn, "first ")
            first.terminate()
            await draining(place.port)
            waiting = asyncio.create_task(session.send(text_message(conversation_id, "two")))
            await refused.wait()
            gate.set()
            reply = await turn.reply()
            assert reply.state == MESSAGE_STATE_COMPLETE
            assert turn.text == "first half, second half"
            assert await first.wait() == 0
        async with place.serving():
            await (await waiting).reply()
            messages = await stored(client, conversation_id)
    assert [text_of(message) for message in messages][:3] == ["one", "first half, second half", "two"]
    assert len(messages) == 4


async def test_a_turn_outlives_the_token_it_began_with(place: Place, provider: Provider) -> None:
    gate = asyncio.Event()
    provider.script(Answer(deltas=("before, ", "after"), gate=gate, gate_at=1))
    # The server's leeway for clocks that differ makes it last a few seconds.
    tokens = [place.issuer.mint("alice", ttl=0)]
    ends: list[CallError] = []

    async def token() -> str:
        return tokens[-1]

    def ended(error: CallError, delay: float) -> None:
        if error.code is StatusCode.UNAUTHENTICATED:
            ends.append(error)
            gate.set()

    async with asyncio.timeout(PATIENCE), place.serving():
        async with connect(f"127.0.0.1:{place.port}", place.issuer.mint("alice"), retry=QUICK) as other:
            conversation_id = await begun(other)
        tokens[:] = [place.issuer.mint("alice", ttl=0)]
        async with (
            connect(f"127.0.0.1:{place.port}", token, retry=QUICK, on_retry=ended) as client,
            client.chat() as session,
        ):
            turn = await session.send(text_message(conversation_id, "hello"))
            await until_told(turn, "before, ")
            tokens.append(place.issuer.mint("alice"))
            await turn.reply()
    assert [error.reason for error in ends] == ["TOKEN_EXPIRED"]
    assert turn.text == "before, after"
