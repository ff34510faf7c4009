"""Promises 2 (nothing skipped) and 3 (nothing hidden) over random lives of conversations, on a real database."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatrpc.db.engine import Database
from chatrpc.domain import MessageState
from tests.context.household import AWAY, REFUSED, Household

TEXTS = st.sampled_from(
    [
        "my cat is called Tom",
        "the cat Tom sleeps on the red sofa",
        "what is my cat called",
        "we meet in Paris on Friday",
        "when do we meet in Paris",
        "please write a poem about snow",
    ]
)
PROCESS = st.integers(0, 1)
ENDINGS = st.one_of(
    st.tuples(st.just(MessageState.COMPLETE), TEXTS),
    st.tuples(st.sampled_from([MessageState.CANCELLED, MessageState.FAILED]), st.one_of(TEXTS, st.just(""))),
)
SIZES = st.tuples(st.integers(2, 4), st.integers(2, 5))

# How far back on the last turns an operation reaches; the newest is the likeliest.
BACK = st.one_of(st.just(0), st.just(0), st.integers(0, 12))
OPERATIONS = st.one_of(
    st.tuples(st.just("turn"), TEXTS, ENDINGS, PROCESS),
    st.tuples(st.just("turn"), TEXTS, ENDINGS, PROCESS),
    st.tuples(st.just("send"), TEXTS, PROCESS, st.booleans()),
    st.tuples(st.just("branch"), BACK, TEXTS, PROCESS),
    st.tuples(st.just("finish"), BACK, ENDINGS, PROCESS),
    st.tuples(st.just("run queued"), BACK, PROCESS),
    st.tuples(st.just("preview"), TEXTS, PROCESS),
    st.tuples(st.just("remember")),
    st.tuples(st.just("fail to summarise"), st.sampled_from([REFUSED, AWAY])),
    st.tuples(st.just("switch conversation")),
    st.tuples(st.just("reconfigure"), SIZES),
)


class Life:
    def __init__(self, household: Household) -> None:
        self.household = household
        self.current = 0
        self.unfinished = []

    @property
    def conversation_id(self):
        return self.household.conversations[self.current]

    async def do(self, name, *details):
        await getattr(self, "do_" + name.replace(" ", "_"))(*details)

    async def do_turn(self, text, ending, process):
        turn = await self.household.send(self.conversation_id, text, process=process)
        await self.household.assemble(turn, process)
        state, reply = ending
        await self.household.finish(turn, reply, state=state, process=process)

    async def do_send(self, text, process, told):
        turn = await self.household.send(self.conversation_id, text, process=process, told=told)
        self.unfinished.append(turn)
        await self.household.assemble(turn, process)

    async def do_branch(self, back, text, process):
        here = [t for t in self.household.turns if t.accepted.message.conversation_id == self.conversation_id]
        if not here:
            return
        parent = here[-1 - back % len(here)].accepted.reply.id
        turn = await self.household.send(self.conversation_id, text, parent=parent, process=process)
        self.unfinished.append(turn)
        await self.household.assemble(turn, process)

    async def do_finish(self, back, ending, process):
        if self.unfinished:
            turn = self.unfinished.pop(-1 - back % len(self.unfinished))
            await self.household.finish(turn, ending[1], state=ending[0], process=process)

    async def do_run_queued(self, back, process):
        if self.unfinished:
            await self.household.assemble(self.unfinished[-1 - back % len(self.unfinished)], process)

    async def do_preview(self, text, process):
        await self.household.preview(self.conversation_id, text, process)

    async def do_remember(self):
        self.household.summarizer.failing = None
        await self.household.let_time_pass()
        await self.household.worker.drain()

    async def do_fail_to_summarise(self, error):
        self.household.summarizer.failing = error
        await self.household.worker.drain()

    async def do_switch_conversation(self):
        self.current = 1 - self.current

    async def do_reconfigure(self, sizes):
        self.household.configure(*sizes)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SIZES, st.lists(OPERATIONS, min_size=10, max_size=60))
async def test_every_context_holds_each_message_once_and_its_report_says_so(
    database: Database, space_id: int, sizes: tuple[int, int], operations: list[tuple[object, ...]]
) -> None:
    life = Life(Household(database, space_id, *sizes))
    await life.household.open_conversation()
    await life.household.open_conversation()
    for operation in operations:
        await life.do(*operation)
    await life.do("remember")
    for conversation_id in life.household.conversations:
        await life.household.preview(conversation_id, "what is my cat called")
