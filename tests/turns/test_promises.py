"""Promise 1 (nothing lost) over random lives of a conversation: sends, resends, vanishing readers, cancels, resumes,
faults of the provider and deaths of processes, against a plain list of what was accepted."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.domain import MessageState, Page, Role, TurnSettings
from chatrpc.errors import AlreadyExists, Unavailable
from chatrpc.turns.events import Completed, Failed, ReplyEvent
from tests.support.provider import Answer, Fault, Provider
from tests.turns.conftest import Process, running

KEYS = st.integers(0, 5)
TEXTS = st.sampled_from(["one", "two"])
ANSWERS = st.sampled_from(
    [
        Answer(),
        Answer(deltas=("a", "b", "c")),
        Answer(status=500),
        Answer(deltas=("par", "tial"), fault=Fault.CUT),
        Answer(deltas=("on ", "and on"), fault=Fault.STALL),
    ]
)
OPERATIONS = st.one_of(
    st.tuples(st.just("send"), KEYS, TEXTS, st.integers(0, 4)),
    st.tuples(st.just("send"), KEYS, TEXTS, st.integers(0, 4)),
    st.tuples(st.just("answer"), ANSWERS),
    st.tuples(st.just("cancel"), KEYS),
    st.tuples(st.just("resume"), KEYS, st.integers(0, 6)),
    st.tuples(st.just("die")),
)


@dataclass
class Life:
    """A conversation, the process that serves it, and what a plain model says of both."""

    database: Database
    provider: Provider
    user_id: UUID
    conversation_id: UUID
    stack: AsyncExitStack
    process: Process | None = None
    accepted: list[tuple[str, str]] = field(default_factory=list)
    replies: dict[str, UUID] = field(default_factory=dict)
    told: dict[tuple[UUID, int, int], ReplyEvent] = field(default_factory=dict)

    async def start(self) -> Process:
        opened = running(self.database, self.provider, self.user_id, self.conversation_id)
        self.process = await self.stack.enter_async_context(opened)
        return self.process

    async def do_send(self, number: int, text: str, read: int) -> None:
        assert self.process is not None
        key, known = f"key-{number}", dict(self.accepted)
        try:
            accepted, events = await self.process.send(text, key)
        except AlreadyExists:
            assert known[key] != text
            return
        assert known.get(key, text) == text
        assert accepted.duplicate == (key in known)
        assert self.replies.setdefault(key, accepted.reply.id) == accepted.reply.id
        if key not in known:
            self.accepted.append((key, text))
        await self.read(events, read)

    async def read(self, events: object, at_most: int) -> None:
        """Read some events and vanish. Whoever reads an event of a name reads the same."""
        try:
            for _ in range(at_most):
                event = await anext(events)  # type: ignore[call-overload]
                name = (event.reply_id, event.attempt, event.sequence)
                assert _outline(self.told.setdefault(name, event)) == _outline(event)
                # A stalled provider says nothing further: only what is sure to come is read.
                if event.last or event.sequence >= 2:
                    break
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    async def do_answer(self, answer: Answer) -> None:
        self.provider.script(answer)

    async def do_cancel(self, number: int) -> None:
        assert self.process is not None
        reply_id = self.replies.get(f"key-{number}")
        if reply_id is not None:
            await self.process.turns.cancel(self.process.caller, reply_id)

    async def do_resume(self, number: int, after: int) -> None:
        assert self.process is not None
        reply_id = self.replies.get(f"key-{number}")
        seen = [name for name in self.told if name[0] == reply_id and name[2] == after]
        if reply_id is not None and seen:
            events = await self.process.turns.follow(self.process.caller, reply_id, seen[-1][1], after)
            await events.aclose()

    async def do_die(self) -> None:
        """The process ends between two instructions: nothing more is written, and its lease runs out."""
        assert self.process is not None
        ending = list(self.process.turns._running._tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        async with self.database.unbound() as connection:
            await connection.execute("DELETE FROM server_processes WHERE id = %s", (self.process.process_id,))
        await self.start()

    async def finish(self) -> dict[str, list[ReplyEvent]]:
        """Every reply's events, to the end."""
        assert self.process is not None
        self.provider._scripted.clear()
        ended = {}
        for key, reply_id in self.replies.items():
            await self._stop_if_stalled(reply_id)
            ended[key] = await self.process.followed(reply_id)
        return ended

    async def _stop_if_stalled(self, reply_id: UUID) -> None:
        assert self.process is not None
        try:
            await self.process.turns.cancel(self.process.caller, reply_id)
        except Unavailable:
            raise AssertionError("no other process lives") from None


def _outline(event: ReplyEvent) -> object:
    """What an event says; of an error, its text, since errors are not compared."""
    return str(event.event.error) if isinstance(event.event, Failed) else event


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(OPERATIONS, min_size=1, max_size=14))
async def test_what_was_accepted_is_there_once_in_order_with_one_reply(
    database: Database, provider: Provider, operations: list[tuple[object, ...]]
) -> None:
    user_id = uuid4()
    conversations = Conversations(database)
    made = await conversations.create(user_id, title="", settings=TurnSettings(), labels={}, request_id=None)
    async with AsyncExitStack() as stack:
        life = Life(database, provider, user_id, made.id, stack)
        await life.start()
        for name, *details in operations:
            await getattr(life, f"do_{name}")(*details)
        ended = await life.finish()
        again = await life.finish()

    listed, _ = await conversations.messages(user_id, made.id, Page(1000))
    assert [m.sequence for m in listed] == list(range(1, 2 * len(life.accepted) + 1))
    said = [(m.client_message_id, m.text) for m in listed if m.role is Role.USER]
    assert said == life.accepted
    replies = [m for m in listed if m.role is Role.ASSISTANT]
    assert [m.id for m in replies] == [life.replies[key] for key, _ in life.accepted]
    assert all(m.state is not MessageState.PENDING for m in replies)
    for key, events in ended.items():
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert isinstance(events[-1].event, Completed | Failed)
        stored = next(m for m in replies if m.id == life.replies[key])
        assert events[-1].event.message == stored
        assert [_outline(event) for event in again[key]] == [_outline(event) for event in events]
        for event in events:
            name = (event.reply_id, event.attempt, event.sequence)
            assert _outline(life.told.get(name, event)) == _outline(event)
