"""A process that says messages: `python -m bench.overload.load TARGET TOKEN CONVERSATIONS`.

It answers `closed CALLERS SECONDS` (so many callers, each with its next message once it has its reply) and `open RATE
SECONDS SEED` (messages at instants that are fixed beforehand, whatever becomes of those before).
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
import uvloop
from chatapi.v1.chat_service_pb2 import SendMessageRequest
from chatapi.v1.chat_service_pb2_grpc import ChatServiceStub
from chatapi.v1.conversation_service_pb2 import CreateConversationRequest
from chatapi.v1.conversation_service_pb2_grpc import ConversationServiceStub
from chatapi.v1.message_pb2 import OutgoingMessage, Part, TextPart

from bench.child import obey
from bench.turn_cpu.servers import HURRY

# A connection bears a hundred calls at once.
CHANNELS = 8


@dataclass(slots=True)
class Told:
    """What has become of the messages, in microseconds from the call.

    Attributes:
        first: Until the first event with text, of those that were accepted.
        refused: Until the refusal.
        failed: Calls with any other end.
        lag: How much later than planned the messages were said.
        seconds: From the first call to the last end.
    """

    first: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    failed: int = 0
    lag: list[int] = field(default_factory=list)
    seconds: float = 0.0


class Load:
    """Says messages, each in the conversation that has been silent for longest."""

    def __init__(self, target: str, token: str) -> None:
        # Channels with a pool of their own share no connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(target, options) for _ in range(CHANNELS)]
        self._stubs = itertools.cycle([ChatServiceStub(channel) for channel in channels])
        self._conversations_stub = ConversationServiceStub(channels[0])
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._conversations: list[str] = []
        self._next = itertools.count()

    async def create(self, conversations: int) -> None:
        for _ in range(conversations):
            created = await self._conversations_stub.CreateConversation(
                CreateConversationRequest(), metadata=self._metadata
            )
            self._conversations.append(created.conversation.id)

    async def closed(self, callers: int, seconds: float) -> Told:
        told, end = Told(), time.perf_counter() + seconds

        async def call() -> None:
            while time.perf_counter() < end:
                await self._turn(told)

        began = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(callers)))
        told.seconds = time.perf_counter() - began
        return told

    async def open(self, rate: float, seconds: float, seed: int) -> Told:
        chance = random.Random(seed)
        told, running = Told(), set[asyncio.Task[None]]()
        began = time.perf_counter()
        due = began + chance.expovariate(rate)
        while due < began + seconds:
            await asyncio.sleep(due - time.perf_counter())
            told.lag.append(round(1e6 * (time.perf_counter() - due)))
            task = asyncio.create_task(self._turn(told))
            running.add(task)
            task.add_done_callback(running.discard)
            due += chance.expovariate(rate)
        while running:
            await asyncio.wait(running)
        told.seconds = time.perf_counter() - began
        return told

    async def _turn(self, told: Told) -> None:
        number = next(self._next)
        message = OutgoingMessage(
            conversation_id=self._conversations[number % len(self._conversations)],
            client_message_id=f"{number}",
            parts=[Part(text=TextPart(text=HURRY))],
        )
        began = time.perf_counter()
        heard = False
        try:
            async for said in next(self._stubs).SendMessage(
                SendMessageRequest(message=message), metadata=self._metadata
            ):
                if not heard and said.reply.WhichOneof("event") == "delta":
                    heard = True
                    told.first.append(round(1e6 * (time.perf_counter() - began)))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE and not heard:
                told.refused.append(round(1e6 * (time.perf_counter() - began)))
            else:
                told.failed += 1


async def run(target: str, token: str, conversations: int) -> None:
    load = Load(target, token)
    await load.create(conversations)

    async def answer(line: str) -> dict[str, Any]:
        match line.split():
            case ["closed", callers, seconds]:
                return asdict(await load.closed(int(callers), float(seconds)))
            case ["open", rate, seconds, seed]:
                return asdict(await load.open(float(rate), float(seconds), int(seed)))
        raise ValueError(line)

    await obey({}, answer)


def main() -> None:
    target, token, conversations = sys.argv[1:]
    uvloop.run(run(target, token, int(conversations)))


if __name__ == "__main__":
    main()
