"""Resuming and stopping a running reply, on its own server and on another: `uv run python -m bench.elsewhere`.

Two `chatrpc serve` processes share a PostgreSQL and a Redis; a provider on loopback speaks 50 tokens a second. For each
round, a message is sent to the first server; after some words, a client that was connected before resumes the reply
after the third event, on the first server or on the second, and the time to the first event is taken. Then the reply is
stopped there, and the time until the provider sees its connection gone is taken. Bars: p99 of 50 ms to resume on the
same server and of 100 ms on another one; p99 of 100 ms to stop. Eight rounds run at once, which two cores hardly have
the time for; `--at-once` says how many.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import grpc
import uvloop
from chatapi.v1 import chat_service_pb2 as pb
from chatapi.v1.chat_service_pb2_grpc import ChatServiceStub
from chatapi.v1.conversation_service_pb2 import CreateConversationRequest
from chatapi.v1.conversation_service_pb2_grpc import ConversationServiceStub
from chatapi.v1.message_pb2 import OutgoingMessage, Part, TextPart

from bench.served import run_servers, server_environment
from bench.table import percentile, print_table
from chatrpc.db.migrate import upgrade
from chatrpc.dev.issuer import LocalIssuer
from chatrpc.dev.postgres import run_postgres
from tests.support.provider import Answer, Provider
from tests.support.redis_server import RedisServer

RESUME_BARS = {"same server": 0.05, "other server": 0.1}
STOP_BAR = 0.1

Times = dict[str, list[float]]


class Rounds:
    """What the clients do, and the times that they took."""

    def __init__(self, provider: Provider, channels: list[grpc.aio.Channel], token: str) -> None:
        self.resumed: Times = {name: [] for name in RESUME_BARS}
        self.stopped: Times = {name: [] for name in RESUME_BARS}
        self._provider = provider
        self._chats = [ChatServiceStub(channel) for channel in channels]
        self._conversations = ConversationServiceStub(channels[0])
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def run(self, name: str) -> None:
        where = self._chats[list(RESUME_BARS).index(name)]
        key = uuid4().hex
        created = await self._conversations.CreateConversation(CreateConversationRequest(), metadata=self._metadata)
        message = OutgoingMessage(
            conversation_id=created.conversation.id, client_message_id=key, parts=[Part(text=TextPart(text=key))]
        )
        sending = self._chats[0].SendMessage(pb.SendMessageRequest(message=message), metadata=self._metadata)
        told = 0
        while told < 6:
            response = await sending.read()
            assert isinstance(response, pb.SendMessageResponse), "the reply has ended early"
            told = response.reply.sequence
        reply_id = response.reply.reply_id
        sending.cancel()
        began = time.perf_counter()
        request = pb.ResumeReplyRequest(reply_id=reply_id, attempt=1, after_sequence=3)
        resuming = where.ResumeReply(request, metadata=self._metadata)
        first = await resuming.read()
        self.resumed[name].append(time.perf_counter() - began)
        assert isinstance(first, pb.ResumeReplyResponse), "nothing was resumed"
        assert first.reply.sequence == 4, "it goes on with the next event"
        asked = next(each for each in self._provider.requests if each.body["messages"][-1]["content"].endswith(key))
        began = time.perf_counter()
        stopping = asyncio.ensure_future(
            where.CancelReply(pb.CancelReplyRequest(reply_id=reply_id), metadata=self._metadata)
        )
        await asked.wait_closed()
        self.stopped[name].append(time.perf_counter() - began)
        assert (await stopping).stopped, "it was running"
        resuming.cancel()


async def run(rounds: int, at_once: int) -> None:
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chatrpc-bench-")))
        issuer = LocalIssuer.create(scratch / "issuer")
        postgres = await stack.enter_async_context(run_postgres(scratch / "postgres"))
        redis = await stack.enter_async_context(RedisServer(scratch))
        provider = await stack.enter_async_context(Provider())
        provider.answer = lambda _: Answer(deltas=("token ",) * 1_000, rate=50.0)
        await asyncio.to_thread(upgrade, postgres.url)
        environment = server_environment(postgres.url, redis.url, issuer, provider.base_url) | {
            "CHATRPC_SERVER_DRAIN_DELAY": "0",
            "CHATRPC_SERVER_DRAIN_GRACE": "1",
            # However slow the machine, it is not this that is measured.
            "CHATRPC_SERVER_TARGET_DELAY_MS": "0",
        }
        servers = await stack.enter_async_context(run_servers(2, environment))
        targets = [server.target for server in servers]
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(target)) for target in targets]
        clients = Rounds(provider, channels, issuer.mint("alice"))
        # The first ones import and prepare what no later one does.
        for name in RESUME_BARS:
            await clients.run(name)
            clients.resumed[name].clear()
            clients.stopped[name].clear()
        names = list(RESUME_BARS) * rounds

        async def work() -> None:
            while names:
                await clients.run(names.pop())

        await asyncio.gather(*(work() for _ in range(at_once)))
    rows: list[list[object]] = []
    for title, times, bars in (
        ("resume", clients.resumed, RESUME_BARS),
        ("stop", clients.stopped, dict.fromkeys(RESUME_BARS, STOP_BAR)),
    ):
        for name, bar in bars.items():
            p50, p99 = (percentile(times[name], share) * 1000 for share in (0.5, 0.99))
            rows.append([f"{title}, {name}", len(times[name]), f"{p50:.1f}", f"{p99:.1f}", f"{bar * 1000:.0f}"])
    print_table(["", "rounds", "p50 ms", "p99 ms", "bar"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="of each kind")
    parser.add_argument("--at-once", type=int, default=8, help="rounds at a time")
    options = parser.parse_args()
    uvloop.run(run(options.rounds, options.at_once))


if __name__ == "__main__":
    main()
