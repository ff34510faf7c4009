"""What one stream says, in which order, and when it ends."""

from __future__ import annotations

import asyncio
import math
import time
from uuid import UUID

import pytest
from chatapi.v1.chat_service_pb2 import ChatResponse, GoingAway, Pong

from chatrpc.domain import Caller
from chatrpc.errors import Reason, Unauthenticated, Unavailable
from chatrpc.rpc.drain import Drain
from chatrpc.rpc.outbox import CAPACITY, IDLE_NOTICE, Outbox, StreamPolicy
from tests.rpc.stage import PATIENCE, Clock, eventually


def outbox(
    clock: Clock, drain: Drain | None = None, lifetime: float = 600, idle_limit: float = math.inf
) -> Outbox[ChatResponse]:
    caller = Caller(UUID(int=1), "alice", "issuer", None, frozenset(), time.time() + lifetime)
    policy = StreamPolicy(drain or Drain(clock), 0.02, 4, clock)
    return Outbox(ChatResponse, caller, policy, idle_limit=idle_limit)


def pong(name: str) -> ChatResponse:
    return ChatResponse(pong=Pong(request_id=name))


async def following(stream) -> ChatResponse:
    """The next response that is no heartbeat."""
    async with asyncio.timeout(PATIENCE):
        while (response := await anext(stream)) == pong(""):
            pass
        return response


async def test_items_come_in_order_and_then_the_end() -> None:
    box = outbox(Clock())
    for name in "abc":
        await box.put(pong(name))
    box.end()
    assert [response.pong.request_id async for response in box.stream()] == ["a", "b", "c"]


async def test_an_error_comes_after_the_items() -> None:
    box = outbox(Clock())
    await box.put(pong("a"))
    box.end(Unavailable(Reason.DATABASE_UNAVAILABLE, "Remedy."))
    box.end()
    stream = box.stream()
    assert await following(stream) == pong("a")
    with pytest.raises(Unavailable):
        await following(stream)


async def test_a_writer_waits_while_the_box_is_full() -> None:
    box = outbox(Clock())
    for number in range(CAPACITY):
        await asyncio.wait_for(box.put(pong(str(number))), PATIENCE)
    writer = asyncio.create_task(box.put(pong("one more")))
    await asyncio.sleep(0)
    assert not writer.done()
    stream = box.stream()
    assert await following(stream) == pong("0")
    await asyncio.wait_for(writer, PATIENCE)
    await stream.aclose()


@pytest.mark.parametrize(("lifetime", "before", "after"), [(600, 565, 575), (20, 9, 11)])
async def test_expiry_is_announced_half_a_minute_or_half_the_time_left_before(
    lifetime: float, before: float, after: float
) -> None:
    clock = Clock()
    box = outbox(clock, lifetime=lifetime)
    stream = box.stream()
    assert await anext(stream) == pong("")
    clock.ahead = before
    assert [await anext(stream) for _ in range(3)] == [pong("")] * 3
    clock.ahead = after
    said = await following(stream)
    assert said.going_away.reason == GoingAway.REASON_TOKEN_EXPIRING
    clock.ahead = lifetime + 1
    with pytest.raises(Unauthenticated) as error:
        await following(stream)
    assert error.value.reason is Reason.TOKEN_EXPIRED


async def test_a_stream_that_is_cut_says_nothing_more() -> None:
    drain = Drain()
    box = outbox(Clock(), drain)
    stream = box.stream()
    assert await anext(stream) == pong("")
    drain.begin(0)
    assert (await following(stream)).going_away.reason == GoingAway.REASON_DRAINING
    await eventually(lambda: box._cut is not None)
    await box.put(pong("late"))
    with pytest.raises(Unavailable) as error:
        await following(stream)
    assert error.value.reason is Reason.SERVER_DRAINING


async def test_a_stream_that_begins_during_a_drain_hears_of_it() -> None:
    drain = Drain()
    drain.begin(20)
    stream = outbox(Clock(), drain).stream()
    assert (await following(stream)).going_away.reason == GoingAway.REASON_DRAINING
    await stream.aclose()


async def test_the_drain_waits_for_all_streams_and_begins_once() -> None:
    drain = Drain()
    await asyncio.wait_for(drain.streams_ended(), PATIENCE)
    streams = [outbox(Clock(), drain).stream() for _ in range(2)]
    for stream in streams:
        await anext(stream)
    drain.begin(20)
    deadline = drain.deadline
    drain.begin(50)
    assert drain.deadline == deadline
    ended = asyncio.create_task(drain.streams_ended())
    await streams[0].aclose()
    await asyncio.sleep(0)
    assert not ended.done()
    await streams[1].aclose()
    await asyncio.wait_for(ended, PATIENCE)


async def test_an_idle_stream_is_told_so_and_ends_well() -> None:
    clock = Clock()
    stream = outbox(clock, idle_limit=100).stream()
    assert await anext(stream) == pong("")
    clock.ahead = 101
    said = (await following(stream)).going_away
    assert said.reason == GoingAway.REASON_IDLE
    assert abs(said.deadline.ToMilliseconds() / 1000 - clock() - IDLE_NOTICE) < PATIENCE
    assert await anext(stream) == pong("")
    clock.ahead += IDLE_NOTICE + 1
    async with asyncio.timeout(PATIENCE):
        assert {response.pong.request_id async for response in stream} <= {""}


async def test_a_word_of_the_clients_keeps_an_idle_stream_open() -> None:
    clock = Clock()
    box = outbox(clock, idle_limit=100)
    stream = box.stream()
    assert await anext(stream) == pong("")
    for _ in range(2):
        clock.ahead += 101
        assert (await following(stream)).going_away.reason == GoingAway.REASON_IDLE
        box.heard()
        clock.ahead += IDLE_NOTICE + 1
        assert [await anext(stream) for _ in range(3)] == [pong("")] * 3
    await stream.aclose()


async def test_an_idle_stream_whose_client_does_not_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatrpc.rpc.outbox.WRITE_GRACE", 0.01)
    clock = Clock()
    stream = outbox(clock, idle_limit=100).stream()

    async def read_one_and_no_more() -> None:
        await anext(stream)
        clock.ahead = 101
        await asyncio.sleep(0.05)
        clock.ahead = 102 + IDLE_NOTICE
        await asyncio.sleep(PATIENCE)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.create_task(read_one_and_no_more()), PATIENCE)
