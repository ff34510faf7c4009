"""A provider's prompt cache serves what a request begins with, if an earlier one began with the same bytes."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from chatrpc.db.engine import Database
from chatrpc.domain import AssembledContext, DropReason, MessageState, PromptMessage, Sampling, Section, TurnSettings
from chatrpc.models.chat import build_chat_model
from chatrpc.ports import ChatModel, ModelRequest
from chatrpc.settings import ModelSettings
from tests.context.household import Household
from tests.support.provider import Provider

INSTRUCTION = 'Answer in one sentence.\n"Quotes", \\ and ümlauts are part of it.'
SUBJECTS = ("cat Tom", "trip to Zürich", "🎻 violin", "code `a\\b`", "garden", "résumé")
ENDINGS = (
    (MessageState.COMPLETE, "As you say: "),
    (MessageState.COMPLETE, "I remember: "),
    (MessageState.CANCELLED, "Well, as for "),
    (MessageState.CANCELLED, ""),
    (MessageState.FAILED, "Let me see, "),
    (MessageState.FAILED, ""),
)


@dataclass(frozen=True)
class Sent:
    """A request as it went over the wire, and the context that it was made from."""

    raw: bytes
    context: AssembledContext

    @property
    def stable(self) -> bytes:
        """All bytes before the retrieved passages, or the query where there are none."""
        tail = [each for each in self.context.prompt if each.section in (Section.RETRIEVED, Section.QUERY)]
        place = self.raw.rindex(written(tail))
        assert place > 0
        return self.raw[:place]

    @property
    def query(self) -> bytes:
        return written(self.context.prompt[-1:])

    @property
    def summary_version(self) -> int | None:
        return self.context.report.summary_version

    @property
    def shortened(self) -> dict[object, DropReason]:
        """What the budget did to messages of the window, where nothing is retrieved."""
        query = self.context.report.query_message_id
        dropped = {each.message_id: each.reason for each in self.context.report.dropped}
        return {each: reason for each, reason in dropped.items() if each != query and reason is not DropReason.EMPTY}


def written(messages: tuple[PromptMessage, ...] | list[PromptMessage]) -> bytes:
    """Neighbours of one role as they stand inside the JSON of a request."""
    return json.dumps("\n\n".join(each.content for each in messages), ensure_ascii=False)[1:-1].encode()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as running:
        yield running


@pytest.fixture
async def model(provider: Provider) -> AsyncIterator[ChatModel]:
    made = build_chat_model(ModelSettings(base_url=provider.base_url, name="m", api_key="key"))
    yield made
    await made.aclose()


async def ask(household: Household, provider: Provider, model: ChatModel, conversation_id, text: str) -> Sent:
    turn = await household.send(conversation_id, text)
    context = await household.processes[0].assemble(household.user_id, turn.accepted)
    request = ModelRequest(context.prompt, None, Sampling(), context.output_reserve)
    async for _ in model.stream(request):
        pass
    return Sent(provider.requests[-1].raw, context)


async def test_between_summary_steps_a_request_begins_with_the_bytes_of_the_one_before(
    household: Household, provider: Provider, model: ChatModel
) -> None:
    conversation_id = await household.open_conversation(TurnSettings(system_instruction=INSTRUCTION))
    household.configure(keep=4, fold=8)
    random.seed(7)
    sent: list[Sent] = []
    for number in range(60):
        subject = random.choice(SUBJECTS)
        sent.append(await ask(household, provider, model, conversation_id, f"{number}: what about my {subject}?"))
        state, words = random.choice(ENDINGS)
        reply = f"{words}{subject}, {number}" if words else ""
        await household.finish(household.turns[-1], reply, state=state)
        await household.worker.drain()
    steps = 0
    for before, after in itertools.pairwise(sent):
        if before.summary_version != after.summary_version:
            steps += 1
            continue
        # Even of a prompt with passages the query comes back in the very place where they stood.
        assert after.raw.startswith(before.stable + before.query)
    assert steps == 14
    with_hits = [each for each in sent if each.context.report.hits]
    assert len(with_hits) > 20


async def test_under_pressure_the_prefix_breaks_in_steps(
    database: Database, space_id: int, provider: Provider, model: ChatModel
) -> None:
    """Summaries never come, the window is far too small, and some messages are longer than it."""
    limits = ModelSettings(context_window=4_096, output_reserve=512)
    household = Household(database, space_id, keep=4, fold=8, model=limits)
    conversation_id = await household.open_conversation(TurnSettings(system_instruction=INSTRUCTION))
    random.seed(11)
    sent: list[Sent] = []
    for number in range(90):
        text = f"{number}: what about my {random.choice(SUBJECTS)}? " * random.choice((1, 2, 4))
        if number % 30 == 20:
            text = f"{number}: a whole book. " * 1_500
        sent.append(await ask(household, provider, model, conversation_id, text))
        state, words = random.choice(ENDINGS)
        await household.finish(household.turns[-1], words * random.choice((1, 5, 10)), state=state)
    breaks, cut_queries = 0, 0
    for before, after in itertools.pairwise(sent):
        cut = before.context.report.query_message_id in {
            each.message_id for each in before.context.report.dropped if each.reason is DropReason.TRUNCATED
        }
        cut_queries += cut
        if not after.raw.startswith(before.stable):
            # Only because another message went, or went in part; and never because one came back.
            assert before.shortened != after.shortened
            breaks += 1
        elif not cut:
            assert after.raw[len(before.stable) :].startswith(before.query)
    assert cut_queries == 3
    dropped = [each for each in sent if each.shortened]
    print(breaks, len(dropped))
    assert len(dropped) > 60
    assert breaks <= len(dropped) / 4


async def test_a_message_that_was_cut_stays_the_same_as_long_as_no_more_has_to_go(
    database: Database, space_id: int, provider: Provider, model: ChatModel
) -> None:
    limits = ModelSettings(context_window=4_096, output_reserve=512)
    household = Household(database, space_id, keep=10, fold=10, model=limits)
    conversation_id = await household.open_conversation()
    sent: list[Sent] = []
    for text in ("a whole book. " * 1_500 + "What is it about?", "And who wrote it?", "When?", "Where?"):
        sent.append(await ask(household, provider, model, conversation_id, text))
        await household.finish(household.turns[-1], "That I cannot tell.")
    book = household.turns[0].accepted.message.id
    assert [each.context.report.dropped[0].reason for each in sent] == [DropReason.TRUNCATED] * 4
    shown = [next(each.content for each in one.context.prompt if book in each.message_ids) for one in sent]
    assert "characters are left out here" in shown[0]
    assert shown[0].endswith("What is it about?")
    assert shown[1].endswith("What is it about?")
    assert len(shown[1]) < len(shown[0])
    assert shown[1] == shown[2] == shown[3]
