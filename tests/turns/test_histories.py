"""Promise 1 (nothing lost) over random histories of two processes that share a database and a Redis.

Sends of every policy, resends, cancels and resumes at either process, faults of the provider, deaths of processes,
leases that run out unnoticed, clocks that jump, sweeps, a Redis that forgets everything or drops all connections come
in any order, and what was begun goes on meanwhile. A plain model says what must have come of it. Histories are run by
the dozen, each with processes of its own, and whatever waits by the clock waits for moments only. A failure prints them
and hypothesis' seed. `pytest tests/turns/test_histories.py --hypothesis-profile=long` runs five times as many.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from redis.exceptions import RedisError

from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.transcript import TurnLimits
from chatrpc.domain import BusyPolicy, Message, MessageState, Page, Role, TurnSettings
from chatrpc.errors import AlreadyExists, Conflict, ResourceExhausted, Unavailable
from chatrpc.models.chat import build_chat_model
from chatrpc.ports import ChatModel
from chatrpc.streams import streams
from chatrpc.turns import checkpoints, mirrors, service, shared_logs, written_logs
from chatrpc.turns.events import Completed, Failed, ReplyEvent, Restarted
from tests.support.answers import default_answer
from tests.support.provider import Answer, Fault, Provider
from tests.support.redis_server import RedisServer
from tests.turns.conftest import Process, model_settings, running

PATIENCE = 30.0
# Histories that run at once, how often, and in how many parts, which test processes share: 2,016 in all, or 10,008.
AT_ONCE = 12
EXAMPLES = 278 if settings.get_current_profile_name() == "long" else 56
PARTS = 3
# Seconds, where a server waits for up to five of them.
MOMENT = 0.02

PROCESS = st.integers(0, 1)
KEYS = st.integers(0, 4)
ANSWERS = st.sampled_from(
    [
        Answer(deltas=("a", "b", "c")),
        Answer(deltas=tuple("a longer one"), rate=200.0),
        Answer(status=500),
        Answer(deltas=("par", "tial"), fault=Fault.CUT),
        Answer(deltas=("on ", "and on"), fault=Fault.STALL),
        Answer(fault=Fault.HANG),
    ]
)
SEND = st.tuples(
    st.just("send"), PROCESS, KEYS, st.sampled_from(["one", "two"]), st.sampled_from(BusyPolicy), st.booleans()
)
OPERATIONS = st.one_of(
    SEND,
    SEND,
    SEND,
    st.tuples(st.just("answer"), ANSWERS),
    st.tuples(st.just("cancel"), PROCESS, KEYS),
    st.tuples(st.just("resume"), PROCESS, KEYS, st.integers(0, 3)),
    st.tuples(st.just("die"), PROCESS),
    st.tuples(st.just("lapse"), PROCESS, st.booleans()),
    st.tuples(st.just("jump"), PROCESS, st.sampled_from([-60.0, 5.0, 60.0])),
    st.tuples(st.just("renew"), PROCESS),
    st.tuples(st.just("sweep"), PROCESS),
    st.tuples(st.just("flush")),
    st.tuples(st.just("drop")),
    st.tuples(st.just("wait"), st.integers(1, 30)),
)


@dataclass
class History:
    """A conversation, the processes that serve it, and what a plain model says of both.

    Attributes:
        answers: What the provider is to answer to the next requests of this conversation.
        texts: What it has answered.
    """

    database: Database
    provider: Provider
    model: ChatModel
    redis: RedisServer
    user_id: UUID
    conversation_id: UUID
    stack: AsyncExitStack
    processes: list[Process] = field(default_factory=list)
    accepted: list[tuple[str, str]] = field(default_factory=list)
    replies: dict[str, UUID] = field(default_factory=dict)
    answers: deque[Answer] = field(default_factory=deque)
    texts: list[str] = field(default_factory=list)
    told: dict[tuple[UUID, int, int], object] = field(default_factory=dict)
    readers: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self, at: int) -> Process:
        """One of the processes generates abandoned replies anew, the other ends them."""
        return await self.stack.enter_async_context(
            running(
                self.database,
                self.provider,
                self.user_id,
                self.conversation_id,
                redis_url=self.redis.url,
                interrupt=at == 1,
                model=self.model,
                hits=0,
                limits=TurnLimits(queue=3, pending=4),
            )
        )

    def answer(self, body: dict[str, Any]) -> Answer:
        answer = self.answers.popleft() if self.answers else default_answer(body)
        self.texts.append("".join(answer.deltas))
        return answer

    async def do_send(self, at: int, number: int, text: str, policy: BusyPolicy, follow: bool) -> None:
        key, known, text = f"key-{number}", dict(self.accepted), f"{text} {self.conversation_id}"
        try:
            accepted, events = await self.processes[at].send(text, key, busy_policy=policy)
        except AlreadyExists:
            assert known[key] != text
            return
        except (Conflict, ResourceExhausted):
            assert key not in known
            return
        except Unavailable:
            # Held elsewhere, or this process has no lease: the message may have been accepted before, and never now.
            return
        assert known.get(key, text) == text
        assert accepted.duplicate == (key in known)
        assert self.replies.setdefault(key, accepted.reply.id) == accepted.reply.id
        if key not in known:
            self.accepted.append((key, text))
        if follow:
            self.readers.append(asyncio.create_task(self.read(events, 0, 0)))
        else:
            await events.aclose()

    async def read(self, events: object, attempt: int, after: int) -> None:
        """Follow to the end, or until told to come again. Whoever reads an event of a name reads the same."""
        place: tuple[int, int] | None = (attempt, after) if attempt else None
        try:
            async for event in events:  # type: ignore[attr-defined]
                name = (event.reply_id, event.attempt, event.sequence)
                assert self.told.setdefault(name, outline(event)) == outline(event)
                if place is not None and event.attempt == place[0]:
                    assert event.sequence == place[1] + 1, "no gap, nothing twice"
                else:
                    assert event.sequence == 1
                    assert place is None or event.attempt > place[0]
                    assert isinstance(event.event, Restarted) == (event.attempt > 1)
                place = (event.attempt, event.sequence)
        except Unavailable:
            pass

    async def do_answer(self, answer: Answer) -> None:
        self.answers.append(answer)

    async def do_cancel(self, at: int, number: int) -> None:
        reply_id = self.replies.get(f"key-{number}")
        if reply_id is not None:
            with suppress(Unavailable):
                await self.processes[at].turns.cancel(self.processes[at].caller, reply_id)

    async def do_resume(self, at: int, number: int, after: int) -> None:
        reply_id = self.replies.get(f"key-{number}")
        seen = [name for name in self.told if name[0] == reply_id and name[2] == after]
        if reply_id is None or (after and not seen):
            return
        attempt = max(name[1] for name in seen) if after else 0
        try:
            events = await self.processes[at].turns.follow(self.processes[at].caller, reply_id, attempt, after)
        except Unavailable:
            return
        self.readers.append(asyncio.create_task(self.read(events, attempt, after)))

    async def do_die(self, at: int) -> None:
        """The process ends between two instructions, and another takes its place."""
        process = self.processes[at]
        ending = list(process.turns._running._tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await self.run_out(process)
        self.processes[at] = await self.start(at)

    async def do_lapse(self, at: int, noticed: bool) -> None:
        """A lease runs out; its process notices at once, by its own clock, or when it renews."""
        process = self.processes[at]
        await self.run_out(process)
        if noticed:
            await process.lease.renew()

    async def do_jump(self, at: int, seconds: float) -> None:
        """The process's clock jumps, or it is not scheduled for a while: the database knows nothing of it."""
        self.processes[at].lease._valid_until -= seconds

    async def do_renew(self, at: int) -> None:
        await self.processes[at].lease.renew()

    async def run_out(self, process: Process) -> None:
        async with self.database.unbound() as connection:
            await connection.execute(
                "UPDATE server_processes SET lease_until = now() WHERE id = %s", (process.lease.process_id,)
            )

    async def do_sweep(self, at: int) -> None:
        await self.processes[at].takeover.sweep()

    async def do_flush(self) -> None:
        # Another history may drop the connection.
        with suppress(RedisError):
            await self.redis.flush()

    async def do_drop(self) -> None:
        with suppress(RedisError):
            async with self.redis.client() as client:
                for kind in ("normal", "pubsub"):
                    await client.client_kill_filter(_type=kind, skipme=True)

    async def do_wait(self, milliseconds: int) -> None:
        await asyncio.sleep(milliseconds / 1000)

    async def finish(self) -> None:
        """Bring every reply to its end."""
        self.answers.clear()
        for process in self.processes:
            await process.lease.renew()
        for number, reply_id in enumerate(self.replies.values()):
            async with asyncio.timeout(PATIENCE):
                while (await self.stored())[reply_id].state is MessageState.PENDING:
                    for process in self.processes:
                        await process.takeover.sweep()
                    try:
                        caller = self.processes[number % 2].caller
                        await self.processes[number % 2].turns.cancel(caller, reply_id)
                    except Unavailable:
                        pass
                    await asyncio.sleep(0.01)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self.readers)

    async def stored(self) -> dict[UUID, Message]:
        listed, _ = await Conversations(self.database).messages(self.user_id, self.conversation_id, Page(1000))
        return {message.id: message for message in listed}

    async def check(self) -> None:
        listed = list((await self.stored()).values())
        assert [m.sequence for m in listed] == list(range(1, 2 * len(self.accepted) + 1))
        assert [(m.client_message_id, m.text) for m in listed if m.role is Role.USER] == self.accepted
        replies = [m for m in listed if m.role is Role.ASSISTANT]
        assert [m.id for m in replies] == [self.replies[key] for key, _ in self.accepted]
        for reply in replies:
            assert reply.state.finished
            assert any(text.startswith(reply.text) for text in self.texts) or not reply.text
            assert reply.state is not MessageState.COMPLETE or reply.text in self.texts
            told = []
            for process in self.processes:
                events = await process.followed(reply.id)
                assert [event.sequence for event in events] == list(range(1, len(events) + 1))
                assert isinstance(events[-1].event, Completed | Failed)
                assert events[-1].event.message == reply
                told.append([outline(event) for event in events])
                for event in events:
                    name = (event.reply_id, event.attempt, event.sequence)
                    assert self.told.get(name, outline(event)) == outline(event)
            assert told[0] == told[1]
            later = [name for name in self.told if name[0] == reply.id and name[1] > reply.attempt]
            assert not later, "no attempt tells anything after another one is stored"


