"""The command; see `bench.turn_cpu`."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median

import grpc
import uvloop
from chatapi.v1.chat_service_pb2 import ChatRequest, ChatResponse
from chatapi.v1.chat_service_pb2_grpc import ChatServiceStub
from chatapi.v1.conversation_service_pb2 import CreateConversationRequest
from chatapi.v1.conversation_service_pb2_grpc import ConversationServiceStub
from chatapi.v1.message_pb2 import OutgoingMessage, Part, TextPart
from google.protobuf.duration_pb2 import Duration

import bench.turn_cpu
from bench.child import Child, run_child
from bench.table import print_table
from bench.turn_cpu.servers import HURRY
from chatrpc.settings import ServerSettings

BAR = 0.6
# Ten messages are a window's least; the rounds take it towards its most.
PAST_TURNS = 5
# Seconds over which the streams of a round begin. If all began at once, their tokens would come at the same instants
# and share the loop's turns and the connection's writes, as those of real users do not.
SPREAD = 1.0
BARE = "bare grpc.aio, a message a token"
BARE_COALESCED = "bare grpc.aio, coalesced"
COALESCED = "chatrpc, coalesced"
EACH_TOKEN = "chatrpc, a message a token"


@dataclass(slots=True)
class Side:
    """One way of answering, and what its rounds have shown.

    Attributes:
        window: The coalescing window that its messages ask for.
        conversations: One for each stream.
        cpu: Seconds of the server a turn, one a round.
        messages: Messages with text a turn, one a round.
        seconds: Length of the longest turn, one a round.
    """

    child: Child
    window: Duration | None
    streams: list[grpc.aio.StreamStreamCall[ChatRequest, ChatResponse]]
    conversations: list[str]
    cpu: list[float] = field(default_factory=list)
    messages: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    async def round(self, text: str) -> None:
        """A turn on every stream at once."""
        before = (await self.child.ask())["cpu"]
        turns = zip(self.streams, self.conversations, strict=True)
        told = await asyncio.gather(*(self._turn(stream, conversation, text) for stream, conversation in turns))
        self.cpu.append(((await self.child.ask())["cpu"] - before) / len(self.streams))
        self.messages.append(sum(messages for messages, _ in told) / len(told))
        self.seconds.append(max(seconds for _, seconds in told))

    async def _turn(
        self, stream: grpc.aio.StreamStreamCall[ChatRequest, ChatResponse], conversation_id: str, text: str
    ) -> tuple[int, float]:
        """Messages with text, and seconds."""
        await asyncio.sleep(random.uniform(0, SPREAD))
        message = OutgoingMessage(
            conversation_id=conversation_id,
            client_message_id=f"{random.getrandbits(64):x}",
            parts=[Part(text=TextPart(text=text))],
            coalesce_window=self.window,
        )
        started = time.monotonic()
        await stream.write(ChatRequest(request_id="turn", send=message))
        messages = 0
        while True:
            response = await stream.read()
            assert isinstance(response, ChatResponse), "the stream has ended"
            match response.reply.WhichOneof("event"):
                case "delta":
                    messages += 1
                case "completed":
                    return messages, time.monotonic() - started
                case "failed":
                    raise RuntimeError(response.reply.failed.status.message)

    def forget(self) -> None:
        self.cpu.clear()
        self.messages.clear()
        self.seconds.clear()


@asynccontextmanager
async def sides(options: argparse.Namespace) -> AsyncIterator[Mapping[str, Side]]:
    arguments = (str(options.tokens), str(options.rate))
    module = "bench.turn_cpu.servers"
    async with (
        run_child(module, "bare", *arguments) as bare,
        run_child(module, "chatrpc", *arguments) as chatrpc,
        grpc.aio.insecure_channel(bare.ready["target"]) as bare_channel,
        grpc.aio.insecure_channel(chatrpc.ready["target"]) as channel,
    ):
        metadata = (("authorization", f"Bearer {chatrpc.ready['token']}"),)
        conversations = ConversationServiceStub(channel)

        async def side(window: Duration | None) -> Side:
            ids: list[str] = []
            for _ in range(options.streams):
                created = await conversations.CreateConversation(CreateConversationRequest(), metadata=metadata)
                ids.append(created.conversation.id)
            streams = [ChatServiceStub(channel).Chat(metadata=metadata) for _ in range(options.streams)]
            return Side(chatrpc, window, streams, ids)

        def bare_side(window: Duration | None) -> Side:
            streams = [ChatServiceStub(bare_channel).Chat() for _ in range(options.streams)]
            return Side(bare, window, streams, [""] * options.streams)

        default = Duration()
        default.FromMilliseconds(ServerSettings.model_fields["coalesce_ms"].default)
        yield {
            BARE: bare_side(None),
            BARE_COALESCED: bare_side(default),
            COALESCED: await side(default),
            EACH_TOKEN: await side(Duration()),
        }


async def compare(options: argparse.Namespace) -> None:
    async with sides(options) as compared:
        for name in (COALESCED, EACH_TOKEN):
            for _ in range(PAST_TURNS):
                await compared[name].round(HURRY)
            compared[name].forget()
        for _ in range(options.rounds):
            for name in random.sample(list(compared), len(compared)):
                await compared[name].round("Tell me something.")
        pace = (await compared[BARE].child.ask(f"pace {options.streams} {SPREAD}"))["cpu"] / options.streams
    bare = median(compared[BARE].cpu)
    rows: list[list[object]] = []
    for name, each in compared.items():
        cpu = median(each.cpu)
        ratios = [mine / other for mine, other in zip(each.cpu, compared[BARE].cpu, strict=True)]
        over_rounds = f"{min(ratios):.2f} to {max(ratios):.2f}"
        net = f"{(cpu - pace) / (bare - pace):.2f}"
        told = f"{median(each.messages):.0f}", f"{median(each.seconds):.2f}"
        rows.append([name, f"{1_000 * cpu:.2f}", f"{cpu / bare:.2f}", over_rounds, net, *told])
    rows.append(["the pace of the tokens alone", f"{1_000 * pace:.2f}", f"{pace / bare:.2f}", *[None] * 4])
    print(f"{options.streams} streams, {options.tokens} tokens at {options.rate:g}/s, {options.rounds} rounds\n")
    print_table(
        ["server CPU of a turn", "ms", "ratio", "over the rounds", "less the pace", "messages", "seconds"], rows
    )
    ratio = median(compared[COALESCED].cpu) / bare
    print(f"\nbar: chatrpc, coalesced, at most {BAR} of a message a token: {'met' if ratio <= BAR else 'MISSED'}\n")


async def measure_parts(options: argparse.Namespace) -> None:
    provider = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.provider"),
        *("--rate", str(options.rate), "--deltas", str(options.tokens)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert provider.stdout is not None
        url = (await provider.stdout.readline()).decode().strip()
        async with run_child("bench.turn_cpu.parts", "client", url) as child:
            await child.ask("2")
            client = await child.ask(str(options.streams))
    finally:
        provider.terminate()
        await provider.wait()
    async with run_child("bench.turn_cpu.parts", "embedder") as child:
        short, long = (await child.ask("200 21"))["cpu"], (await child.ask("50 200"))["cpu"]
    chunk = client["cpu"] / client["chunks"]
    rows = [
        ["the provider's client, a chunk", f"{1_000 * chunk:.3f}"],
        [f"the provider's client, a turn of {options.tokens} chunks", f"{1_000 * chunk * options.tokens:.2f}"],
        ["embedding of a message of 21 tokens", f"{1_000 * short:.2f}"],
        ["embedding of a reply of 200 tokens, in the background", f"{1_000 * long:.2f}"],
    ]
    print_table(["kept out of the comparison", "CPU ms"], rows)


async def run(options: argparse.Namespace) -> None:
    await compare(options)
    await measure_parts(options)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.turn_cpu",
        description=bench.turn_cpu.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each")
    parser.add_argument("--streams", type=int, default=32, help="streams at once")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of a reply")
    parser.add_argument("--rate", type=float, default=100.0, help="tokens a second")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
