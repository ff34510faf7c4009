"""Two server processes that share a database and a Redis, behind one Envoy."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest_asyncio
from chatapi.v1 import chat_service_pb2 as chat_pb
from chatapi.v1.message_pb2 import MESSAGE_STATE_CANCELLED, MESSAGE_STATE_COMPLETE

from chatrpc.client import RetryPolicy, connect
from chatrpc.dev.issuer import AUDIENCE, ISSUER, LocalIssuer
from chatrpc.settings import AuthSettings
from chatrpc.turns.lease import LEASE
from tests.e2e.commands import Running, Variables, running
from tests.e2e.stack import PATIENCE, Client, client
from tests.e2e.test_bad_input import outgoing
from tests.e2e.test_serve import read_until
from tests.edge.edge import edge_before_two, until
from tests.edge.upstream import Upstream
from tests.support.ports import free_port
from tests.support.provider import Answer, Provider
from tests.support.redis_server import RedisServer

# From SIGKILL of a reply's process to the next attempt's first event.
TAKEOVER = LEASE.total_seconds() + 5
PATIENT = RetryPolicy(tries=1000, longest_delay=0.5)


@dataclass
class Server:
    """One of the two; it can be started again on its port."""

    port: int
    variables: Variables
    cwd: Path
    stack: AsyncExitStack
    running: Running

    async def start(self) -> None:
        variables = self.variables | {"CHATRPC_SERVER_PORT": str(self.port)}
        self.running = await self.stack.enter_async_context(running("serve", variables, self.cwd))
        await self.running.logged("ready")

    async def kill(self) -> None:
        self.running.process.kill()
        assert await self.running.ended() == -signal.SIGKILL

    async def restart(self) -> None:
        self.running.terminate()
        assert await self.running.ended() == 0
        await self.start()


@dataclass
class Pair:
    """Both, the address of Envoy before them, and a person who calls each directly."""

    servers: list[Server]
    endpoint: str
    token: str
    people: list[Client]


@pytest_asyncio.fixture
async def pair(variables: Variables, issuer: LocalIssuer, tmp_path: Path) -> AsyncIterator[Pair]:
    async with RedisServer(tmp_path) as redis, AsyncExitStack() as stack:
        # Envoy asks for their health every two seconds.
        variables = variables | {"CHATRPC_REDIS_URL": redis.url, "CHATRPC_SERVER_DRAIN_DELAY": "4"}
        servers = [Server(free_port(), variables, tmp_path, stack, cast("Any", None)) for _ in range(2)]
        await asyncio.gather(*(server.start() for server in servers))
        auth = AuthSettings(issuer=ISSUER, audience=AUDIENCE, jwks_file=str(issuer.jwks_file))
        first, second = [cast("Upstream", SimpleNamespace(port=server.port)) for server in servers]
        edge = await stack.enter_async_context(edge_before_two(first, second, auth))

        async def both_healthy() -> bool:
            return await edge.figure("cluster.chatrpc.membership_healthy") == 2

        await until(both_healthy)
        token = issuer.mint("alice")
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")) for server in servers
        ]
        yield Pair(servers, f"127.0.0.1:{edge.port}", token, [client(channel, token) for channel in channels])


async def rest(call: Any) -> list[Any]:
    """The events of a reply until the end of the call."""
    told = []
    async with asyncio.timeout(PATIENCE):
        while (response := await call.read()) is not grpc.aio.EOF:
            if response.HasField("reply"):
                told.append(response.reply)
    return told


async def test_a_reply_is_resumed_and_stopped_on_the_other_server(pair: Pair, provider: Provider) -> None:
    gate = asyncio.Event()
    provider.script(Answer(deltas=("Hel", "lo"), gate=gate, gate_at=1))
    provider.script(Answer(deltas=("half ", "never"), gate=asyncio.Event(), gate_at=1))
    one, other = pair.people
    conversation_id = await one.conversation()
    for text in ("first", "second"):
        sending = one.chat.SendMessage(
            chat_pb.SendMessageRequest(message=outgoing(conversation_id, key=text)), metadata=one.metadata
        )
        delta = (await read_until(sending, "delta")).reply
        resuming = other.chat.ResumeReply(
            chat_pb.ResumeReplyRequest(reply_id=delta.reply_id, attempt=1, after_sequence=1), metadata=other.metadata
        )
        assert (await read_until(resuming, "delta")).reply == delta
        if text == "first":
            gate.set()
        else:
            stopped = await other.chat.CancelReply(
                chat_pb.CancelReplyRequest(reply_id=delta.reply_id), metadata=other.metadata
            )
            assert stopped.stopped
            await (await provider.received(2)).wait_closed()
        here, there = await rest(sending), await rest(resuming)
        assert here == there
        message = here[-1].completed.message
        assert (message.state, message.parts[0].text.text) == (
            (MESSAGE_STATE_COMPLETE, "Hello") if text == "first" else (MESSAGE_STATE_CANCELLED, "half ")
        )


async def test_a_killed_servers_replies_are_taken_over_in_time(pair: Pair, provider: Provider) -> None:
    provider.script(Answer(deltas=("lost ", "never"), gate=asyncio.Event(), gate_at=1))
    provider.script(Answer(deltas=("kept",)))
    one, other = pair.people
    conversation_id = await one.conversation()
    sending = one.chat.SendMessage(chat_pb.SendMessageRequest(message=outgoing(conversation_id)), metadata=one.metadata)
    delta = (await read_until(sending, "delta")).reply
    following = other.chat.ResumeReply(chat_pb.ResumeReplyRequest(reply_id=delta.reply_id), metadata=other.metadata)
    assert (await read_until(following, "delta")).reply == delta
    await pair.servers[0].kill()
    killed = time.monotonic()
    # Whoever follows on the other server need not call again.
    restarted = (await read_until(following, "restarted")).reply
    taken = time.monotonic() - killed
    print(f"takeover {taken:.1f} s")
    assert taken <= TAKEOVER
    assert (restarted.attempt, restarted.sequence) == (2, 1)
    told = await rest(following)
    assert [event.sequence for event in told] == [2, 3, 4]
    assert told[-1].completed.message.parts[0].text.text == "kept"


async def test_a_rolling_restart_costs_a_client_that_follows_no_turn(pair: Pair, provider: Provider) -> None:
    words = tuple(f"word{number} " for number in range(100))
    provider.answer = lambda _: Answer(deltas=words, rate=50.0)
    done = asyncio.Event()
    turns = 0

    @asynccontextmanager
    async def talking() -> AsyncIterator[Any]:
        async with connect(pair.endpoint, pair.token, retry=PATIENT) as library, library.chat() as session:
            yield session

    async def talk() -> None:
        nonlocal turns
        conversation_id = await pair.people[turns % 2].conversation()
        async with talking() as session:
            number = 0
            while not done.is_set():
                turn = await session.send(outgoing(conversation_id, key=str(number)))
                reply = await turn.reply()
                assert reply.state == MESSAGE_STATE_COMPLETE
                assert reply.parts[0].text.text == "".join(words)
                assert reply.sequence == 2 * number + 2
                number += 1
                turns += 1

    async with asyncio.TaskGroup() as people:
        for _ in range(6):
            people.create_task(talk())
        for server in pair.servers:
            await server.restart()
            # Envoy learns of it within its interval.
            await asyncio.sleep(5)
        done.set()
    print(f"{turns} turns over two restarts")
    assert turns >= 12