def outline(event: ReplyEvent) -> object:
    """What an event says; of an error, its text, since errors are not compared."""
    return str(event.event.error) if isinstance(event.event, Failed) else event


@pytest_asyncio.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path) as server:
        yield server


@pytest_asyncio.fixture
async def model(provider: Provider) -> AsyncIterator[ChatModel]:
    async with aclosing(build_chat_model(model_settings(provider))) as opened:
        yield opened


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for seconds."""
    monkeypatch.setattr(service, "PREDECESSOR_POLL", MOMENT)
    monkeypatch.setattr(checkpoints, "INTERVAL", MOMENT)
    monkeypatch.setattr(shared_logs, "PAUSE", MOMENT)
    monkeypatch.setattr(written_logs, "PAUSE", MOMENT)
    monkeypatch.setattr(mirrors, "CHECK", 5 * MOMENT)
    monkeypatch.setattr(streams, "PAUSE", MOMENT)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    # Others each time, in continuous integration, too.
    derandomize=False,
    print_blob=True,
    # What meets what is not repeatable, so that attempts to shorten a failure would take long and show another.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(histories=st.lists(st.lists(OPERATIONS, min_size=1, max_size=20), min_size=AT_ONCE, max_size=AT_ONCE))
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.usefixtures("moments")
# The client library forgets to close what it was connecting to Redis when the connection was dropped or given up.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
async def test_whatever_happens_each_message_is_accepted_once_and_has_one_reply(
    database: Database,
    provider: Provider,
    redis: RedisServer,
    model: ChatModel,
    part: int,
    histories: list[list[tuple[object, ...]]],
) -> None:
    by_conversation: dict[str, History] = {}
    provider.answer = lambda body: by_conversation[body["messages"][-1]["content"][-36:]].answer(body)

    async def run(operations: list[tuple[object, ...]]) -> None:
        user_id = uuid4()
        conversations = Conversations(database)
        made = await conversations.create(user_id, title="", settings=TurnSettings(), labels={}, request_id=None)
        async with AsyncExitStack() as stack:
            history = History(database, provider, model, redis, user_id, made.id, stack)
            by_conversation[str(made.id)] = history
            history.processes = [await history.start(at) for at in range(2)]
            for name, *details in operations:
                await getattr(history, f"do_{name}")(*details)
            await history.finish()
            await history.check()

    async with asyncio.TaskGroup() as running:
        for operations in histories:
            running.create_task(run(operations))
    provider.requests.clear()
