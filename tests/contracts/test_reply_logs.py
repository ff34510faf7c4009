"""What readers and writers of replies may rely on, with one process and with several that share a Redis."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from chatrpc.domain import Message, MessageState, Role, TextPart
from chatrpc.errors import ChatError, OutOfRange, Reason
from chatrpc.settings import RedisSettings
from chatrpc.streams import streams as streams_module
from chatrpc.streams.streams import StreamsAway, open_streams
from chatrpc.turns import mirrors
from chatrpc.turns.events import Completed, Delta, ReplyEvent, Restarted
from chatrpc.turns.reply_log import ReplyLog
from chatrpc.turns.reply_logs import LocalReplyLogs, ReplyLogs
from chatrpc.turns.shared_logs import SharedReplyLogs, share_reply_logs
from chatrpc.turns.written_logs import LIFE, LIFE_AFTER
from tests.support.redis_server import RedisServer

PATIENCE = 20.0
USER = uuid4()


@dataclass
class Finished:
    """What the database has of finished replies."""

    logs: dict[UUID, ReplyLog] = field(default_factory=dict)

    async def finished(self, user_id: UUID, reply_id: UUID) -> ReplyLog | None:
        assert user_id == USER
        return self.logs.get(reply_id)


@dataclass
class Processes:
    """Two of them, which are one where logs are in memory."""

    writer: ReplyLogs
    reader: ReplyLogs
    database: Finished
    process_id: UUID

    def end(self, log: ReplyLog, text: str) -> Message:
        """Commit a reply and tell its end."""
        message = Message(
            id=log.reply_id,
            conversation_id=uuid4(),
            parent_id=uuid4(),
            sequence=2,
            branch=0,
            depth=2,
            role=Role.ASSISTANT,
            state=MessageState.COMPLETE,
            parts=(TextPart(text),),
            tokens=1,
            created_at=datetime.now(UTC),
            attempt=log.attempt,
        )
        last = ReplyEvent(log.reply_id, log.attempt, len(log.events) + 1, Completed(message))
        self.database.logs[log.reply_id] = ReplyLog.told(log.reply_id, log.attempt, [*log.events, last])
        log.append(last.event)
        self.writer.close(log)
        return message


async def shared(stack: AsyncExitStack, url: str, database: Finished) -> SharedReplyLogs:
    opened = await stack.enter_async_context(open_streams(RedisSettings(url=url)))
    while opened._listening is None:
        await asyncio.sleep(0.001)
    return await stack.enter_async_context(share_reply_logs(opened, database))


@pytest_asyncio.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path) as server:
        yield server


@pytest_asyncio.fixture
async def pair(redis: RedisServer) -> AsyncIterator[Processes]:
    """Two processes that share a Redis."""
    database = Finished()
    async with AsyncExitStack() as stack:
        writer, reader = [await shared(stack, redis.url, database) for _ in range(2)]
        yield Processes(writer, reader, database, uuid4())


@pytest_asyncio.fixture(params=["memory", "redis"])
async def processes(request: pytest.FixtureRequest, redis: RedisServer) -> AsyncIterator[Processes]:
    database = Finished()
    if request.param == "memory":
        logs = LocalReplyLogs()
        yield Processes(logs, logs, database, uuid4())
        return
    async with AsyncExitStack() as stack:
        writer, reader = [await shared(stack, redis.url, database) for _ in range(2)]
        yield Processes(writer, reader, database, uuid4())


async def found(logs: ReplyLogs, reply_id: UUID, attempt: int = 1) -> ReplyLog:
    log = await asyncio.wait_for(logs.find(USER, reply_id, attempt), PATIENCE)
    assert log is not None
    return log


async def read(log: ReplyLog, after: int = 0) -> list[ReplyEvent]:
    async with asyncio.timeout(PATIENCE):
        return [event async for event in log.read(after)]


async def read_some(events: object, count: int) -> list[ReplyEvent]:
    async with asyncio.timeout(PATIENCE):
        return [await anext(events) for _ in range(count)]  # type: ignore[call-overload]


async def test_a_reply_is_read_from_any_event_while_it_is_written(processes: Processes) -> None:
    log = processes.writer.begin(USER, uuid4(), 1)
    for text in ("Grüße, ", "🙂", "\x01"):
        log.append(Delta(text))
    early = (await found(processes.reader, log.reply_id)).read(0)
    assert [event.event for event in await read_some(early, 3)] == [Delta("Grüße, "), Delta("🙂"), Delta("\x01")]
    log.append(Delta("and more"))
    [fourth] = await read_some(early, 1)
    assert (fourth.reply_id, fourth.attempt, fourth.sequence, fourth.event) == (log.reply_id, 1, 4, Delta("and more"))
    reading = [asyncio.create_task(read(await found(processes.reader, log.reply_id), after)) for after in range(5)]
    await asyncio.sleep(0)
    processes.end(log, "all")
    for after, task in enumerate(reading):
        assert await task == log.events[after:]
    assert [event async for event in early] == log.events[4:]


async def test_a_reply_that_has_said_nothing_yet_is_waited_for(processes: Processes) -> None:
    log = processes.writer.begin(USER, uuid4(), 1)
    reading = asyncio.create_task(read(await found(processes.reader, log.reply_id)))
    log.append(Delta("first"))
    processes.end(log, "first")
    assert await reading == log.events


async def test_readers_go_on_with_the_next_attempt(processes: Processes) -> None:
    log = processes.writer.begin(USER, uuid4(), 1)
    log.append(Delta("lost"))
    events = (await found(processes.reader, log.reply_id)).read(0)
    assert (await read_some(events, 1))[0].event == Delta("lost")
    again = processes.writer.begin(USER, log.reply_id, 2)
    again.append(Restarted())
    again.append(Delta("kept"))
    processes.end(again, "kept")
    async with asyncio.timeout(PATIENCE):
        assert [event async for event in events] == again.events
    assert [(event.attempt, event.sequence) for event in again.events] == [(2, 1), (2, 2), (2, 3)]


async def test_many_replies_at_once_keep_their_order(processes: Processes) -> None:
    logs = [processes.writer.begin(USER, uuid4(), 1) for _ in range(50)]
    reading = [asyncio.create_task(read(await found(processes.reader, log.reply_id))) for log in logs]
    for number in range(40):
        for log in logs:
            log.append(Delta(f"{number} "))
        if number % 5 == 0:
            await asyncio.sleep(0)
    for log in logs:
        processes.end(log, "whole")
    for log, task in zip(logs, reading, strict=True):
        assert await task == log.events


async def test_a_cancel_reaches_the_process_that_is_named_and_no_other(processes: Processes) -> None:
    heard: asyncio.Queue[tuple[UUID, UUID]] = asyncio.Queue()
    processes.writer.on_cancel = lambda user_id, reply_id: heard.put_nowait((user_id, reply_id))
    processes.writer.join(processes.process_id)
    reply_id = uuid4()
    async with asyncio.timeout(PATIENCE):
        while not await processes.reader.cancel(processes.process_id, USER, reply_id):
            await asyncio.sleep(0.001)
        assert await heard.get() == (USER, reply_id)
    assert not await processes.reader.cancel(uuid4(), USER, reply_id)
    assert heard.empty()


async def test_a_place_that_the_reply_never_reaches_is_out_of_range(processes: Processes) -> None:
    log = processes.writer.begin(USER, uuid4(), 1)
    log.append(Delta("one"))
    reading = asyncio.create_task(read(await found(processes.reader, log.reply_id), 7))
    await asyncio.sleep(0)
    processes.end(log, "one")
    with pytest.raises(OutOfRange):
        await reading


async def test_an_emptied_redis_costs_readers_nothing(pair: Processes, redis: RedisServer) -> None:
    log = pair.writer.begin(USER, uuid4(), 1)
    log.append(Delta("before"))
    events = (await found(pair.reader, log.reply_id)).read(0)
    await read_some(events, 1)
    await redis.flush()
    log.append(Delta("after"))
    assert (await read_some(events, 1))[0].event == Delta("after")
    # Whoever comes now finds all of it.
    assert (await read_some((await found(pair.reader, log.reply_id)).read(0), 2)) == log.events


async def test_while_redis_is_away_local_readers_go_on_and_remote_ones_are_told_to_come_again(
    pair: Processes, redis: RedisServer
) -> None:
    log = pair.writer.begin(USER, uuid4(), 1)
    over = pair.writer.begin(USER, uuid4(), 1)
    log.append(Delta("before"))
    local, remote = log.read(0), (await found(pair.reader, log.reply_id)).read(0)
    await read_some(remote, 1)
    await redis.kill()
    with pytest.raises(ChatError) as error:
        await read_some(remote, 1)
    assert error.value.reason is Reason.REPLY_HELD_ELSEWHERE
    assert await pair.reader.find(USER, log.reply_id, 1) is None
    assert not await pair.reader.cancel(uuid4(), USER, log.reply_id)
    for number in range(5_000):
        log.append(Delta(f"{number} "))
        over.append(Delta("x"))
    pair.end(over, "x" * 5_000)
    assert len(await read_some(local, 5_001)) == 5_001
    assert isinstance(pair.writer, SharedReplyLogs)
    async with asyncio.timeout(PATIENCE):
        while over in {outgoing.log for outgoing in pair.writer.written._unsent}:
            await asyncio.sleep(0.01)
    await redis.start()
    async with asyncio.timeout(PATIENCE):
        while (again := await pair.reader.find(USER, log.reply_id, 1)) is None or not again.read(0).take():
            await asyncio.sleep(0.01)
    reading = asyncio.create_task(read(again))
    pair.end(log, "whole")
    assert await reading == log.events


async def test_a_reader_who_meets_the_loss_of_redis_is_told_to_come_again(pair: Processes, redis: RedisServer) -> None:
    log = pair.writer.begin(USER, uuid4(), 1)
    assert isinstance(pair.reader, SharedReplyLogs)
    assert redis._process is not None
    redis._process.send_signal(signal.SIGSTOP)
    finding = asyncio.create_task(pair.reader.find(USER, log.reply_id, 1))
    while not pair.reader._streams._awaited:
        await asyncio.sleep(0)
    await redis.kill()
    assert await asyncio.wait_for(finding, PATIENCE) is None


async def test_a_connection_that_was_lost_is_mended_by_who_listens_and_nobody_else(pair: Processes) -> None:
    assert isinstance(pair.reader, SharedReplyLogs)
    redis_streams = pair.reader._streams
    lost = redis_streams._listening
    assert lost is not None
    assert lost.connection is not None
    await lost.connection.disconnect(nowait=True)
    with pytest.raises(StreamsAway):
        await redis_streams.subscribe("somewhere")
    await redis_streams.unsubscribe("elsewhere")
    async with asyncio.timeout(PATIENCE):
        while redis_streams._listening in (None, lost):
            await asyncio.sleep(0.01)
    log = pair.writer.begin(USER, uuid4(), 1)
    log.append(Delta("heard"))
    assert await read_some((await found(pair.reader, log.reply_id)).read(0), 1) == log.events


async def test_an_attempt_that_is_over_learns_of_it_by_what_it_writes(pair: Processes) -> None:
    stale: asyncio.Queue[ReplyLog] = asyncio.Queue()
    pair.writer.on_stale = stale.put_nowait
    first = pair.writer.begin(USER, uuid4(), 1)
    first.append(Delta("one"))
    await read_some((await found(pair.reader, first.reply_id)).read(0), 1)
    second = pair.reader.begin(USER, first.reply_id, 2)
    second.append(Restarted())
    assert isinstance(pair.reader, SharedReplyLogs)
    await asyncio.wait_for(pair.reader.flush(), PATIENCE)
    first.append(Delta("two"))
    assert await asyncio.wait_for(stale.get(), PATIENCE) is first


async def test_who_knows_of_a_later_attempt_is_not_told_the_one_before(pair: Processes, redis: RedisServer) -> None:
    log = pair.writer.begin(USER, uuid4(), 1)
    log.append(Delta("lost"))
    early = (await found(pair.reader, log.reply_id)).read(0)
    assert (await read_some(early, 1))[0].event == Delta("lost")
    # The next attempt's process cannot reach Redis yet, so the first one's log is all that there is.
    late = (await found(pair.reader, log.reply_id, 2)).read(1)
    async with AsyncExitStack() as stack:
        other = await shared(stack, redis.url, pair.database)
        again = other.begin(USER, log.reply_id, 2)
        again.append(Restarted())
        again.append(Delta("kept"))
        assert await read_some(late, 1) == again.events[1:]
        assert await read_some(early, 2) == again.events


async def test_a_writer_that_dies_after_the_commit_leaves_no_reader_waiting(
    pair: Processes, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "CHECK", 0.2)
    async with AsyncExitStack() as stack:
        reader = await shared(stack, redis.url, pair.database)
        log = pair.writer.begin(USER, uuid4(), 1)
        log.append(Delta("one"))
        reading = asyncio.create_task(read(await found(reader, log.reply_id)))
        assert isinstance(pair.writer, SharedReplyLogs)
        await asyncio.wait_for(pair.writer.flush(), PATIENCE)
        log.forget(pair.writer.written._own[log.reply_id])
        pair.end(log, "one")
        pair.writer.written._unsent.clear()
        assert await reading == log.events
        # Nobody reads it any more, so it is given up.
        assert not reader.mirrors


async def test_a_mirror_that_nobody_reads_is_given_up(
    pair: Processes, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "CHECK", 0.2)
    async with AsyncExitStack() as stack:
        reader = await shared(stack, redis.url, pair.database)
        log = pair.writer.begin(USER, uuid4(), 1)
        log.append(Delta("one"))
        events = (await found(reader, log.reply_id)).read(0)
        await read_some(events, 1)
        await events.aclose()
        late = await found(reader, log.reply_id)
        async with asyncio.timeout(PATIENCE):
            while reader.mirrors:
                await asyncio.sleep(0.01)
            # Whoever had found it before is told to come again.
            with pytest.raises(ChatError) as told:
                await read(late)
            assert told.value.reason is Reason.REPLY_HELD_ELSEWHERE
            async with redis.client() as client:
                while await client.pubsub_numsub(f"chatrpc:reply:{log.reply_id}") != [
                    (f"chatrpc:reply:{log.reply_id}".encode(), 0)
                ]:
                    await asyncio.sleep(0.01)


async def test_what_redis_keeps_expires(pair: Processes, redis: RedisServer) -> None:
    log = pair.writer.begin(USER, uuid4(), 1)
    log.append(Delta("one"))
    assert isinstance(pair.writer, SharedReplyLogs)
    await asyncio.wait_for(pair.writer.flush(), PATIENCE)
    key = f"chatrpc:reply:{log.reply_id}"
    async with redis.client() as client:
        assert 0 < await client.pttl(key) <= LIFE * 1000
        pair.end(log, "one")
        await asyncio.wait_for(pair.writer.flush(), PATIENCE)
        assert 0 < await client.pttl(key) <= LIFE_AFTER * 1000
        await pair.writer.forget(log.reply_id)
        assert not await client.exists(key)


async def test_a_process_is_reached_again_after_redis_was_away(
    pair: Processes, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "PAUSE", 0.01)
    pair.writer.join(pair.process_id)
    async with asyncio.timeout(PATIENCE):
        while not await pair.reader.cancel(pair.process_id, USER, uuid4()):
            await asyncio.sleep(0.001)
        await redis.kill()
        await redis.start()
        while not await pair.reader.cancel(pair.process_id, USER, uuid4()):
            await asyncio.sleep(0.01)
