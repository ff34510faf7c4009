"""`chatrpc serve`, `worker`, `migrate` and `envoy`, as an operator runs them."""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from chatapi.v1 import chat_service_pb2 as chat_pb
from chatapi.v1 import conversation_service_pb2 as conversation_pb
from chatapi.v1.message_pb2 import MESSAGE_STATE_CANCELLED, MESSAGE_STATE_COMPLETE, Part, TextPart
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_status import rpc_status

from chatrpc.client import RetryPolicy, connect
from chatrpc.dev.issuer import LocalIssuer
from chatrpc.edge import validate
from tests.e2e.commands import Running, Variables, running
from tests.e2e.stack import PATIENCE, ROOT, SCRIPTS, Client, client, environment
from tests.e2e.test_bad_input import listed, outgoing, send
from tests.support.ports import free_port
from tests.support.provider import Answer, Provider


@asynccontextmanager
async def serving(variables: Variables, cwd: Path) -> AsyncIterator[tuple[Running, grpc.aio.Channel]]:
    """`chatrpc serve`, ready, and a channel to it."""
    async with running("serve", variables, cwd) as server:
        port = (await server.logged("listening"))["port"]
        await server.logged("ready")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield server, channel


async def stored(database_url: str) -> list[tuple[str, str, str, int]]:
    """Role, state, text and attempt of all messages, in order."""
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        rows = await connection.execute(
            "SELECT role, state, coalesce(parts->0->>'text', ''), attempt FROM messages ORDER BY sequence"
        )
        return await rows.fetchall()


def reason_of(status: Status) -> str:
    info = ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return info.reason


async def read(call: Any) -> Any:
    return await asyncio.wait_for(call.read(), PATIENCE)


async def read_until(call: Any, *kinds: str) -> Any:
    """The next response of one of these kinds, or with a reply event of one."""
    while True:
        response = await read(call)
        if not {response.WhichOneof("event"), response.reply.WhichOneof("event")}.isdisjoint(kinds):
            return response


async def test_it_listens_says_so_and_answers(variables: Variables, issuer: LocalIssuer, tmp_path: Path) -> None:
    async with serving(variables, tmp_path) as (server, channel):
        for service in ("", "chatapi.v1.ChatService", "chatapi.v1.ConversationService"):
            health = await HealthStub(channel).Check(HealthCheckRequest(service=service))
            assert health.status == HealthCheckResponse.SERVING
        alice = client(channel, issuer.mint("alice"))
        told = await send(alice, outgoing(await alice.conversation(), "Hello."))
        assert told[-1].reply.completed.message.parts[0].text.text == "You said: Hello."
        server.terminate()
        assert await server.ended() == 0
        assert server.output == []


