"""Where retrieval looks, by the settings of a turn and the memory of its conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from itertools import product
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from chatrpc.context.retrieval.lexicon import terms
from chatrpc.db.chunks import Chunks, chunk_id
from chatrpc.db.conversations import Conversations
from chatrpc.db.documents import Documents
from chatrpc.db.vectors import NewVector, VectorStore
from chatrpc.domain import (
    Chunk,
    ContextReport,
    ConversationMemory,
    MemoryScope,
    NewDocument,
    Reach,
    RetrievalOutcome,
    TextPart,
    TurnSettings,
)
from tests.context.household import Household
from tests.support.provider import Provider
from tests.turns.conftest import running

SAID = "Ines feeds the cat on Friday"
WRITTEN = "The cat Tom is fed on Friday"
ASKED = "who feeds the cat on Friday"


@dataclass
class Shelf:
    """A user who has said something elsewhere and has a document about the same."""

    household: Household
    document_id: UUID
    elsewhere: UUID

    async def preview(self, conversation_id: UUID, settings: TurnSettings) -> ContextReport:
        process = self.household.processes[0]
        parts = (TextPart(ASKED),)
        return (await process.preview(self.household.user_id, conversation_id, parts, settings, None)).report

    async def open(self, memory: ConversationMemory, settings: TurnSettings | None = None) -> UUID:
        made = await Conversations(self.household.database).create(
            self.household.user_id,
            title="",
            settings=settings or TurnSettings(),
            labels={},
            request_id=None,
            memory=memory,
        )
        return made.id


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as opened:
        yield opened


@pytest_asyncio.fixture
async def shelf(household: Household) -> Shelf:
    elsewhere = await household.open_conversation()
    await household.finish(await household.send(elsewhere, SAID), "")
    await household.worker.drain()
    documents, chunks = Documents(household.database), Chunks(household.database)
    user_id, data = household.user_id, WRITTEN.encode()
    document = await documents.begin(user_id, NewDocument("Cats", "text/plain", len(data), bytes(32), None, "", {}))
    await documents.add_part(user_id, document.id, 0, data)
    await documents.accept(user_id, document.id)
    await chunks.add(user_id, document.id, [Chunk(0, 0, len(WRITTEN), 0, ("Feeding",), WRITTEN)])
    [vector] = await household.embedder.embed([WRITTEN])
    new = NewVector(chunk_id(document.id, 0), document.id, 0, (0, len(WRITTEN)), vector, terms(WRITTEN), place=0)
    await VectorStore(household.database).add_chunks(user_id, household.space_id, [new])
    return Shelf(household, document.id, elsewhere)


@pytest.mark.parametrize("documents", [None, True, False])
@pytest.mark.parametrize("scope", [None, *MemoryScope])
@pytest.mark.parametrize("memory", ConversationMemory)
async def test_a_turn_finds_what_is_within_its_reach(
    shelf: Shelf, memory: ConversationMemory, scope: MemoryScope | None, documents: bool | None
) -> None:
    settings = TurnSettings(memory_scope=scope, documents=documents)
    reach = Reach.of(settings, memory)
    # Said by the conversation or by the turn, it means the same.
    for of_conversation, of_turn in ((settings, TurnSettings()), (TurnSettings(), settings)):
        report = await shelf.preview(await shelf.open(memory, of_conversation), of_turn)
        expected = {SAID} if reach.elsewhere else set()
        expected |= {WRITTEN} if reach.documents else set()
        assert {hit.text for hit in report.hits} == expected
        assert (report.retrieval is RetrievalOutcome.DISABLED) == (not expected)
        assert [citation.document_id for citation in report.citations] == [shelf.document_id] * reach.documents


def test_the_reach_of_each_setting() -> None:
    user, alone = MemoryScope.USER, MemoryScope.CONVERSATION
    remembered, temporary = ConversationMemory.REMEMBERED, ConversationMemory.TEMPORARY
    expected = {
        (user, None, remembered): Reach(True, True),
        (user, False, remembered): Reach(True, False),
        (alone, None, remembered): Reach(False, False),
        (alone, True, remembered): Reach(False, True),
        (user, None, temporary): Reach(False, True),
        (user, False, temporary): Reach(False, False),
    }
    for (scope, documents, memory), reach in expected.items():
        assert Reach.of(TurnSettings(memory_scope=scope, documents=documents), memory) == reach
    for memory, documents in product(ConversationMemory, (None, True, False)):
        unset = TurnSettings(documents=documents)
        assert Reach.of(unset, memory) == Reach.of(replace(unset, memory_scope=user), memory)


async def test_a_reply_ends_with_the_documents_that_stood_in_its_prompt_live_and_told_again(
    shelf: Shelf, provider: Provider
) -> None:
    household = shelf.household
    conversation_id = await shelf.open(ConversationMemory.REMEMBERED)
    async with running(household.database, provider, household.user_id, conversation_id) as process:
        accepted, live = await process.said(ASKED, uuid4().hex)
        told_again = await process.followed(accepted.reply.id)
    assert [each.document_id for each in live[-1].event.citations] == [shelf.document_id]
    assert live[-1].event.citations[0].headings == ("Feeding",)
    assert told_again[-1] == live[-1]
    prompt = provider.requests[-1].body["messages"]
    assert any('<passage number="1" document="Cats"' in message["content"] for message in prompt)
