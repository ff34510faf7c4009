"""Promises 2 (nothing skipped) and 3 (nothing hidden) over random lives of conversations, on a real database."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatrpc.context.fold import MOST_REFUSALS
from chatrpc.db.engine import Database
from chatrpc.domain import MessageState, Section
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
    st.tuples(st.just("talk"), st.lists(st.tuples(TEXTS, ENDINGS), min_size=1, max_size=4), PROCESS),
    st.tuples(st.just("talk"), st.lists(st.tuples(TEXTS, ENDINGS), min_size=1, max_size=4), PROCESS),
    st.tuples(st.just("send"), TEXTS, PROCESS, st.booleans()),
    st.tuples(st.just("branch"), BACK, TEXTS, PROCESS),
    st.tuples(st.just("finish"), BACK, ENDINGS, PROCESS),
    st.tuples(st.just("run queued"), BACK, PROCESS),
    st.tuples(st.just("preview"), TEXTS, PROCESS),
    st.tuples(st.just("remember")),
    st.tuples(st.just("remember")),
    st.tuples(st.just("fail to summarise"), st.sampled_from([REFUSED, AWAY])),
    st.tuples(st.just("switch conversation")),
    st.tuples(st.just("reconfigure"), SIZES),
)


AT_THE_END = (Section.RETRIEVED, Section.QUERY)


class Life:
    def __init__(self, household: Household) -> None:
        self.household = household
        self.current = 0
        self.unfinished = []
        self.failures = 0

    @property
    def conversation_id(self):
        return self.household.conversations[self.current]

    async def do(self, name, *details):
        await getattr(self, "do_" + name.replace(" ", "_"))(*details)

    async def do_talk(self, exchanges, process):
        for text, (state, reply) in exchanges:
            turn = await self.household.send(self.conversation_id, text, process=process)
            await self.household.assemble(turn, process)
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
        self.failures = 0
        self.household.summarizer.failing = None
        await self.household.let_time_pass()
        await self.household.worker.drain()

    async def do_fail_to_summarise(self, error):
        # A batch that is refused several times in a row is folded without the summariser, which lists nothing.
        self.failures += 1
        self.household.summarizer.failing = error if self.failures < MOST_REFUSALS else AWAY
        await self.household.worker.drain()

    async def do_switch_conversation(self):
        self.current = 1 - self.current

    async def do_reconfigure(self, sizes):
        self.household.configure(*sizes)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SIZES, st.lists(OPERATIONS, min_size=15, max_size=50))
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


async def test_a_branch_shortly_behind_an_anchor_takes_an_earlier_summary(household: Household) -> None:
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 10)
    await household.worker.drain()
    replies = [turn.accepted.reply.id for turn in household.turns]
    # With K = B = 4 the anchors are at 4, 8, 12 and 16.
    expected = {2: 0, 4: 4, 5: 4, 7: 8, 9: 12, 10: 16}
    for exchanges, covered in expected.items():
        turn = await household.send(conversation_id, "another way", parent=replies[exchanges - 1])
        context = await household.assemble(turn)
        assert context.report.summarized_through_depth == covered
        await household.send(conversation_id, "back again", parent=replies[-1])


async def test_branches_are_summarised_apart_from_where_they_part(household: Household) -> None:
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 6)
    await household.worker.drain()
    fork = household.turns[2].accepted.reply.id
    turn = await household.send(conversation_id, "another way", parent=fork)
    await household.finish(turn, "as you like")
    await household.talk(conversation_id, 5)
    await household.worker.drain()
    branch = await household.assemble(await household.send(conversation_id, "here"))
    assert branch.report.summarized_through_depth == 12
    trunk = household.turns[5].accepted.reply.id
    back = await household.assemble(await household.send(conversation_id, "there", parent=trunk))
    assert back.report.summarized_through_depth == 8


async def test_a_window_of_another_size_leaves_older_anchors_of_use(household: Household) -> None:
    conversation_id = await household.open_conversation()
    household.configure(keep=2, fold=12)
    await household.talk(conversation_id, 8)
    await household.worker.drain()
    trunk = household.turns[-1].accepted.reply.id
    household.configure(keep=2, fold=4)
    fork = household.turns[3].accepted.reply.id
    await household.finish(await household.send(conversation_id, "another way", parent=fork), "as you like")
    await household.worker.drain()
    branch = await household.preview(conversation_id, "here")
    assert branch.report.summarized_through_depth == 8
    back = await household.send(conversation_id, "there", parent=trunk)
    context = await household.assemble(back)
    assert context.report.summarized_through_depth == 12
    await household.finish(back, "here we are")
    await household.worker.drain()
    context = await household.preview(conversation_id, "and on")
    assert context.report.summarized_through_depth == 16


async def test_messages_that_pile_up_behind_a_running_reply_are_not_folded(household: Household) -> None:
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 2)
    running = await household.send(conversation_id, "a long story please")
    queued = [await household.send(conversation_id, f"and {number}") for number in range(6)]
    await household.worker.drain()
    assert household.summarizer.folded == []
    for turn in (running, *queued):
        await household.assemble(turn)
        await household.finish(turn, "told")
        await household.worker.drain()
    assert len(household.summarizer.folded) == 12


async def test_a_summarizer_that_fails_makes_the_verbatim_part_longer_and_leaves_no_gap(household: Household) -> None:
    conversation_id = await household.open_conversation()
    household.summarizer.failing = REFUSED
    await household.talk(conversation_id, 9)
    await household.worker.drain()
    late = await household.assemble(await household.send(conversation_id, "still here?"))
    assert len(late.report.verbatim) == 19
    await household.finish(household.turns[-1], "yes")
    household.summarizer.failing = None
    await household.let_time_pass()
    await household.worker.drain()
    caught_up = await household.preview(conversation_id, "and now?")
    assert caught_up.report.summarized_through_depth == 16
    assert len(caught_up.report.verbatim) == 5


async def test_between_two_steps_of_the_summary_the_prompt_only_grows(household: Household) -> None:
    conversation_id = await household.open_conversation()
    stable, steps = [], 0
    for number in range(16):
        turn = await household.send(conversation_id, f"question {number}")
        context = await household.assemble(turn)
        before, stable = (
            stable,
            [each for each in context.prompt if each.section not in (Section.RETRIEVED, Section.QUERY)],
        )
        steps += stable[: len(before)] != before
        await household.finish(turn, f"answer {number}")
        await household.worker.drain()
    assert steps == 6
