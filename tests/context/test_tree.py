"""Promise 2 over random lives of trees of messages: edits, regenerated replies, switches, forks and erasures, against a
plain model of parents and heads. On the active path nothing is skipped; what is on other branches stays readable."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID, uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatrpc.db.branches import Siblings
from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.domain import (
    AssembledContext,
    Fact,
    Message,
    MessageState,
    Page,
    Regeneration,
    Role,
    TextPart,
    TurnSettings,
)
from chatrpc.errors import FailedPrecondition
from chatrpc.ports import Folding
from tests.context.household import Household, ListingSummarizer, Turn

TEXTS = st.sampled_from(["my cat is called Tom", "the cat sleeps on the red sofa", "we meet in Paris on Friday"])
BACK = st.one_of(st.integers(0, 3), st.integers(0, 30))
PROCESS = st.integers(0, 1)
OPERATIONS = st.one_of(
    st.tuples(st.just("talk"), st.lists(TEXTS, min_size=1, max_size=4), PROCESS),
    st.tuples(st.just("talk"), st.lists(TEXTS, min_size=1, max_size=4), PROCESS),
    st.tuples(st.just("send"), TEXTS, PROCESS),
    st.tuples(st.just("edit"), BACK, TEXTS, PROCESS),
    st.tuples(st.just("regenerate"), BACK, st.booleans(), PROCESS),
    st.tuples(st.just("finish"), BACK, TEXTS, PROCESS),
    st.tuples(st.just("switch"), BACK),
    st.tuples(st.just("switch"), BACK),
    st.tuples(st.just("fork"), BACK),
    st.tuples(st.just("erase"), BACK, st.booleans(), PROCESS),
    st.tuples(st.just("remember")),
    st.tuples(st.just("change conversation"), BACK),
)
MARK = re.compile(r"\((\d+)\)$")


def mark_of(message: Message) -> int | None:
    """The number that a message, and each copy of it, ends with."""
    found = MARK.search(message.text)
    return int(found[1]) if found else None


class MarkingSummarizer(ListingSummarizer):
    """Names messages by their marks, which copies keep, and not by their numbers."""

    async def fold(
        self, narrative: str, facts: Sequence[Fact], messages: Sequence[Message], max_tokens: int
    ) -> Folding:
        self.folded += messages
        marks = [mark_of(message) for message in messages]
        return Folding(narrative + "".join(f"#{mark}" for mark in marks if mark is not None), ())


class TreeHousehold(Household):
    def number(self, message: Message) -> int:
        return mark_of(message) or -message.sequence

    def check(self, context: AssembledContext, path: list[UUID | None]) -> None:
        super().check(context, path)
        # Nothing twice, be it that one is the copy of the other.
        window = {self.messages[ref.message_id].text for ref in context.report.verbatim if ref.message_id is not None}
        texts = [hit.text for hit in context.report.hits]
        assert window.isdisjoint(texts)
        assert len(texts) == len(set(texts))


@dataclass
class Life:
    household: TreeHousehold
    current: int = 0
    marks: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    unfinished: list[Turn] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.conversations = Conversations(self.household.database)

    @property
    def conversation_id(self) -> UUID:
        return self.household.conversations[self.current]

    def of(self, conversation_id: UUID) -> list[Message]:
        """All messages of a conversation, in order."""
        own = [each for each in self.household.messages.values() if each.conversation_id == conversation_id]
        return sorted(own, key=lambda message: message.sequence)

    def pick(self, back: int) -> Message | None:
        here = self.of(self.conversation_id)
        return here[-1 - back % len(here)] if here else None

    def marked(self, text: str) -> str:
        return f"{text} ({next(self.marks)})"

    async def do(self, name: str, *details: object) -> None:
        await getattr(self, "do_" + name.replace(" ", "_"))(*details)
        await self.check(self.conversation_id)

    async def check(self, conversation_id: UUID) -> None:
        """The database holds the tree of the model."""
        user_id, household = self.household.user_id, self.household
        active, _ = await self.conversations.messages(user_id, conversation_id, Page(1_000))
        assert [each.id for each in active] == household.path_to(household.heads.get(conversation_id))
        everything, _ = await self.conversations.messages(user_id, conversation_id, Page(1_000), all_branches=True)
        expected = self.of(conversation_id)
        assert [each.sequence for each in everything] == list(range(1, len(expected) + 1))
        assert [(m.id, m.parent_id, m.text) for m in everything] == [(m.id, m.parent_id, m.text) for m in expected]
        by_parent: dict[UUID | None, list[UUID]] = {}
        for message in expected:
            by_parent.setdefault(message.parent_id, []).append(message.id)
        told = await self.conversations.branches.siblings(user_id, conversation_id, everything)
        several = {parent: ids for parent, ids in by_parent.items() if len(ids) > 1}
        assert {each.parent_id: list(each.message_ids) for each in told} == several
        assert all(isinstance(each, Siblings) for each in told)

    async def do_talk(self, texts: list[str], process: int) -> None:
        for text in texts:
            turn = await self.household.send(self.conversation_id, self.marked(text), process=process)
            await self.household.assemble(turn, process)
            await self.household.finish(turn, self.marked(text), process=process)

    async def do_send(self, text: str, process: int) -> None:
        turn = await self.household.send(self.conversation_id, self.marked(text), process=process)
        self.unfinished.append(turn)
        await self.household.assemble(turn, process)

    async def do_edit(self, back: int, text: str, process: int) -> None:
        message = self.pick(back)
        if message is None or message.role is not Role.USER:
            return
        parent = message.parent_id
        turn = await self.household.send(
            self.conversation_id, self.marked(text), parent=parent, at_root=parent is None, process=process
        )
        await self.household.assemble(turn, process)
        await self.household.finish(turn, self.marked(text), process=process)

    async def do_regenerate(self, back: int, finished: bool, process: int) -> None:
        message = self.pick(back)
        if message is None:
            return
        household = self.household
        asked = Regeneration(self.conversation_id, message.id, uuid4().hex)
        said = household.messages[message.parent_id] if message.role is Role.ASSISTANT else message
        try:
            accepted = await household.transcript.regenerate(household.user_id, asked, owner=uuid4())
        except FailedPrecondition:
            assert said.state is MessageState.ERASED
            return
        assert said.state is not MessageState.ERASED
        turn = household.begun(accepted)
        assert turn.path[-1] == said.id
        await household.assemble(turn, process)
        if finished:
            await household.finish(turn, self.marked("another answer"), process=process)
        else:
            self.unfinished.append(turn)

    async def do_finish(self, back: int, text: str, process: int) -> None:
        if self.unfinished:
            turn = self.unfinished.pop(-1 - back % len(self.unfinished))
            await self.household.finish(turn, self.marked(text), process=process)

    async def do_switch(self, back: int) -> None:
        message = self.pick(back)
        if message is None:
            return
        below = [each for each in self.of(self.conversation_id) if message.id in self.household.path_to(each.id)]
        self.household.heads[self.conversation_id] = below[-1].id
        await self.conversations.branches.switch(self.household.user_id, message.id)

    async def do_fork(self, back: int) -> None:
        message = self.pick(back)
        if message is None or len(self.household.conversations) == 4:
            return
        household = self.household
        originals = [household.messages[each] for each in household.path_to(message.id)]
        pending = [each for each in originals if not each.state.finished]
        try:
            made = await self.conversations.branches.fork(household.user_id, message.id, request_id=None)
        except FailedPrecondition:
            assert pending
            return
        assert not pending
        copies, _ = await self.conversations.messages(household.user_id, made.id, Page(1_000))
        assert [(m.role, m.state, m.parts) for m in copies] == [(m.role, m.state, m.parts) for m in originals]
        household.messages |= {each.id: each for each in copies}
        household.conversations.append(made.id)
        household.heads[made.id] = copies[-1].id

    async def do_erase(self, back: int, include_reply: bool, process: int) -> None:
        message = self.pick(back)
        if message is None:
            return
        household = self.household
        await self.conversations.erase_message(household.user_id, message.id, include_reply=include_reply)
        household.processes[process].forget(household.user_id, self.conversation_id)
        replies = [each for each in household.messages.values() if each.parent_id == message.id]
        replies = replies if message.role is Role.USER else [message]
        for each in replies:
            if household.messages[each.id].state is MessageState.PENDING and message.state is not MessageState.ERASED:
                household.messages[each.id] = replace(each, state=MessageState.CANCELLED)
                self.unfinished = [turn for turn in self.unfinished if turn.accepted.reply.id != each.id]
        for each in (message, *(replies if include_reply else ())):
            erased = replace(household.messages[each.id], state=MessageState.ERASED, parts=())
            household.messages[each.id] = erased

    async def do_remember(self) -> None:
        await self.household.let_time_pass()
        await self.household.worker.drain()

    async def do_change_conversation(self, back: int) -> None:
        self.current = back % len(self.household.conversations)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(st.integers(2, 4), st.integers(2, 4)), st.lists(OPERATIONS, min_size=10, max_size=30))
async def test_on_the_active_path_of_any_tree_nothing_is_skipped_and_the_rest_stays_readable(
    database: Database, space_id: int, sizes: tuple[int, int], operations: list[tuple[object, ...]]
) -> None:
    household = TreeHousehold(database, space_id, *sizes, summarizer=MarkingSummarizer())
    life = Life(household)
    await household.open_conversation()
    for operation in operations:
        await life.do(*operation)
    await life.do("remember")
    for conversation_id in household.conversations:
        await life.check(conversation_id)
        await household.preview(conversation_id, "what is my cat called")


async def test_an_edit_before_the_watermark_falls_back_to_the_newest_summary_of_an_ancestor(
    household: Household,
) -> None:
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 10)
    await household.worker.drain()
    turns = list(household.turns)
    # With K = B = 4 the anchors are at 4, 8, 12 and 16. The sixth message of the user's is the eleventh of all.
    edit = await household.send(conversation_id, "otherwise", parent=turns[4].accepted.reply.id)
    context = await household.assemble(edit)
    assert (context.report.summarized_through_depth, len(context.report.verbatim)) == (4, 7)
    await household.finish(edit, "as you like")
    again = household.begun(
        await household.transcript.regenerate(
            household.user_id, Regeneration(conversation_id, turns[7].accepted.reply.id, "again"), owner=uuid4()
        )
    )
    context = await household.assemble(again)
    assert (context.report.summarized_through_depth, len(context.report.verbatim)) == (8, 7)
    first = await household.send(conversation_id, "from the beginning", at_root=True)
    context = await household.assemble(first)
    assert (context.report.summary_version, len(context.report.verbatim)) == (None, 1)
    # The summaries serve whoever comes back.
    await Conversations(household.database).branches.switch(household.user_id, turns[9].accepted.message.id)
    household.heads[conversation_id] = turns[9].accepted.reply.id
    back = await household.preview(conversation_id, "where were we")
    assert back.report.summarized_through_depth == 16


async def test_a_fork_knows_what_its_source_knows_and_finds_nothing_twice(household: Household) -> None:
    conversation_id = await household.open_conversation()
    for likes in ("fish", "milk", "mice", "birds", "sofas", "boxes", "snow", "rain", "night", "music"):
        turn = await household.send(conversation_id, f"my cat likes {likes}")
        await household.finish(turn, f"so your cat likes {likes}")
    await household.worker.drain()

    async def found(conversation_id: UUID) -> tuple[int, list[str]]:
        said = (TextPart("what does my cat like, does my cat sleep"),)
        process = household.processes[0]
        context = await process.preview(household.user_id, conversation_id, said, TurnSettings(), None)
        household.check(context, [*household.path_to(household.heads[conversation_id]), None])
        return context.report.summarized_through_depth, [hit.text for hit in context.report.hits]

    alone = await found(conversation_id)
    assert alone[0] == 16
    assert len(set(alone[1])) == len(alone[1]) == 8
    conversations = Conversations(household.database)
    originals = household.path_to(household.heads[conversation_id])
    for _ in range(3):
        made = await conversations.branches.fork(household.user_id, originals[-1], request_id=None)
        copies, _ = await conversations.messages(household.user_id, made.id, Page(100))
        household.messages |= {each.id: each for each in copies}
        household.conversations.append(made.id)
        household.heads[made.id] = copies[-1].id
    await household.worker.drain()
    for each in household.conversations:
        depth, texts = await found(each)
        assert (depth, sorted(texts)) == (alone[0], sorted(alone[1]))
