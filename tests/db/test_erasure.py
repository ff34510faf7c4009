"""What the erasure of a message removes, what it leaves, and that nothing under way brings the text back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from chatrpc.db.collections import Collections
from chatrpc.db.documents import Documents
from chatrpc.db.engine import Database
from chatrpc.db.reports import Reports
from chatrpc.domain import Citation, FinishReason, MessageState, NewDocument
from chatrpc.errors import NotFound, Reason
from tests.db.home import OF_A_DOCUMENT, Home
from tests.db.test_transcript import append

SECRET = "the key lies under the third stone"


@pytest.fixture
def home(database: Database) -> Home:
    return Home(database)


async def test_a_tombstone_stays_and_the_text_goes(home: Home) -> None:
    conversation_id = await home.open()
    turn = await home.talk(conversation_id, SECRET, "I see.")
    assert await home.holds(SECRET) == ["messages"]
    erased = await home.erase(turn.message.id)
    assert (erased.conversation_id, erased.messages) == (conversation_id, 1)
    assert await home.holds(SECRET) == []
    tombstone, reply = await home.messages(conversation_id)
    assert (tombstone.state, tombstone.parts, tombstone.tokens) == (MessageState.ERASED, (), 0)
    assert (tombstone.id, tombstone.sequence) == (turn.message.id, turn.message.sequence)
    assert tombstone.client_message_id == turn.message.client_message_id
    assert (reply.state, reply.text) == (MessageState.COMPLETE, "I see.")


async def test_the_reply_goes_along_where_asked_for(home: Home) -> None:
    turn = await home.talk(await home.open(), "where is it?", SECRET)
    assert (await home.erase(turn.message.id, include_reply=True)).messages == 2
    assert await home.holds(SECRET) == []
    assert await home.rows("context_reports") == 0


async def test_a_reply_is_erased_alone_by_its_own_id(home: Home) -> None:
    turn = await home.talk(await home.open(), "where is it?", SECRET)
    erased = await home.erase(turn.reply.id, include_reply=True)
    assert (erased.messages, erased.context_reports) == (1, 1)
    question, tombstone = await home.messages(turn.message.conversation_id)
    assert question.text == "where is it?"
    assert (tombstone.state, tombstone.delta_ends) == (MessageState.ERASED, ())


async def test_a_second_erasure_changes_nothing(home: Home) -> None:
    turn = await home.talk(await home.open(), SECRET, "I see.")
    first = await home.erase(turn.message.id)
    before = await home.conversations.get(home.user_id, first.conversation_id)
    again = await home.erase(turn.message.id)
    assert (again.messages, again.vectors, again.passages, again.summaries) == (0, 0, 0, 0)
    assert await home.conversations.get(home.user_id, first.conversation_id) == before


@pytest.mark.parametrize("text", [SECRET, "something else"])
async def test_a_resend_attaches_to_the_tombstone(home: Home, text: str) -> None:
    turn = await home.talk(await home.open(), SECRET, "I see.")
    await home.erase(turn.message.id)
    key = turn.message.client_message_id
    again = await append(home.database, home.user_id, turn.message.conversation_id, key, text)
    assert again.duplicate
    assert (again.message.id, again.message.state) == (turn.message.id, MessageState.ERASED)
    assert again.reply.id == turn.reply.id
    assert await home.holds(SECRET) == []


async def test_a_message_of_somebody_else_is_not_found(home: Home) -> None:
    turn = await home.talk(await home.open(), SECRET, "I see.")
    for user_id, message_id in ((uuid4(), turn.message.id), (home.user_id, uuid4())):
        with pytest.raises(NotFound) as caught:
            await home.conversations.erase_message(user_id, message_id, include_reply=True)
        assert caught.value.reason is Reason.MESSAGE_NOT_FOUND
    assert await home.holds(SECRET) == ["messages"]


async def test_every_conversations_reports_lose_the_passage_and_keep_the_rest(home: Home) -> None:
    here, there = await home.open(), await home.open()
    secret = (await home.talk(here, SECRET, "I see.")).message
    other = (await home.talk(here, "my dog is called Fidelio", "How nice.")).message
    quoting = [await home.talk(place, "what do you know?", "a lot", secret, other) for place in (here, there)]
    erased = await home.erase(secret.id)
    assert erased.passages == 2
    assert await home.holds(SECRET) == []
    for turn in quoting:
        report = await Reports(home.database).get(home.user_id, turn.reply.id)
        assert [(hit.message_id, hit.text, hit.rank) for hit in report.hits] == [
            (secret.id, "", 1),
            (other.id, other.text, 2),
        ]


async def test_a_report_that_is_made_while_the_message_is_erased_loses_the_passage(home: Home) -> None:
    here, there = await home.open(), await home.open()
    secret = (await home.talk(here, SECRET, "I see.")).message
    under_way = await append(home.database, home.user_id, there, "k")
    await home.erase(secret.id)
    assert await home.finish(under_way, "it lies somewhere", secret) is not None
    report = await Reports(home.database).get(home.user_id, under_way.reply.id)
    assert [hit.text for hit in report.hits] == [""]


async def test_no_race_between_a_finished_reply_and_an_erasure_leaves_the_passage(home: Home) -> None:
    here = await home.open()
    elsewhere = [await home.open() for _ in range(4)]
    for _ in range(25):
        secret = (await home.talk(here, SECRET, "I see.")).message
        turns = [await append(home.database, home.user_id, place, uuid4().hex) for place in elsewhere]
        finishing = [home.finish(turn, "so it is", secret) for turn in turns]
        await asyncio.gather(*finishing[:2], home.erase(secret.id), *finishing[2:])
        assert await home.holds(SECRET) == []


async def test_vectors_go_and_do_not_come_back(home: Home) -> None:
    turn = await home.talk(await home.open(), SECRET, "I see.")
    await home.embed(turn.message, turn.reply)
    assert (await home.erase(turn.message.id)).vectors == 1
    await home.embed(turn.message)
    assert await home.rows("embeddings") == 1


async def test_a_title_that_begins_the_text_is_emptied_and_its_request_still_finds_it(home: Home) -> None:
    fields = {"title": SECRET[:20], "request_id": "r"}
    conversation_id = await home.open(**fields)
    turn = await home.talk(conversation_id, SECRET, "I see.")
    assert (await home.erase(turn.message.id)).title
    assert (await home.conversations.get(home.user_id, conversation_id)).title == ""
    assert await home.open(**fields) == conversation_id
    kept = await home.open(title="Stones")
    assert not (await home.erase((await home.talk(kept, SECRET, "I see.")).message.id)).title
    assert (await home.conversations.get(home.user_id, kept)).title == "Stones"


async def test_a_reply_under_way_is_stopped_with_its_text_and_fenced_off(home: Home) -> None:
    conversation_id = await home.open()
    turn = await append(home.database, home.user_id, conversation_id, "k", SECRET)
    await home.erase(turn.message.id)
    assert await home.finish(turn, "too late") is None
    _, reply = await home.messages(conversation_id)
    assert (reply.state, reply.finish_reason, reply.attempt) == (MessageState.CANCELLED, FinishReason.CANCELLED, 2)
    following = await append(home.database, home.user_id, conversation_id, "k2")
    assert not following.parent_pending


async def test_a_reply_under_way_is_erased_and_fenced_off(home: Home) -> None:
    conversation_id = await home.open()
    turn = await append(home.database, home.user_id, conversation_id, "k")
    assert (await home.erase(turn.reply.id)).messages == 1
    assert await home.finish(turn, SECRET) is None
    assert await home.holds(SECRET) == []
    assert not (await append(home.database, home.user_id, conversation_id, "k2")).parent_pending


async def document(home: Home, collection_id: UUID | None = None) -> Citation:
    """A place in a document of the user's own."""
    new = NewDocument("Handbook", "text/plain", 9, uuid4().bytes * 2, collection_id, "", {})
    made = await Documents(home.database).begin(home.user_id, new)
    return Citation(made.id, collection_id, "Handbook", ("Leave of absence",), 0, 9)