async def test_a_drain_lets_a_running_reply_finish(
    variables: Variables, issuer: LocalIssuer, provider: Provider, database_url: str, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    provider.script(Answer(deltas=("one ", "two"), gate=gate, gate_at=1))
    async with serving(variables, tmp_path) as (server, channel):
        alice = client(channel, issuer.mint("alice"))
        health = HealthStub(channel).Watch(HealthCheckRequest())
        assert (await read(health)).status == HealthCheckResponse.SERVING
        conversation_id = await alice.conversation()
        chat = alice.chat.Chat(metadata=alice.metadata)
        await chat.write(chat_pb.ChatRequest(send=outgoing(conversation_id)))
        assert (await read_until(chat, "delta")).reply.delta.text == "one "

        server.terminate()
        assert (await read(health)).status == HealthCheckResponse.NOT_SERVING
        going_away = (await read_until(chat, "going_away")).going_away
        assert going_away.reason == chat_pb.GoingAway.REASON_DRAINING
        await chat.write(chat_pb.ChatRequest(request_id="late", send=outgoing(conversation_id, key="late")))
        rejected = (await read_until(chat, "rejected")).rejected
        assert (rejected.request_id, reason_of(rejected.status)) == ("late", "SERVER_DRAINING")

        gate.set()
        finished = await read_until(chat, "completed")
        assert finished.reply.completed.message.state == MESSAGE_STATE_COMPLETE
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await read(chat)
        status = rpc_status.from_call(ended.value)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(status) == "SERVER_DRAINING"
        assert await server.ended() == 0
    assert await stored(database_url) == [("user", "complete", "Hello.", 0), ("assistant", "complete", "one two", 1)]


async def test_calls_are_answered_while_load_balancers_learn_of_the_drain(
    variables: Variables, issuer: LocalIssuer, tmp_path: Path
) -> None:
    async with serving(variables | {"CHATRPC_SERVER_DRAIN_DELAY": "10"}, tmp_path) as (server, channel):
        alice = client(channel, issuer.mint("alice"))
        health = HealthStub(channel).Watch(HealthCheckRequest())
        assert (await read(health)).status == HealthCheckResponse.SERVING
        server.terminate()
        assert (await read(health)).status == HealthCheckResponse.NOT_SERVING
        told = await send(alice, outgoing(await alice.conversation()))
        assert told[-1].reply.WhichOneof("event") == "completed"
        assert await server.ended() == 0


async def test_a_reply_that_outlives_the_grace_keeps_its_text(
    variables: Variables, issuer: LocalIssuer, provider: Provider, database_url: str, tmp_path: Path
) -> None:
    provider.script(Answer(deltas=("one ", "two"), gate=asyncio.Event(), gate_at=1))
    async with serving(variables | {"CHATRPC_SERVER_DRAIN_GRACE": "0.5"}, tmp_path) as (server, channel):
        alice = client(channel, issuer.mint("alice"))
        call = alice.chat.SendMessage(
            chat_pb.SendMessageRequest(message=outgoing(await alice.conversation())), metadata=alice.metadata
        )
        await read_until(call, "delta")
        server.terminate()
        assert (await read_until(call, "going_away")).going_away.reason == chat_pb.GoingAway.REASON_DRAINING
        cut = (await read_until(call, "completed")).reply.completed.message
        assert (cut.state, cut.parts[0].text.text) == (MESSAGE_STATE_CANCELLED, "one ")
        assert cut.usage.estimated
        await (await provider.received()).wait_closed()
        assert await server.ended() == 0
    assert await stored(database_url) == [("user", "complete", "Hello.", 0), ("assistant", "cancelled", "one ", 1)]


async def test_a_killed_server_loses_and_doubles_nothing(
    variables: Variables, issuer: LocalIssuer, provider: Provider, database_url: str, tmp_path: Path
) -> None:
    variables |= {"CHATRPC_SERVER_PORT": str(free_port())}
    provider.script(Answer(deltas=("one ", "two"), gate=asyncio.Event(), gate_at=1))
    endpoint = f"127.0.0.1:{variables['CHATRPC_SERVER_PORT']}"
    async with (
        connect(endpoint, issuer.mint("alice"), retry=RetryPolicy(tries=1000, longest_delay=1.0)) as library,
        library.chat() as session,
    ):
        async with serving(variables, tmp_path) as (killed, channel):
            alice = client(channel, issuer.mint("alice"))
            message = outgoing(await alice.conversation())
            turn = await session.send(message)
            while turn.text != "one ":
                await asyncio.wait_for(anext(turn), PATIENCE)
            killed.process.kill()
            assert await killed.ended() == -signal.SIGKILL
        async with serving(variables, tmp_path) as (_, channel):
            alice = client(channel, issuer.mint("alice"))
            told, followed = await asyncio.gather(resent(alice, message), asyncio.wait_for(turn.reply(), PATIENCE))
            assert told[0].accepted.duplicate
            assert {response.reply.attempt for response in told[1:]} == {2}
            assert told[1].reply.WhichOneof("event") == "restarted"
            reply = told[-1].reply.completed.message
            assert (reply.state, reply.parts[0].text.text) == (MESSAGE_STATE_COMPLETE, "You said: Hello.")
            # Whoever followed from before the crash ends with the same reply.
            assert followed == reply
            assert (await listed(alice, message.conversation_id)).messages[1:] == [reply]
    assert await stored(database_url) == [
        ("user", "complete", "Hello.", 0),
        ("assistant", "complete", "You said: Hello.", 2),
    ]


async def resent(person: Client, message: Any) -> list[Any]:
    """Send again for as long as the reply is another process's, after the time that the server names."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await send(person, message)
            except grpc.aio.AioRpcError as error:
                status = rpc_status.from_call(error)
                assert reason_of(status) == "REPLY_HELD_ELSEWHERE"
                retry = RetryInfo()
                assert any(detail.Unpack(retry) for detail in status.details)
                assert retry.retry_delay.ToTimedelta().total_seconds() > 0
                await asyncio.sleep(retry.retry_delay.ToTimedelta().total_seconds())


async def test_a_separate_worker_remembers(
    variables: Variables, issuer: LocalIssuer, database_url: str, tmp_path: Path
) -> None:
    variables |= {
        "CHATRPC_SERVER_EMBEDDED_WORKER": "false",
        "CHATRPC_CONTEXT_HOT_PATH": "2",
        "CHATRPC_CONTEXT_FOLD": "2",
    }
    async with serving(variables, tmp_path) as (_, channel):
        alice = client(channel, issuer.mint("alice"))
        conversation_id = await alice.conversation()
        for number in range(3):
            await send(alice, outgoing(conversation_id, f"Fact number {number}.", key=str(number)))
        assert await remembered(database_url) == (0, 0, False)
        # It needs to know of no issuer.
        without_auth = {name: value for name, value in variables.items() if "_AUTH_" not in name}
        async with running("worker", without_auth, tmp_path) as worker:
            async with asyncio.timeout(PATIENCE):
                while await remembered(database_url) != (6, 4, True):
                    await asyncio.sleep(0.05)
            worker.terminate()
            assert await worker.ended() == 0
            assert worker.output == []
        preview = await alice.conversations.PreviewContext(
            conversation_pb.PreviewContextRequest(
                conversation_id=conversation_id, parts=[Part(text=TextPart(text="What do you know?"))]
            ),
            metadata=alice.metadata,
        )
        assert preview.report.summary.message_count == 4
        assert "Fact number 0." in "".join(each.content for each in preview.prompt)


async def remembered(database_url: str) -> tuple[int, int, bool]:
    """Messages with a vector, messages inside the newest summary, and whether no work is left."""
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        row = await connection.execute(
            "SELECT (SELECT count(DISTINCT message_id) FROM embeddings), "
            "(SELECT coalesce(max(anchor_depth), 0) FROM summaries), "
            "NOT EXISTS (SELECT FROM memory_tasks WHERE due_at IS NOT NULL)"
        )
        found = await row.fetchone()
        assert found is not None
        return found


@pytest.mark.parametrize("command", [("chatrpc", "migrate"), ("alembic", "upgrade", "head")])
async def test_migrating_twice_is_migrating_once(command: tuple[str, ...], empty_url: str) -> None:
    # The schema's owner migrates; the server's own login could not.
    urls = {"CHATRPC_DATABASE_URL": "postgresql://nobody@/none", "CHATRPC_DATABASE_MIGRATION_URL": empty_url}
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            SCRIPTS / command[0], *command[1:], cwd=ROOT, env=environment(**urls)
        )
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    async with await psycopg.AsyncConnection.connect(empty_url) as connection:
        found = await connection.execute("SELECT to_regclass('messages') IS NOT NULL, count(*) FROM alembic_version")
        assert await found.fetchone() == (True, 1)


async def test_envoy_accepts_the_bootstrap(variables: Variables) -> None:
    process = await asyncio.create_subprocess_exec(
        SCRIPTS / "chatrpc", "envoy", stdout=PIPE, stderr=PIPE, env=environment(**variables)
    )
    bootstrap, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert (process.returncode, errors) == (0, b"")
    await asyncio.to_thread(validate, bootstrap.decode())
