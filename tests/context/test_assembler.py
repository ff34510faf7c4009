"""What a turn is given, how many round trips that costs, and what happens when a part is slow or away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from chatrpc.context.assembler import ContextAssembler
from chatrpc.context.query import PendingQuery, query_text
from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database, open_database
from chatrpc.db.recall import Recall
from chatrpc.domain import (
    DropReason,
    MemoryScope,
    MessageState,
    RetrievalMode,
    RetrievalOutcome,
    Section,
    TextPart,
    TurnSettings,
)
from chatrpc.errors import NotFound, Reason, Unavailable
from chatrpc.models.profiles import load_profiles
from chatrpc.ports import Vectors
from chatrpc.settings import ContextSettings, DatabaseSettings, ModelSettings
from chatrpc.tokens import estimate_tokens
from tests.context.household import Household
from tests.support.embedder import WordEmbedder

ALONE = TurnSettings(memory_scope=MemoryScope.CONVERSATION)


class CountedEmbedder(WordEmbedder):
    """Counts its calls, and can be slow or away."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def embed(self, texts: Sequence[str]) -> Vectors:
        self.texts += texts
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return await super().embed(texts)


@pytest.fixture
def round_trips(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of statements of each round trip."""
    made: list[int] = []
    rows, query = database.rows, database.query

    async def counted_rows(statement: str, params: Any) -> Any:
        made.append(1)
        return await rows(statement, params)

    async def counted_query(user_id: UUID, *statements: Any) -> Any:
        made.append(len(statements))
        return await query(user_id, *statements)

    monkeypatch.setattr(database, "rows", counted_rows)
    monkeypatch.setattr(database, "query", counted_query)
    return made


def assembler(
    household: Household, embedder: WordEmbedder, space_id: int | None = None, **context: Any
) -> ContextAssembler:
    settings = ContextSettings(hot_path=4, fold=4, **context)
    space = household.space_id if space_id is None else space_id
    profiles = load_profiles(household.model)
    return ContextAssembler(household.recall, embedder, space, settings, profiles, lambda name: name or "m")


async def test_a_warm_turn_costs_one_statement(household: Household, round_trips: list[int]) -> None:
    conversation_id = await household.open_conversation()
    await household.assemble(await household.send(conversation_id, "first"))
    await household.finish(household.turns[-1], "answer")
    turn = await household.send(conversation_id, "second")
    round_trips.clear()
    await household.assemble(turn)
    assert round_trips == [1]


async def test_a_cold_turn_costs_one_statement(household: Household, round_trips: list[int]) -> None:
    turn = await household.talk(await household.open_conversation(), 3)
    household.configure(4, 4)
    turn = await household.send(turn.accepted.message.conversation_id, "after a restart")
    round_trips.clear()
    await household.assemble(turn)
    assert round_trips == [1]


async def test_a_warm_turn_with_nothing_to_search_costs_no_statement(
    household: Household, round_trips: list[int]
) -> None:
    conversation_id = await household.open_conversation(ALONE)
    context = await household.assemble(await household.send(conversation_id, "first"))
    assert context.report.retrieval is RetrievalOutcome.DISABLED
    await household.finish(household.turns[-1], "answer")
    turn = await household.send(conversation_id, "second")
    round_trips.clear()
    context = await household.assemble(turn)
    assert round_trips == []
    assert context.report.retrieval is RetrievalOutcome.DISABLED


async def test_what_another_process_wrote_is_in_the_next_context(household: Household) -> None:
    conversation_id = await household.open_conversation()
    await household.assemble(await household.send(conversation_id, "first", process=0), process=0)
    await household.finish(household.turns[-1], "answer", process=1)
    await household.send(conversation_id, "second", process=1)
    await household.finish(household.turns[-1], "answer of another process", process=1)
    context = await household.assemble(await household.send(conversation_id, "third", process=0), process=0)
    assert "answer of another process" in [each.content for each in context.prompt]


async def test_a_queued_message_is_absent_from_an_earlier_turn(household: Household) -> None:
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 2)
    first = await household.send(conversation_id, "the first")
    await household.send(conversation_id, "the queued one")
    context = await household.assemble(first)
    assert "the queued one" not in "".join(each.content for each in context.prompt)
    assert context.prompt[-1].content == "the first"


async def test_a_turn_that_is_sent_again_gets_the_same_prompt(household: Household) -> None:
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 2)
    turn = await household.send(conversation_id, "the question")
    first = await household.assemble(turn)
    again = await household.transcript.turn(household.user_id, turn.accepted.reply.id)
    assert again.duplicate
    for process in household.processes:
        assert (await process.assemble(household.user_id, again)).prompt == first.prompt


async def test_a_dry_run_gives_what_the_message_then_gets(household: Household) -> None:
    conversation_id = await household.open_conversation(TurnSettings(system_instruction="Be brief."))
    await household.talk(conversation_id, 9)
    await household.worker.drain()
    dry = await household.preview(conversation_id, "question 1 about the weather")
    real = await household.assemble(await household.send(conversation_id, "question 1 about the weather"))
    assert [each.content for each in dry.prompt] == [each.content for each in real.prompt]
    assert dry.report.hits == real.report.hits != ()
    assert dry.report.query_message_id is None
    assert dry.report.section_tokens == real.report.section_tokens


async def test_a_dry_run_stores_nothing(household: Household) -> None:
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 1)
    before = await household.recall.conversation(household.user_id, conversation_id)
    await household.preview(conversation_id, "only a test")
    assert await household.recall.conversation(household.user_id, conversation_id) == before


async def test_a_dry_run_of_an_empty_conversation_is_the_query_alone(household: Household) -> None:
    conversation_id = await household.open_conversation()
    context = await household.preview(conversation_id, "hello")
    assert [each.section for each in context.prompt] == [Section.SYSTEM, Section.QUERY]


async def test_a_dry_run_finds_no_conversation_of_another_user(household: Household) -> None:
    conversation_id = await household.open_conversation()
    with pytest.raises(NotFound):
        await household.processes[0].preview(uuid4(), conversation_id, (TextPart("hello"),), TurnSettings(), None)


async def test_a_dry_run_can_ask_for_more_passages_than_a_turn_gets(household: Household) -> None:
    conversation_id = await household.open_conversation()
    for number in range(15):
        await household.finish(await household.send(conversation_id, f"my cat number {number}"), f"noted {number}")
    await household.worker.drain()
    process, asked = household.processes[0], (TextPart("my cat number"),)
    usual = await process.preview(household.user_id, conversation_id, asked, TurnSettings(), None)
    more = await process.preview(household.user_id, conversation_id, asked, TurnSettings(), 12)
    assert len(usual.report.hits) == 8
    assert len(more.report.hits) == 12


async def test_other_conversations_are_remembered_unless_the_scope_forbids_it(household: Household) -> None:
    await household.finish(await household.send(await household.open_conversation(), "my cat is called Tom"), "Nice.")
    await household.worker.drain()
    free, alone = await household.open_conversation(), await household.open_conversation(ALONE)
    found = await household.assemble(await household.send(free, "how is my cat called"))
    assert [hit.text for hit in found.report.hits] == ["my cat is called Tom", "Nice."]
    assert found.report.retrieval is RetrievalOutcome.FOUND
    assert "my cat is called Tom" in found.prompt[-2].content
    assert found.prompt[-2].section is Section.RETRIEVED
    kept_apart = await household.assemble(await household.send(alone, "how is my cat called"))
    assert kept_apart.report.hits == ()


async def test_messages_of_the_window_do_not_crowd_out_what_is_older(household: Household) -> None:
    conversation_id = await household.open_conversation()
    household.configure(keep=30, fold=2)
    await household.finish(await household.send(conversation_id, "my cat is called Tom"), "Nice.")
    await household.talk(conversation_id, 15, "my cat")
    await household.worker.drain()
    for expected in ("cold", "warm"):
        context = await household.preview(conversation_id, "number about my cat")
        assert [hit.text for hit in context.report.hits] == ["my cat is called Tom", "Nice."], expected


async def test_strict_mode_leaves_out_what_is_not_sure(household: Household) -> None:
    await household.finish(await household.send(await household.open_conversation(), "my cat is called Tom"), "Nice.")
    await household.worker.drain()
    strict = await household.open_conversation(TurnSettings(retrieval_mode=RetrievalMode.STRICT))
    unsure = await household.assemble(await household.send(strict, "how old is my cat now"))
    assert unsure.report.retrieval is RetrievalOutcome.NOTHING_RELEVANT
    assert DropReason.NOT_SURE in {each.reason for each in unsure.report.dropped}
    sure = await household.preview(strict, "my cat is called what")
    assert [hit.sure for hit in sure.report.hits] == [True]


async def test_the_settings_of_a_turn_come_before_those_of_the_conversation(household: Household) -> None:
    conversation_id = await household.open_conversation(TurnSettings(system_instruction="Be brief.", model="small"))
    turn = await household.send(conversation_id, "hello")
    context = await household.assemble(turn)
    assert context.prompt[0].content.startswith("Be brief.")
    assert context.report.model == "small"
    turn.accepted = replace(turn.accepted, turn_settings=TurnSettings(system_instruction="Be long."))
    context = await household.assemble(turn)
    assert context.prompt[0].content.startswith("Be long.")
    assert context.report.model == "small"


async def test_the_query_is_embedded_once_although_it_starts_before_the_append(household: Household) -> None:
    conversation_id = await household.open_conversation()
    embedder = CountedEmbedder()
    process = assembler(household, embedder)
    pending = process.embed_query((TextPart("how are you"),))
    turn = await household.send(conversation_id, "how are you")
    context = await process.assemble(household.user_id, turn.accepted, pending)
    assert embedder.texts == ["user: how are you"]
    assert context.report.retrieval is RetrievalOutcome.NOTHING_RELEVANT
    assert context.report.embedding_micros > 0


# Neither near to any query, nor of words.
MANY_PASSAGES = """
INSERT INTO embeddings (user_id, space_id, message_id, passage, conversation_id, branch, depth, active, span_start,
                        span_end, embedding)
SELECT %(user)s, %(space)s, gen_random_uuid(), 0, %(user)s, 0, 10 * n, true, 0, 0, array_fill(-1, ARRAY[384])::halfvec
FROM generate_series(1, 2001) AS n
"""


async def test_of_many_passages_all_that_needs_no_vector_is_read_while_the_query_is_embedded(
    household: Household, round_trips: list[int]
) -> None:
    said = await household.send(await household.open_conversation(), "my cat is called Tom")
    await household.finish(said, "Nice.")
    await household.worker.drain()
    many = (MANY_PASSAGES, {"user": household.user_id, "space": household.space_id})
    await household.database.query(household.user_id, many)
    embedder = CountedEmbedder()
    process = assembler(household, embedder)
    turn = await household.send(await household.open_conversation(), "how is my cat called")
    first = await process.assemble(household.user_id, turn.accepted)
    assert [hit.text for hit in first.report.hits] == ["my cat is called Tom", "Nice."]
    process.forget(household.user_id, turn.accepted.message.conversation_id)
    # The hot path, unless it is there, and what words alone find.
    for statements in ([1, 1], [1]):
        round_trips.clear()
        embedder.gate.clear()
        assembling = asyncio.create_task(process.assemble(household.user_id, turn.accepted))
        async with asyncio.timeout(30):
            while len(round_trips) < len(statements):
                await asyncio.sleep(0.001)
        embedder.gate.set()
        context = await assembling
        # The search by the vector, and the texts.
        assert round_trips == [*statements, 1, 1]
        assert context.prompt == first.prompt
        assert context.report.hits == first.report.hits


async def test_a_slow_embedder_costs_the_passages_and_not_the_reply(household: Household) -> None:
    conversation_id = await household.open_conversation()
    last = await household.talk(conversation_id, 2)
    embedder = CountedEmbedder()
    embedder.gate.clear()
    process = assembler(household, embedder, retrieval_timeout=0.01)
    turn = await household.send(conversation_id, "hello")
    for _ in ("cold", "warm"):
        context = await process.assemble(household.user_id, turn.accepted)
        household.check(context, turn.path)
        assert context.report.retrieval is RetrievalOutcome.TIMED_OUT
        assert household.messages[last.accepted.reply.id].text in [each.content for each in context.prompt]


async def test_an_embedder_that_is_away_costs_the_passages_and_not_the_reply(household: Household) -> None:
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 2)
    embedder = CountedEmbedder()
    embedder.error = Unavailable(Reason.MODEL_UNAVAILABLE, "The embedder cannot be reached; try again.")
    process = assembler(household, embedder)
    turn = await household.send(conversation_id, "hello")
    for _ in ("cold", "warm"):
        context = await process.assemble(household.user_id, turn.accepted)
        household.check(context, turn.path)
        assert context.report.retrieval is RetrievalOutcome.FAILED


async def test_a_search_that_fails_costs_the_passages_and_not_the_reply(household: Household) -> None:
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 7)
    await household.worker.drain()
    turn = await household.send(conversation_id, "hello")
    # PostgreSQL refuses to compare vectors of different dimensions.
    process = assembler(household, WordEmbedder(dimension=16))
    for _ in ("cold", "warm"):
        context = await process.assemble(household.user_id, turn.accepted)
        household.check(context, turn.path)
        assert context.report.retrieval is RetrievalOutcome.FAILED
        assert context.report.summary_version is not None


async def test_a_database_that_is_away_is_an_error(household: Household, unused_tcp_port: int) -> None:
    turn = await household.send(await household.open_conversation(), "hello")
    url = f"postgresql://nobody@127.0.0.1:{unused_tcp_port}/nothing"
    async with open_database(DatabaseSettings(url=url, connect_timeout=0.05)) as away:
        household.recall = Recall(away)
        with pytest.raises(Unavailable):
            await assembler(household, WordEmbedder()).assemble(household.user_id, turn.accepted)


async def test_a_conversation_that_was_deleted_meanwhile_is_not_found(household: Household) -> None:
    conversation_id = await household.open_conversation()
    turn = await household.send(conversation_id, "hello")
    await Conversations(household.database).delete(household.user_id, conversation_id)
    with pytest.raises(NotFound):
        await household.processes[0].assemble(household.user_id, turn.accepted)


async def test_retrieval_that_is_switched_off_searches_nothing(household: Household, round_trips: list[int]) -> None:
    conversation_id = await household.open_conversation()
    turn = await household.talk(conversation_id, 1)
    turn = await household.send(conversation_id, "hello")
    round_trips.clear()
    context = await assembler(household, WordEmbedder(), hits=0).assemble(household.user_id, turn.accepted)
    assert round_trips == [1]
    assert context.report.retrieval is RetrievalOutcome.DISABLED


async def test_the_oldest_messages_leave_a_small_window_and_are_reported(database: Database, space_id: int) -> None:
    model = ModelSettings(context_window=1_024, output_reserve=64)
    household = Household(database, space_id, keep=10, fold=10, model=model)
    conversation_id = await household.open_conversation()
    await household.talk(conversation_id, 9, "some more words " * 10)
    turn = await household.send(conversation_id, "and now?")
    context = await household.assemble(turn)
    dropped = [each.message_id for each in context.report.dropped if each.reason is DropReason.BUDGET]
    assert dropped == turn.path[: len(dropped)]
    assert 0 < len(dropped) < 18


async def test_the_budget_is_that_of_the_model_that_answers_the_turn(household: Household) -> None:
    conversation_id = await household.open_conversation(TurnSettings(model="gpt-4o"))
    context = await household.assemble(await household.send(conversation_id, "hello"))
    assert context.report.model == "gpt-4o"
    assert (context.report.budget_tokens, context.output_reserve) == (128_000 - 16_384, 16_384)
    other = TurnSettings(model="openai/gpt-4")
    context = await household.processes[0].preview(
        household.user_id, conversation_id, (TextPart("hello"),), other, None
    )
    assert (context.report.budget_tokens, context.output_reserve) == (8_192 - 2_048, 2_048)


async def test_long_messages_are_folded_before_the_budget_would_leave_them_out(
    database: Database, space_id: int
) -> None:
    model = ModelSettings(context_window=4_096, output_reserve=512)
    household = Household(database, space_id, keep=4, fold=40, model=model, summary_tokens=256)
    conversation_id = await household.open_conversation()
    for number in range(20):
        turn = await household.send(conversation_id, f"question {number} " + "with some more words " * 10)
        context = await household.assemble(turn)
        assert len(context.report.verbatim) == len(turn.path) - context.report.summarized_through_depth
        await household.finish(turn, f"answer {number} " + "with a few words " * 10)
        await household.worker.drain()
    assert context.report.summarized_through_depth > 20


async def test_replies_that_never_had_a_word_are_reported_as_empty(household: Household) -> None:
    conversation_id = await household.open_conversation()
    failed = await household.send(conversation_id, "first")
    await household.finish(failed, "", state=MessageState.FAILED)
    context = await household.assemble(await household.send(conversation_id, "second"))
    assert [(each.message_id, each.reason) for each in context.report.dropped] == [
        (failed.accepted.reply.id, DropReason.EMPTY)
    ]


async def test_a_long_conversation_keeps_its_context_bounded(household: Household) -> None:
    conversation_id = await household.open_conversation()
    costs = []
    for number in range(60):
        turn = await household.send(conversation_id, f"question {number}")
        context = await household.assemble(turn)
        costs.append(context.report.section_tokens[Section.VERBATIM])
        await household.finish(turn, f"answer {number}")
        await household.worker.drain()
    assert max(costs[20:]) <= 12 * 20
    assert context.report.summarized_through_depth >= 110


async def test_an_abandoned_query_stops_its_embedding() -> None:
    embedder = CountedEmbedder()
    embedder.gate.clear()
    pending = PendingQuery(embedder, "hello")
    pending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pending.vector()


def test_of_a_long_query_the_end_is_embedded() -> None:
    text = "Here is a report. " * 2_000 + "What does it say about Paris?"
    embedded = query_text(text, 256)
    assert embedded.endswith("What does it say about Paris?")
    assert 60 < estimate_tokens(embedded) <= 256


def test_a_short_query_is_embedded_whole() -> None:
    assert query_text("Where is it?", 256) == "Where is it?"
