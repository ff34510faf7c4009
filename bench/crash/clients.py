"""People who talk: they send, lose the answer, send again, resume at another door, stop, and read a reply twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from random import Random
from typing import Any
from uuid import uuid4

import grpc
from chatapi.v1 import chat_service_pb2 as pb
from chatapi.v1.chat_service_pb2_grpc import ChatServiceStub
from chatapi.v1.conversation_service_pb2 import CreateConversationRequest
from chatapi.v1.message_pb2 import (
    BUSY_POLICY_INTERRUPT,
    BUSY_POLICY_QUEUE,
    BUSY_POLICY_REJECT,
    BusyPolicy,
    OutgoingMessage,
)

from bench.crash.history import History, Reading, Sent, accepted
from bench.crash.provider import WORDS
from chatrpc.client import CallError, ChatClient, ChatSession, RetryPolicy, connect, text_message
from chatrpc.client.endpoint import open_channel

# Until the answer is there; nobody gives up while something is being restarted.
PATIENT = RetryPolicy(tries=10_000, first_delay=0.1, longest_delay=0.5)
# Seconds without a word, heartbeats included, after which a call is given up and made anew.
SILENCE = 20.0
# Messages of one conversation.
SHORTEST, LONGEST = 4, 70
# Shares of all turns.
BY_SESSION, ABANDONED, FOLLOWED, READ_AGAIN, STOPPED, IN_A_ROW = 0.4, 0.15, 0.3, 0.5, 0.04, 0.08
# Of the messages that do not wait for the reply before.
INTERRUPTING, REJECTED = 0.15, 0.1

Doors = dict[str, Any]


class Person:
    """One of many; talks in one conversation after the other.

    Args:
        take: Waits for a turn of the run's; False where there is none left.
        doors: Envoy as `edge`, and each server itself, as `host:port`.
        pause: Seconds between two turns at most.
    """

    def __init__(
        self,
        history: History,
        random: Random,
        take: Callable[[], Awaitable[bool]],
        doors: dict[str, str],
        token: str,
        pause: float,
    ) -> None:
        self._history = history
        self._random = random
        self._take = take
        self._addresses = doors
        self._token = token
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._pause = pause
        self._doors: Doors = {}

    async def talk(self) -> None:
        """Talk until there is no turn left."""
        async with AsyncExitStack() as stack:
            for name, address in self._addresses.items():
                self._doors[name] = ChatServiceStub(await stack.enter_async_context(open_channel(address)))
            client = await stack.enter_async_context(
                connect(
                    self._addresses["edge"],
                    self._token,
                    retry=PATIENT,
                    on_retry=lambda error, _: self._history.trouble(error),
                )
            )
            session = await stack.enter_async_context(client.chat())
            while await self._converse(client, session):
                pass

    async def _converse(self, client: ChatClient, session: ChatSession) -> bool:
        """One conversation; False where there was no turn left."""
        request = CreateConversationRequest(request_id=uuid4().hex)
        created = await client.call(client.conversations.CreateConversation, request)
        number, length = 0, self._random.randint(SHORTEST, LONGEST)
        while number < length:
            row = self._random.randint(2, 4) if self._random.random() < IN_A_ROW else 1
            async with asyncio.TaskGroup() as turns:
                for place in range(row):
                    if not await self._take():
                        return False
                    number += 1
                    heard = asyncio.Event()
                    turns.create_task(self._turn(session, created.conversation.id, number, self._policy(place), heard))
                    # Only then is there an order.
                    await heard.wait()
            await asyncio.sleep(self._random.uniform(0, self._pause))
        return True

    def _policy(self, place: int) -> BusyPolicy.ValueType:
        drawn = self._random.random()
        if place and drawn < INTERRUPTING:
            return BUSY_POLICY_INTERRUPT
        return BUSY_POLICY_REJECT if place and drawn < INTERRUPTING + REJECTED else BUSY_POLICY_QUEUE

    async def _turn(
        self,
        session: ChatSession,
        conversation_id: str,
        number: int,
        policy: BusyPolicy.ValueType,
        heard: asyncio.Event,
    ) -> None:
        key = uuid4().hex
        words = " ".join(self._random.choices(WORDS, k=self._random.randint(2, 20)))
        sent = Sent(conversation_id, number, key, f"{words} [{key}]")
        self._history.sent.append(sent)
        message = text_message(conversation_id, sent.text, key)
        message.busy_policy = policy
        try:
            if self._random.random() < BY_SESSION:
                speaking = self._by_session(session, sent, message, heard)
            else:
                speaking = self._by_calls(sent, message, heard)
            async with asyncio.TaskGroup() as others:
                others.create_task(speaking)
                await heard.wait()
                if sent.accepted:
                    for work in self._beside(sent.accepted[0].reply_id):
                        others.create_task(work)
            if sent.accepted and self._random.random() < READ_AGAIN:
                await self._follow(sent.accepted[0].reply_id, self._door(), (0, 0))
        finally:
            heard.set()
            self._history.finished += 1

    def _beside(self, reply_id: str) -> list[Coroutine[Any, Any, None]]:
        """What else happens to a reply while it is told."""
        works = []
        if self._random.random() < FOLLOWED:
            works.append(self._follow_too(reply_id))
        if self._random.random() < STOPPED:
            works.append(self._stop(reply_id))
        return works

    def _door(self) -> str:
        return self._random.choice(list(self._doors))

    async def _by_session(
        self, session: ChatSession, sent: Sent, message: OutgoingMessage, heard: asyncio.Event
    ) -> None:
        # Nobody sees how often it sends.
        sent.tries += 2
        try:
            turn = await session.send(message)
        except CallError as error:
            self._refuse(sent, error)
            return
        finally:
            heard.set()
        assert turn.accepted is not None
        sent.accepted.append(accepted(turn.accepted))
        reading = self._history.read(turn.reply_id, "session")
        try:
            async for event in turn:
                self._history.tell(reading, event)
        except CallError as error:
            self._history.unexpected.append(f"A session loses {turn.reply_id}: {error}")

    async def _by_calls(self, sent: Sent, message: OutgoingMessage, heard: asyncio.Event) -> None:
        """Send until it is accepted and its reply is told; often once more although it was, and at any door."""
        abandoned = self._random.random() < ABANDONED
        request = pb.SendMessageRequest(message=message)
        try:
            while True:
                door = self._door()
                sent.tries += 1
                call = self._doors[door].SendMessage(request, metadata=self._metadata)
                if abandoned and sent.tries == 1:
                    await asyncio.sleep(self._random.uniform(0, 0.03))
                    call.cancel()
                    continue
                reading = await self._listen(call, door, sent, heard)
                if reading is not None and reading.ended:
                    return
                if sent.refused:
                    return
                if sent.accepted and self._random.random() < 0.7:
                    # What was told before is of use only where it was of this reply and had a place.
                    place = (0, 0) if reading is None else reading.place
                    await self._follow(sent.accepted[0].reply_id, self._door(), place)
                    return
        finally:
            heard.set()

    async def _listen(self, call: Any, door: str, sent: Sent, heard: asyncio.Event) -> Reading | None:
        """Hear a SendMessage to its end, whatever that is."""
        reading: Reading | None = None
        try:
            async for response in _responses(call):
                match response.WhichOneof("event"):
                    case "accepted":
                        sent.accepted.append(accepted(response.accepted))
                        heard.set()
                        reading = self._history.read(response.accepted.reply_id, door)
                    case "reply":
                        assert reading is not None
                        self._history.tell(reading, response.reply)
                    case "going_away":
                        return reading
            if reading is None or not reading.ended:
                self._history.unexpected.append(f"SendMessage of {sent.key} ends at {door} without an end.")
        except CallError as error:
            if error.temporary:
                await self._wait(error)
            elif sent.accepted:
                self._history.unexpected.append(f"SendMessage of {sent.key} at {door}, accepted before: {error}")
            else:
                self._refuse(sent, error)
        return reading

    def _refuse(self, sent: Sent, error: CallError) -> None:
        self._history.refuse(sent, error)
        if error.reason != "CONVERSATION_BUSY":
            self._history.unexpected.append(f"{sent.key} is refused: {error}")

    async def _follow_too(self, reply_id: str) -> None:
        """Read a reply that is being told, from its beginning or from an event that somebody has seen."""
        await asyncio.sleep(self._random.uniform(0, 1))
        place = (0, 0)
        if self._random.random() < 0.5:
            readings = [each for each in self._history.readings[-500:] if each.reply_id == reply_id]
            seen = [event for reading in readings for event in reading.events if event.ending is None]
            if seen:
                event = self._random.choice(seen)
                place = (event.attempt, event.sequence)
        await self._follow(reply_id, self._door(), place)

    async def _follow(self, reply_id: str, door: str, place: tuple[int, int]) -> None:
        """Read a reply to its end, at one door after the other."""
        while True:
            reading = self._history.read(reply_id, door, place)
            request = pb.ResumeReplyRequest(reply_id=reply_id, attempt=place[0], after_sequence=place[1])
            call = self._doors[door].ResumeReply(request, metadata=self._metadata)
            going = False
            try:
                async for response in _responses(call):
                    match response.WhichOneof("event"):
                        case "reply":
                            self._history.tell(reading, response.reply)
                        case "going_away":
                            going = True
                            break
                if not reading.ended and not going:
                    self._history.unexpected.append(f"ResumeReply of {reply_id} ends at {door} without an end.")
                    return
            except CallError as error:
                if not error.temporary:
                    self._history.unexpected.append(f"ResumeReply of {reply_id} after {place} at {door}: {error}")
                    return
                await self._wait(error)
            if reading.ended:
                return
            place, door = reading.place, self._door()

    async def _stop(self, reply_id: str) -> None:
        """Ask for a reply to be stopped, until somebody answers."""
        await asyncio.sleep(self._random.uniform(0, 2))
        while True:
            try:
                request = pb.CancelReplyRequest(reply_id=reply_id)
                await self._doors[self._door()].CancelReply(request, metadata=self._metadata, timeout=SILENCE)
            except grpc.aio.AioRpcError as failure:
                error = CallError.from_call(failure)
                if not error.temporary and error.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    self._history.unexpected.append(f"CancelReply of {reply_id}: {error}")
                    return
                await self._wait(error)
            else:
                return

    async def _wait(self, error: CallError) -> None:
        self._history.trouble(error)
        await asyncio.sleep(max(error.retry_after or 0.0, self._random.uniform(0.05, 0.5)))


async def _responses(call: Any) -> Any:
    """What a call says until it ends.

    Raises:
        CallError: It failed, or said nothing for too long.
    """
    try:
        while True:
            async with asyncio.timeout(SILENCE):
                response = await call.read()
            if response is grpc.aio.EOF:
                return
            yield response
    except TimeoutError:
        raise CallError(grpc.StatusCode.UNAVAILABLE, "Nothing is said.", reason="SILENCE") from None
    except grpc.aio.AioRpcError as error:
        raise CallError.from_call(error) from None
    finally:
        call.cancel()