async def test_a_deleted_document_goes_out_of_all_reports(home: Home) -> None:
    conversation_id = await home.open()
    deleted, kept = await document(home), await document(home)
    under_way = await append(home.database, home.user_id, conversation_id, "k")
    turn = await home.talk(conversation_id, "how long is leave?", "so long", deleted, kept)
    await Documents(home.database).delete(home.user_id, deleted.document_id)
    assert await home.finish(under_way, "so long", deleted, kept) is not None
    for reply in (turn.reply, under_way.reply):
        report = await Reports(home.database).get(home.user_id, reply.id)
        assert [hit.text for hit in report.hits] == ["", OF_A_DOCUMENT]
        nameless = replace(deleted, title="", headings=())
        assert [each.citation for each in (*report.hits, *report.dropped)] == [nameless, kept] * 2


async def test_a_document_of_a_shared_collection_stays_in_the_reports(home: Home) -> None:
    shared = Citation(uuid4(), uuid4(), "Handbook", ("Leave of absence",), 0, 9, shared=True)
    turn = await home.talk(await home.open(), "how long is leave?", "so long", shared)
    assert (await Reports(home.database).get(home.user_id, turn.reply.id)).citations == (shared,)


async def test_a_deleted_document_of_an_own_collection_leaves_the_report_that_is_made_meanwhile(home: Home) -> None:
    collection = await Collections(home.database).create(home.user_id, "Rules", None)
    deleted = await document(home, collection.id)
    under_way = await append(home.database, home.user_id, await home.open(), "k")
    await Documents(home.database).delete(home.user_id, deleted.document_id)
    await home.finish(under_way, "so long", deleted)
    assert await home.holds(OF_A_DOCUMENT) == []


async def test_a_deleted_collection_leaves_the_report_that_is_made_meanwhile(home: Home) -> None:
    collections = Collections(home.database)
    collection = await collections.create(home.user_id, "Rules", None)
    deleted = await document(home, collection.id)
    under_way = await append(home.database, home.user_id, await home.open(), "k")
    await collections.delete(home.user_id, collection.id)
    await home.finish(under_way, "so long", deleted)
    assert await home.holds(OF_A_DOCUMENT) == []


async def test_a_deleted_conversation_goes_out_of_the_reports_of_others(home: Home) -> None:
    here, there = await home.open(), await home.open()
    secret = (await home.talk(here, SECRET, "I see.")).message
    under_way = await append(home.database, home.user_id, there, "k")
    await home.talk(there, "what do you know?", "a lot", secret)
    await home.conversations.delete(home.user_id, here)
    await home.finish(under_way, "a lot more", secret)
    assert await home.holds(SECRET) == []
