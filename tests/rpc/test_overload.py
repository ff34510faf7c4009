"""What callers hear of a server that has more to do than it can."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from chatapi.v1 import chat_service_pb2 as pb
from chatapi.v1 import conversation_service_pb2 as conversation_pb
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from chatrpc.db.engine import Database
from chatrpc.errors import Unavailable
from chatrpc.turns.admission import COME_BACK, Admission
from tests.rpc.stage import PATIENCE, Stage, Stream, failure, new_id, outgoing, rest, signed_in, staged, told


@pytest.fixture
def admission() -> Admission:
    return Admission(0.01, 1, BusyThread())


class BusyThread:
    """Runs all the time, by any clock."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def __call__(self) -> float:
        self._seconds += 1e6
        return self._seconds


@pytest_asyncio.fixture
async def stage(
    database: Database, issuer_keys: Path, admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    """A server of one slot, which is overloaded once that is taken, and stays so."""
    monkeypatch.setattr("chatrpc.turns.admission.CALM", PATIENCE)
    monkeypatch.setattr("chatrpc.turns.admission.TRICKLE", math.inf)
    async with staged(database, issuer_keys, admission=admission) as opened:
        yield opened


async def overload(admission: Admission) -> None:
    async with asyncio.timeout(PATIENCE):
        with suppress(Unavailable):
            while True:
                await admission.enter()


async def listed(stage: Stage, conversation: str) -> int:
    request = conversation_pb.ListMessagesRequest(conversation_id=conversation)
    return len((await stage.conversations.ListMessages(request, metadata=signed_in())).messages)


async def test_new_turns_are_refused_with_a_time_to_come_again(stage: Stage, admission: Admission) -> None:
    conversation = await stage.conversation()
    await overload(admission)
    error = told(
        await failure(
            stage.chat.SendMessage(pb.SendMessageRequest(message=outgoing(conversation)), metadata=signed_in())
        )
    )
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_OVERLOADED")
    assert COME_BACK[0] <= error.retry_after <= COME_BACK[1]
    again = pb.RegenerateReplyRequest(conversation_id=conversation)
    error = told(await failure(stage.chat.RegenerateReply(again, metadata=signed_in())))
    assert error.reason == "SERVER_OVERLOADED"
    fork = conversation_pb.ForkConversationRequest(message_id=new_id())
    error = told(await failure(stage.conversations.ForkConversation(fork, metadata=signed_in())))
    assert error.reason == "SERVER_OVERLOADED"
    assert await listed(stage, conversation) == 0


async def test_a_stream_is_told_so_for_each_turn_and_lives_on(stage: Stage, admission: Admission) -> None:
    conversation = await stage.conversation()
    await overload(admission)
    async with Stream(stage) as stream:
        for name in ("one", "two"):
            await stream.say(request_id=name, send=outgoing(conversation))
            rejected = await stream.hear_kind("rejected")
            assert rejected.request_id == name
            assert rejected.status.code == grpc.StatusCode.UNAVAILABLE.value[0]
        await stream.say(request_id="three", ping=pb.Ping())
        assert (await stream.hear_kind("pong")).request_id == "three"
    assert await listed(stage, conversation) == 0


async def test_what_runs_is_served_and_the_server_stays_healthy(stage: Stage, admission: Admission) -> None:
    conversation = await stage.conversation()
    message = outgoing(conversation)
    async with Stream(stage) as stream:
        await stream.say(request_id="first", send=message)
        accepted = await stream.hear_kind("accepted")
        speaker = await stage.model.asked()
        await overload(admission)
        # A resend of what runs, a resumption, a cancel, a query and a health check.
        await stream.say(request_id="again", send=message)
        assert (await stream.hear_kind("accepted")).duplicate
        resume = pb.ResumeReplyRequest(reply_id=accepted.reply_id)
        resumed = stage.chat.ResumeReply(resume, metadata=signed_in())
        speaker.say("Hi.")
        cancel = pb.CancelReplyRequest(reply_id=accepted.reply_id)
        assert (await stage.chat.CancelReply(cancel, metadata=signed_in())).stopped
        assert (await rest(resumed))[-1].reply.HasField("completed")
        assert await listed(stage, conversation) == 2
        stage.health.set_serving(True)
        health = await HealthStub(stage.channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
