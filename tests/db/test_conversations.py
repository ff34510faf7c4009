"""Conversations: created once, listed by page, changed at a revision, deleted with all that was derived."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from chatrpc.db.conversations import ConversationChanges, Conversations, DeletionCounts
from chatrpc.db.engine import Database
from chatrpc.db.pages import PAGE_CHARACTERS
from chatrpc.db.transcript import Transcript
from chatrpc.domain import Page, Sampling, TurnSettings
from chatrpc.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from tests.db.helpers import finish
from tests.db.test_transcript import append


async def test_a_repeated_request_returns_the_same_conversation(database: Database, user_id: UUID) -> None:
    conversations = Conversations(database)
    settings = TurnSettings(system_instruction="Be brief.", sampling=Sampling(temperature=0.5))
    arguments = {"title": "t", "settings": settings, "labels": {"a": "b"}}
    first = await conversations.create(user_id, **arguments, request_id="r")
    assert await conversations.create(user_id, **arguments, request_id="r") == first
    assert await conversations.create(user_id, **arguments, request_id=None) != first
    assert await conversations.get(user_id, first.id) == first
    assert first.settings == settings
    with pytest.raises(AlreadyExists):
        await conversations.create(user_id, title="other", settings=settings, labels={}, request_id="r")


async def test_pages_hold_every_conversation_once(database: Database, user_id: UUID) -> None:
    conversations = Conversations(database)
    made = [
        await conversations.create(
            user_id, title=f"Trip {n % 3}_%", settings=TurnSettings(), labels={"n": str(n % 2)}, request_id=None
        )
        for n in range(25)
    ]
    seen, after = [], None
    while True:
        page, after = await conversations.list(user_id, Page(10, after))
        seen += page
        if after is None:
            break
    assert [c.id for c in seen] == [c.id for c in sorted(made, key=lambda c: (c.updated_at, c.id), reverse=True)]

    filtered, _ = await conversations.list(user_id, Page(100), title_contains="TRIP 1_%", labels={"n": "1"})
    assert {c.id for c in filtered} == {c.id for n, c in enumerate(made) if n % 3 == 1 and n % 2 == 1}
    assert await conversations.list(uuid4(), Page(10)) == ([], None)
    with pytest.raises(InvalidInput, match="page token"):
        await conversations.list(user_id, Page(10, "nonsense"))


async def test_a_change_needs_the_expected_revision(database: Database, user_id: UUID) -> None:
    conversations = Conversations(database)
    made = await conversations.create(user_id, title="a", settings=TurnSettings(), labels={}, request_id=None)
    changed = await conversations.update(user_id, made.id, ConversationChanges(title="b"), expected_revision=1)
    assert (changed.title, changed.revision) == ("b", 2)
    with pytest.raises(Conflict, match="revision 2, not 1"):
        await conversations.update(user_id, made.id, ConversationChanges(title="c"), expected_revision=1)
    with pytest.raises(NotFound):
        await conversations.update(uuid4(), made.id, ConversationChanges(title="c"))


async def test_a_deleted_conversation_leaves_nothing(database: Database, user_id: UUID) -> None:
    conversations = Conversations(database)
    made = await conversations.create(user_id, title="", settings=TurnSettings(), labels={}, request_id=None)
    turn = await append(database, user_id, made.id, "a")
    with pytest.raises(NotFound):
        await conversations.delete(uuid4(), made.id)
    assert await conversations.delete(user_id, made.id) == DeletionCounts(2, 0, 0, 0)
    assert await finish(Transcript(database), user_id, turn, "late") is None
    with pytest.raises(NotFound):
        await conversations.get(user_id, made.id)


async def test_messages_page_in_both_orders(database: Database, user_id: UUID) -> None:
    conversations = Conversations(database)
    made = await conversations.create(user_id, title="", settings=TurnSettings(), labels={}, request_id=None)
    for n in range(5):
        await append(database, user_id, made.id, str(n))
    for newest_first in (False, True):
        seen, after = [], None
        while True:
            page, after = await conversations.messages(user_id, made.id, Page(3, after), newest_first=newest_first)
            seen += [message.sequence for message in page]
            if after is None:
                break
        assert seen == sorted(range(1, 11), reverse=newest_first)


async def test_a_page_of_long_messages_ends_early(database: Database, user_id: UUID) -> None:
    conversations = Conversations(database)
    made = await conversations.create(user_id, title="", settings=TurnSettings(), labels={}, request_id=None)
    for n in range(3):
        await append(database, user_id, made.id, str(n), "x" * 300_000)
    first, after = await conversations.messages(user_id, made.id, Page(100))
    assert [message.sequence for message in first] == [1, 2]
    second, _ = await conversations.messages(user_id, made.id, Page(100, after))
    assert second[0].sequence == 3


async def test_a_page_of_conversations_with_many_labels_ends_early(database: Database, user_id: UUID) -> None:
    conversations = Conversations(database)
    labels = {f"{n:063}": "ü" * 256 for n in range(16)}
    for _ in range(150):
        await conversations.create(user_id, title="", settings=TurnSettings(), labels=labels, request_id=None)
    shown, following = await conversations.list(user_id, Page(1000))
    assert sum(len(name) + len(value) for one in shown for name, value in one.labels.items()) <= PAGE_CHARACTERS
    rest, _ = await conversations.list(user_id, Page(1000, following))
    assert len({one.id for one in (*shown, *rest)}) == 150
