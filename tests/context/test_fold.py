"""Folding on a real database: bounds, refusals, poison, and summaries made anew after an erasure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatrpc.context.fold import FACTS_SHARE, MOST_REFUSALS
from chatrpc.context.prompt import summary_body
from chatrpc.db.engine import Database
from chatrpc.db.summaries import Summaries
from chatrpc.domain import Fact, FactKind, HotPath, Message, Section, Summary
from chatrpc.errors import ModelRejected, Reason, SummaryRefused
from chatrpc.models.summary.facts import cost
from chatrpc.ports import FactChange, Folding, Retract, Upsert
from chatrpc.settings import ContextSettings
from chatrpc.tokens import estimate_tokens
from tests.context.household import AWAY, REFUSED, Household, ListingSummarizer

TOKENS = 400
REJECTED = ModelRejected(Reason.MODEL_REJECTED, "The endpoint refuses the request.", model="m")


class ScriptedSummarizer(ListingSummarizer):
    """Proposes the changes that it is given, or raises; without any, one fact for each batch."""

    def __init__(self, *proposals: Sequence[FactChange] | str | Exception) -> None:
        super().__init__()
        self.proposals = list(proposals)
        self.merges: list[Sequence[FactChange] | Exception] = []
        self.batches: list[list[int]] = []
        self.merged: list[list[str]] = []

    async def fold(
        self, narrative: str, facts: Sequence[Fact], messages: Sequence[Message], max_tokens: int
    ) -> Folding:
        self.batches.append([message.depth for message in messages])
        proposal = self.proposals.pop(0) if self.proposals else self._one_fact(messages)
        if isinstance(proposal, Exception):
            raise proposal
        folding = await super().fold(narrative, facts, messages, max_tokens)
        if isinstance(proposal, str):
            return Folding(proposal, ())
        return Folding(folding.narrative, tuple(proposal))

    async def merge(self, facts: Sequence[Fact], max_tokens: int) -> tuple[FactChange, ...]:
        self.merged.append([fact.key for fact in facts])
        changes = self.merges.pop(0) if self.merges else ()
        if isinstance(changes, Exception):
            raise changes
        return tuple(changes)

    @staticmethod
    def _one_fact(messages: Sequence[Message]) -> list[FactChange]:
        return [Upsert(f"depth.{messages[0].depth}", FactKind.DETAIL, messages[0].text, messages[0].sequence)]


def household_with(database: Database, space_id: int, summarizer: ListingSummarizer, tokens: int = 8_192) -> Household:
    return Household(database, space_id, keep=4, fold=4, summarizer=summarizer, summary_tokens=tokens)


async def hot_path(household: Household, conversation_id: UUID) -> HotPath:
    conversation = await household.recall.conversation(household.user_id, conversation_id)
    return await household.recall.hot_path(household.user_id, conversation_id, conversation.path, keep=4)


async def summary_of(household: Household, conversation_id: UUID) -> Summary:
    hot = await hot_path(household, conversation_id)
    assert hot.summary is not None
    return hot.summary


async def erase(household: Household, conversation_id: UUID, message_id: UUID) -> int:
    async with household.database.transaction(household.user_id) as connection:
        return await Summaries.invalidate(connection, household.user_id, conversation_id, message_id)


async def keep_trying(household: Household, times: int) -> None:
    for _ in range(times):
        await household.let_time_pass()
        await household.worker.drain()


async def test_facts_stand_in_the_prompt_with_their_number_in_the_report(database: Database, space_id: int) -> None:
    household = household_with(database, space_id, ScriptedSummarizer())
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 6)
    await household.worker.drain()
    context = await household.preview(conversation_id, "and now?")
    [shown] = [each.content for each in context.prompt if each.section is Section.SUMMARY]
    assert (
        "Known facts:\n- question 0 about the weather\n- question 2 about the weather\nWhat has happened:\n#1" in shown
    )
    assert context.report.fact_count == 2
    assert not context.report.summary_rebuilding


async def test_a_new_fact_stands_behind_the_old_ones_so_that_the_prompt_begins_alike(
    database: Database, space_id: int
) -> None:
    changes = [
        [Upsert("b", FactKind.DETAIL, "bees", 3), Upsert("a", FactKind.NAME, "apples", 1)],
        [Upsert("c", FactKind.NAME, "cherries", 5), Upsert("b", FactKind.DETAIL, "bumblebees", 6)],
    ]
    household = household_with(database, space_id, ScriptedSummarizer(*changes))
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 6)
    await household.worker.drain()
    summary = await summary_of(household, conversation_id)
    assert [fact.text for fact in summary.facts] == ["bumblebees", "apples", "cherries"]


@pytest.mark.parametrize("error", [REFUSED, REJECTED, RuntimeError("a fault")], ids=["refused", "rejected", "fault"])
async def test_a_batch_that_is_always_refused_is_folded_without_the_summarizer(
    database: Database, space_id: int, error: Exception
) -> None:
    summarizer = ScriptedSummarizer([], *[error] * MOST_REFUSALS)
    household = household_with(database, space_id, summarizer)
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 4)
    await household.worker.drain()
    await household.talk(conversation_id, 2, "my sister is called Ingrid")
    for _ in range(MOST_REFUSALS - 1):
        await keep_trying(household, 1)
        assert (await summary_of(household, conversation_id)).version == 1
    await keep_trying(household, 1)
    poisoned = await summary_of(household, conversation_id)
    assert (poisoned.anchor_depth, poisoned.model) == (8, "chatrpc-extractive")
    assert poisoned.text.startswith("#1#2#3#4")
    await household.talk(conversation_id, 2)
    await keep_trying(household, 1)
    after = await summary_of(household, conversation_id)
    assert (after.anchor_depth, after.model) == (12, "listing")
    assert summarizer.batches[-1] == [9, 10, 11, 12]


async def test_an_endpoint_that_is_away_is_waited_for(database: Database, space_id: int) -> None:
    household = household_with(database, space_id, ScriptedSummarizer(*[AWAY] * (2 * MOST_REFUSALS)))
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 4)
    await keep_trying(household, 2 * MOST_REFUSALS)
    assert (await hot_path(household, conversation_id)).summary is None
    await keep_trying(household, 1)
    assert (await summary_of(household, conversation_id)).model == "listing"


@pytest.mark.parametrize("narrative", ["", "bloated " * 400], ids=["empty", "bloated"])
async def test_a_narrative_out_of_bounds_is_refused_whoever_wrote_it(
    database: Database, space_id: int, narrative: str
) -> None:
    household = household_with(database, space_id, ScriptedSummarizer(narrative), TOKENS)
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 4)
    await household.worker.drain()
    assert (await hot_path(household, conversation_id)).summary is None
    await keep_trying(household, 1)
    assert (await summary_of(household, conversation_id)).text == "#1#2#3#4"


def facts_of(count: int, text: str) -> list[FactChange]:
    return [Upsert(f"k{number}", FactKind.DETAIL, f"{text} number {number}") for number in range(count)]


async def test_facts_that_are_too_many_are_said_shorter_before_any_is_let_go(database: Database, space_id: int) -> None:
    summarizer = ScriptedSummarizer(facts_of(12, "The very same thing with the long name of"))
    summarizer.merges = [[Upsert(f"k{n}", FactKind.DETAIL, f"very same thing long name number {n}") for n in range(6)]]
    summarizer.merges.append([Retract(f"k{n}", "gone") for n in range(12)])
    household = household_with(database, space_id, summarizer, 300)
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 4)
    await household.worker.drain()
    facts = (await summary_of(household, conversation_id)).facts
    assert summarizer.merged[0] == [f"k{n}" for n in range(6)]
    assert [fact.text for fact in facts[:6]] == [f"very same thing long name number {n}" for n in range(6)]
    assert cost(facts) <= 300 * FACTS_SHARE
    # A merge that only takes away is not taken, whatever it cost.
    assert len(facts) >= 9


@pytest.mark.parametrize("error", [REFUSED, REJECTED])
async def test_a_merge_that_is_refused_costs_the_least_facts_and_not_the_fold(
    database: Database, space_id: int, error: Exception
) -> None:
    summarizer = ScriptedSummarizer(facts_of(30, "Some thing"))
    summarizer.merges = [error, error]
    household = household_with(database, space_id, summarizer, 200)
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 4)
    await household.worker.drain()
    facts = (await summary_of(household, conversation_id)).facts
    assert 0 < len(facts) < 30
    assert cost(facts) <= 200 * FACTS_SHARE


async def test_after_an_erasure_the_rest_is_folded_anew_in_large_steps(database: Database, space_id: int) -> None:
    summarizer = ScriptedSummarizer()
    household = household_with(database, space_id, summarizer)
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 20)
    await household.worker.drain()
    assert len(summarizer.batches) == 9
    erased = household.turns[3].accepted.message
    assert await erase(household, conversation_id, erased.id) == 8
    context = await household.preview(conversation_id, "and now?")
    assert context.report.summary_rebuilding
    assert context.report.summarized_through_depth == 4
    assert context.report.fact_count == 1
    summarizer.batches.clear()
    await household.worker.drain()
    assert summarizer.batches == [list(range(5, 37))]
    context = await household.preview(conversation_id, "and now?")
    assert not context.report.summary_rebuilding
    assert context.report.summarized_through_depth == 36
    # Then it goes on in its usual steps.
    await household.talk(conversation_id, 2)
    await household.worker.drain()
    assert summarizer.batches[-1] == [37, 38, 39, 40]


async def test_steps_after_an_erasure_are_no_larger_than_what_is_read_whole(database: Database, space_id: int) -> None:
    summarizer = ScriptedSummarizer()
    household = household_with(database, space_id, summarizer)
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 20)
    await household.worker.drain()
    await erase(household, conversation_id, household.turns[0].accepted.message.id)
    summarizer.batches.clear()
    summarizer.batch_tokens = sum(message.tokens for message in list(household.messages.values())[:8]) + 4
    await household.worker.drain()
    assert summarizer.batches[0] == list(range(1, 9))
    assert list(chain(*summarizer.batches)) == list(range(1, 37))


async def test_a_fold_that_read_an_erased_message_is_thrown_away(database: Database, space_id: int) -> None:
    class Slow(ScriptedSummarizer):
        async def fold(
            self, narrative: str, facts: Sequence[Fact], messages: Sequence[Message], max_tokens: int
        ) -> Folding:
            if not self.batches:
                await erase(household, conversation_id, messages[0].id)
            return await super().fold(narrative, facts, messages, max_tokens)

    household = household_with(database, space_id, Slow([Upsert("secret", FactKind.NAME, "the secret", 1)]))
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 4)
    await household.worker.drain()
    await keep_trying(household, 1)
    summary = await summary_of(household, conversation_id)
    assert "secret" not in {fact.key for fact in summary.facts}
    assert summary.version == 1


PROPOSALS = st.one_of(
    st.sampled_from([REFUSED, REJECTED, AWAY, RuntimeError("a fault"), SummaryRefused("nested")]),
    st.sampled_from(["", "short", "bloated " * 500]),
    st.lists(
        st.one_of(
            st.builds(
                Upsert,
                st.sampled_from(["a", "A ", "b", "c.d", "", "é"]) | st.integers(0, 60).map(lambda n: f"k{n}"),
                st.sampled_from(FactKind),
                st.sampled_from(["x", "", "a fact of some length", "word " * 200]) | st.text(max_size=40),
                st.integers(-1, 60),
            ),
            st.builds(Retract, st.sampled_from(["a", "b", "k1", "zz"]), st.just("why"), st.integers(0, 60)),
        ),
        max_size=40,
    ),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PROPOSALS, min_size=4, max_size=14), st.integers(128, 600))
async def test_whatever_a_summarizer_proposes_versions_are_bounded_and_skip_no_message(
    database: Database, space_id: int, proposals: list[Sequence[FactChange] | str | Exception], tokens: int
) -> None:
    household = household_with(database, space_id, ScriptedSummarizer(*proposals), tokens)
    conversation_id = await household.open_conversation()
    covered = 0
    for _ in range(5):
        await household.talk(conversation_id, 3)
        await keep_trying(household, 3)
        hot = await hot_path(household, conversation_id)
        if hot.summary is None:
            continue
        assert hot.summary.anchor_depth >= covered
        assert hot.summary.anchor_depth % 4 == 0
        covered = hot.summary.anchor_depth
        assert [message.depth for message in hot.messages] == list(range(covered + 1, hot.path[-1][1] + 1))
        body = summary_body(hot.summary.text, hot.summary.facts)
        assert 0 < estimate_tokens(body) <= hot.summary.tokens <= tokens
        keys = [fact.key for fact in hot.summary.facts]
        assert len(set(keys)) == len(keys)
    # Nothing stops a conversation for good.
    for _ in range(4 * MOST_REFUSALS + len(proposals)):
        await keep_trying(household, 1)
        hot = await hot_path(household, conversation_id)
        if hot.summary is not None and hot.summary.anchor_depth == 24:
            break
    await keep_trying(household, 1)
    assert (await summary_of(household, conversation_id)).anchor_depth == 24


def test_the_window_of_a_summary_has_room_for_both_parts() -> None:
    smallest = ContextSettings.model_fields["summary_tokens"].metadata[0].ge
    assert smallest * (1 - FACTS_SHARE) > 40
