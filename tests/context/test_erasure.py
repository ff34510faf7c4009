"""Promise 4: what is erased is nowhere, whatever happened before and is under way, and promise 2 holds for the rest."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.domain import Fact, FactKind, Message, MessageState
from chatrpc.ports import Folding, Upsert
from tests.context.household import Household, ListingSummarizer, Turn
from tests.db.home import tables_holding

BASES = st.sampled_from(["my cat is called Tom", "the cat sleeps on the red sofa", "we meet in Paris on Friday"])
BACK = st.integers(0, 12)
PROCESS = st.integers(0, 1)
OPERATIONS = st.one_of(
    st.tuples(st.just("talk"), st.lists(BASES, min_size=1, max_size=4), PROCESS),
    st.tuples(st.just("talk"), st.lists(BASES, min_size=1, max_size=4), PROCESS),
    st.tuples(st.just("send"), BASES, PROCESS),
    st.tuples(st.just("branch"), BACK, BASES, PROCESS),
    st.tuples(st.just("finish"), BACK, PROCESS),
    st.tuples(st.just("erase"), BACK, st.booleans(), st.booleans()),
    st.tuples(st.just("erase"), BACK, st.booleans(), st.booleans()),
    st.tuples(st.just("erase while remembering"), BACK, st.booleans()),
    st.tuples(st.just("remember")),
    st.tuples(st.just("preview"), BASES, PROCESS),
    st.tuples(st.just("switch conversation")),
)


class QuotingSummarizer(ListingSummarizer):
    """Quotes all messages in the narrative, and makes a fact of each."""

    async def fold(
        self, narrative: str, facts: Sequence[Fact], messages: Sequence[Message], max_tokens: int
    ) -> Folding:
        self.folded += messages
        quotes = "".join(f"#{message.sequence} {message.text} " for message in messages)
        changes = tuple(
            Upsert(f"said {message.sequence}", FactKind.DECISION, message.text, message.sequence)
            for message in messages
            if message.text
        )
        return Folding(narrative + quotes, changes)


@dataclass
class Life:
    """Two conversations, what was said in them with a mark of its own in each message, and what was erased."""

    household: Household
    current: int = 0
    marks: itertools.count = field(default_factory=itertools.count)
    unfinished: list[Turn] = field(default_factory=list)
    erased: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.conversations = Conversations(self.household.database)

    @property
    def conversation_id(self) -> UUID:
        return self.household.conversations[self.current]

    def marked(self, base: str) -> str:
        return f"{base} zq{next(self.marks)}x"

    async def do(self, name: str, *details: object) -> None:
        await getattr(self, "do_" + name.replace(" ", "_"))(*details)

    async def do_talk(self, bases: list[str], process: int) -> None:
        for base in bases:
            turn = await self.household.send(self.conversation_id, self.marked(base), process=process)
            report = (await self.household.assemble(turn, process)).report
            await self.household.finish(turn, self.marked(f"yes, {base}"), process=process, report=report)

    async def do_send(self, base: str, process: int) -> None:
        turn = await self.household.send(self.conversation_id, self.marked(base), process=process)
        self.unfinished.append(turn)

    async def do_branch(self, back: int, base: str, process: int) -> None:
        here = [t for t in self.household.turns if t.accepted.message.conversation_id == self.conversation_id]
        if here:
            parent = here[-1 - back % len(here)].accepted.reply.id
            turn = await self.household.send(self.conversation_id, self.marked(base), parent=parent, process=process)
            self.unfinished.append(turn)

    async def do_finish(self, back: int, process: int) -> None:
        if self.unfinished:
            turn = self.unfinished.pop(-1 - back % len(self.unfinished))
            # As every turn does that had to wait; see chatrpc.turns.generation.
            self.household.processes[process].forget(self.household.user_id, turn.accepted.message.conversation_id)
            report = (await self.household.assemble(turn, process)).report
            await self.household.finish(turn, self.marked("so be it"), process=process, report=report)

    async def do_erase(self, back: int, reply: bool, include_reply: bool) -> None:
        if self.household.turns:
            turn = self.household.turns[-1 - back % len(self.household.turns)]
            named = turn.accepted.reply.id if reply else turn.accepted.message.id
            await self.conversations.erase_message(self.household.user_id, named, include_reply=include_reply)
            await self.expect_erased(turn, named, include_reply)

    async def do_erase_while_remembering(self, back: int, include_reply: bool) -> None:
        await self.household.let_time_pass()
        await asyncio.gather(self.household.worker.drain(), self.do_erase(back, False, include_reply))
        await self.expect_nothing_erased()

    async def do_remember(self) -> None:
        await self.household.let_time_pass()
        await self.household.worker.drain()
        await self.expect_nothing_erased()

    async def do_preview(self, base: str, process: int) -> None:
        await self.household.preview(self.conversation_id, base, process)

    async def do_switch_conversation(self) -> None:
        self.current = 1 - self.current

    async def expect_erased(self, turn: Turn, named: UUID, include_reply: bool) -> None:
        messages, reply = self.household.messages, turn.accepted.reply.id
        if turn in self.unfinished:
            self.unfinished.remove(turn)
            messages[reply] = replace(messages[reply], state=MessageState.CANCELLED)
        for message_id in {named, reply} if include_reply else {named}:
            self.erased += [word for word in messages[message_id].text.split() if word.startswith("zq")]
            messages[message_id] = replace(messages[message_id], state=MessageState.ERASED, parts=())
        await self.expect_nothing_erased()

    async def expect_nothing_erased(self) -> None:
        database, user_id = self.household.database, self.household.user_id
        for mark in self.erased:
            assert await tables_holding(database, user_id, mark) == []


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(st.integers(2, 4), st.integers(2, 4)), st.lists(OPERATIONS, min_size=10, max_size=35))
async def test_no_table_holds_what_was_erased_and_every_context_holds_the_rest(
    database: Database, space_id: int, sizes: tuple[int, int], operations: list[tuple[object, ...]]
) -> None:
    life = Life(Household(database, space_id, *sizes, summarizer=QuotingSummarizer()))
    for _ in range(2):
        await life.household.open_conversation()
    for operation in operations:
        await life.do(*operation)
    for _ in range(2):
        await life.do("remember")
    for conversation_id in life.household.conversations:
        context = await life.household.preview(conversation_id, "what is my cat called")
        assert not any(mark in each.content for each in context.prompt for mark in life.erased)


async def test_a_summary_is_made_anew_without_what_was_erased(database: Database, space_id: int) -> None:
    life = Life(Household(database, space_id, keep=4, fold=4, summarizer=QuotingSummarizer()))
    conversation_id = await life.household.open_conversation()
    await life.do_talk(["my cat is called Tom"] * 8, 0)
    await life.do_remember()
    before = await life.household.preview(conversation_id, "and now?")
    await life.do_erase(7, False, False)
    meanwhile = await life.household.preview(conversation_id, "and now?")
    assert (meanwhile.report.summary_version, meanwhile.report.summary_rebuilding) == (None, True)
    await life.do_remember()
    after = await life.household.preview(conversation_id, "and now?")
    assert after.report.summarized_through_depth == before.report.summarized_through_depth == 12
    assert not after.report.summary_rebuilding
    assert after.report.summary_version > before.report.summary_version
    assert life.erased == ["zq0x"]
