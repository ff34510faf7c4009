"""The clients: `python -m bench.rolling.load ENDPOINT RATE TOKEN ...`.

It answers `begin`, `phase NAME` (for all messages said from then on) and `end`, which waits for the replies.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop
from chatapi.v1.chat_service_pb2 import ChatResponse
from chatapi.v1.conversation_service_pb2 import CreateConversationRequest

from bench.child import obey
from chatrpc.client import CallError, ChatClient, ChatSession, connect, text_message
from chatrpc.client import session as client_session
from chatrpc.client.stream import ChatStream

CONVERSATIONS = 40
WORDS = 40
EXPECTED = "token " * WORDS


@dataclass(slots=True)
class Phase:
    """What has become of the messages that were said in it.

    Attributes:
        first: Milliseconds until the first text.
        repeated: Requests that were made again.
        lag: Milliseconds by which messages were said later than planned.
    """

    first: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    restarted: int = 0
    repeated: int = 0
    lag: list[float] = field(default_factory=list)


class CountingStream(ChatStream):
    """Counts the notices that it follows."""

    going_away = 0

    def _hear(self, response: ChatResponse) -> None:
        if response.WhichOneof("event") == "going_away":
            CountingStream.going_away += 1
        super()._hear(response)


@dataclass
class Person:
    """A user with a session, and conversations that are free."""

    client: ChatClient
    session: ChatSession
    free: list[str]


class Load:
    """All users together."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._people: list[Person] = []
        self._phases: defaultdict[str, Phase] = defaultdict(Phase)
        self._phase = self._phases["both run"]
        self._speaking: asyncio.Task[None] | None = None
        self._turns: set[asyncio.Task[None]] = set()

    async def join(self, stack: AsyncExitStack, endpoint: str, token: str) -> None:
        client = await stack.enter_async_context(connect(endpoint, token, on_retry=self._repeat))
        session = await stack.enter_async_context(client.chat())
        person = Person(client, session, [])
        for number in range(CONVERSATIONS):
            created = await client.call(
                client.conversations.CreateConversation, CreateConversationRequest(request_id=f"{number}")
            )
            person.free.append(created.conversation.id)
        self._people.append(person)

    def _repeat(self, error: CallError, delay: float) -> None:
        self._phase.repeated += 1

    async def answer(self, line: str) -> dict[str, Any]:
        match line.split(maxsplit=1):
            case ["begin"]:
                self._speaking = asyncio.create_task(self._speak())
            case ["phase", name]:
                self._phase = self._phases[name]
            case ["end"]:
                assert self._speaking is not None
                self._speaking.cancel()
                while self._turns:
                    await asyncio.wait(self._turns)
                return {
                    "going_away": CountingStream.going_away,
                    "phases": {name: asdict(phase) for name, phase in self._phases.items()},
                }
        return {}

    async def _speak(self) -> None:
        chance = random.Random(1)
        due = time.perf_counter()
        for person in itertools.cycle(self._people):
            due += chance.expovariate(self._rate)
            await asyncio.sleep(due - time.perf_counter())
            if not person.free:
                self._phase.failed.append("no conversation is free: replies do not end")
                continue
            self._phase.lag.append(1_000 * (time.perf_counter() - due))
            task = asyncio.create_task(self._turn(person, person.free.pop(0), self._phase))
            self._turns.add(task)
            task.add_done_callback(self._turns.discard)

    async def _turn(self, person: Person, conversation_id: str, phase: Phase) -> None:
        began, heard = time.perf_counter(), False
        try:
            turn = await person.session.send(text_message(conversation_id, "Say it."))
            async for event in turn:
                kind = event.WhichOneof("event")
                if kind == "delta" and not heard:
                    heard = True
                    phase.first.append(1_000 * (time.perf_counter() - began))
                phase.restarted += kind == "restarted"
            if turn.text != EXPECTED or turn.message is None:
                phase.failed.append(f"{len(turn.text)} of {len(EXPECTED)} characters")
        except CallError as error:
            phase.failed.append(f"{error.reason or error.code.name}: {error.message}")
        person.free.append(conversation_id)


async def run(endpoint: str, rate: float, tokens: list[str]) -> None:
    client_session.ChatStream = CountingStream  # type: ignore[misc]
    async with AsyncExitStack() as stack:
        load = Load(rate)
        for token in tokens:
            await load.join(stack, endpoint, token)
        await obey({}, load.answer)


def main() -> None:
    endpoint, rate, *tokens = sys.argv[1:]
    uvloop.run(run(endpoint, float(rate), tokens))


if __name__ == "__main__":
    main()
