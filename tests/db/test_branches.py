"""Regenerated replies and edits of the first message, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.transcript import Transcript, TurnLimits
from chatrpc.domain import (
    Accepted,
    BusyPolicy,
    MessageState,
    OutgoingMessage,
    Page,
    Regeneration,
    Sampling,
    TextPart,
    TurnSettings,
)
from chatrpc.errors import AlreadyExists, Conflict, FailedPrecondition, NotFound, ResourceExhausted
from tests.db.helpers import finish
from tests.db.test_transcript import OWNER, append, new_conversation


async def regenerate(database: Database, user_id: UUID, turn: Accepted, key: str = "r", **fields: object) -> Accepted:
    """Args: fields: Of Regeneration; `limits` apart."""
    limits = fields.pop("limits", TurnLimits(100, 100))
    asked = Regeneration(turn.message.conversation_id, turn.reply.id, key)
    return await Transcript(database).regenerate(user_id, replace(asked, **fields), owner=OWNER, limits=limits)


async def paths(database: Database, user_id: UUID, conversation_id: UUID) -> tuple[list[UUID], list[int]]:
    """Ids of the active path, and all sequences."""
    conversations = Conversations(database)
    active, _ = await conversations.messages(user_id, conversation_id, Page(100))
    everything, _ = await conversations.messages(user_id, conversation_id, Page(100), all_branches=True)
    return [message.id for message in active], [message.sequence for message in everything]


async def test_a_regenerated_reply_is_a_sibling_on_a_branch_of_its_own_and_the_head(
    database: Database, user_id: UUID
) -> None:
    transcript, conversation_id = Transcript(database), await new_conversation(database, user_id)
    first = await append(database, user_id, conversation_id, "a")
    await finish(transcript, user_id, first, "one")
    later = await append(database, user_id, conversation_id, "b")
    await finish(transcript, user_id, later, "two")

    again = await regenerate(database, user_id, first)
    assert (again.message, again.path) == (first.message, first.path)
    assert (again.reply.parent_id, again.reply.branch, again.reply.depth) == (first.message.id, 1, 2)
    assert (again.reply.sequence, again.reply.state, again.reply.attempt) == (5, MessageState.PENDING, 1)
    assert (again.reply.client_message_id, again.duplicate, again.queued) == ("r", False, False)
    conversation = await Conversations(database).get(user_id, conversation_id)
    assert (conversation.head_id, conversation.path) == (again.reply.id, ((0, 1), (1, 2)))
    assert conversation.revision == again.revision_before + 1
    assert await paths(database, user_id, conversation_id) == (
        [first.message.id, again.reply.id],
        [1, 2, 3, 4, 5],
    )
    assert await finish(transcript, user_id, again, "one, otherwise") is not None
    onward = await append(database, user_id, conversation_id, "c")
    assert onward.path == ((0, 1), (1, 3))
    # A reply that was had anew can be had anew.
    third = await regenerate(database, user_id, again, "r2")
    assert (third.message, third.reply.branch, third.path) == (first.message, 2, first.path)


async def test_a_resent_regeneration_attaches_to_the_same_reply(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    turn = await append(database, user_id, conversation_id, "a")
    racing = await asyncio.gather(*(regenerate(database, user_id, turn) for _ in range(8)))
    [fresh] = [each for each in racing if not each.duplicate]
    assert {each.reply.id for each in racing} == {fresh.reply.id}
    # By the message, too, and whatever the limits.
    again = await regenerate(
        database, user_id, turn, message_id=turn.message.id, busy_policy=BusyPolicy.REJECT, limits=TurnLimits(0, 0)
    )
    assert (again.duplicate, again.reply) == (True, fresh.reply)
    other = await append(database, user_id, conversation_id, "b")
    with pytest.raises(AlreadyExists, match="'r' was used"):
        await regenerate(database, user_id, other)
    with pytest.raises(AlreadyExists, match="'a' was used"):
        await regenerate(database, user_id, turn, "a")
    for _ in range(2):
        with pytest.raises(AlreadyExists, match="'r' was used"):
            await append(database, user_id, conversation_id, "r")
        # Its erasure does not make it a message either.
        await Conversations(database).erase_message(user_id, fresh.reply.id, include_reply=False)
    assert (await regenerate(database, user_id, turn)).reply.state is MessageState.ERASED


async def test_a_regeneration_keeps_the_limits_and_policies_of_a_send(database: Database, user_id: UUID) -> None:
    turn = await append(database, user_id, await new_conversation(database, user_id), "a")
    with pytest.raises(Conflict):
        await regenerate(database, user_id, turn, busy_policy=BusyPolicy.REJECT)
    with pytest.raises(ResourceExhausted, match="At most 0 messages may wait"):
        await regenerate(database, user_id, turn, limits=TurnLimits(0, 100))
    with pytest.raises(ResourceExhausted, match="1 unfinished reply already"):
        await regenerate(database, user_id, turn, limits=TurnLimits(100, 1))
    assert (await regenerate(database, user_id, turn)).queued


async def test_what_cannot_be_regenerated_is_refused(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    turn = await append(database, user_id, conversation_id, "a")
    for fields in ({"message_id": uuid4()}, {"conversation_id": uuid4()}):
        with pytest.raises(NotFound):
            await regenerate(database, user_id, turn, **fields)
    with pytest.raises(NotFound):
        await regenerate(database, uuid4(), turn)
    other = await new_conversation(database, user_id)
    with pytest.raises(NotFound):
        await regenerate(database, user_id, turn, conversation_id=other)
    await Conversations(database).erase_message(user_id, turn.message.id, include_reply=False)
    with pytest.raises(FailedPrecondition, match="erased"):
        await regenerate(database, user_id, turn)


async def test_a_regenerated_reply_has_the_settings_of_the_named_one_under_its_own(
    database: Database, user_id: UUID
) -> None:
    conversation_id, transcript = await new_conversation(database, user_id), Transcript(database)
    said = TurnSettings(model="large", system_instruction="Be brief.")
    message = OutgoingMessage(conversation_id, "a", (TextPart("Hi."),), settings=said)
    turn = await transcript.append(user_id, message, tokens=1, actor=None, owner=OWNER)

    same = await regenerate(database, user_id, turn, "same")
    assert same.turn_settings == said
    wanted = TurnSettings(model="small", sampling=Sampling(temperature=1.0))
    changed = await regenerate(database, user_id, turn, "changed", settings=wanted)
    both = replace(said, model="small", sampling=Sampling(temperature=1.0))
    assert changed.turn_settings == both
    assert (await transcript.turn(user_id, changed.reply.id)).turn_settings == both
    assert (await regenerate(database, user_id, changed, "of that")).turn_settings == both
    of_message = await regenerate(database, user_id, changed, "of the message", message_id=turn.message.id)
    assert of_message.turn_settings == said


async def test_the_first_message_is_edited_at_the_root(database: Database, user_id: UUID) -> None:
    conversation_id, transcript = await new_conversation(database, user_id), Transcript(database)

    async def at_root(key: str, text: str = "Hello.", **fields: object) -> Accepted:
        message = OutgoingMessage(conversation_id, key, (TextPart(text),), at_root=True, **fields)
        return await transcript.append(user_id, message, tokens=1, actor=None, owner=OWNER)

    first = await at_root("a")
    assert first.path == ((0, 1),)
    with pytest.raises(Conflict):
        await at_root("b", busy_policy=BusyPolicy.REJECT)
    assert (await Conversations(database).get(user_id, conversation_id)).head_id == first.reply.id
    edited = await at_root("b")
    assert (edited.message.parent_id, edited.message.sequence, edited.path) == (None, 3, ((1, 1),))
    assert (await at_root("b")).message == edited.message
    with pytest.raises(AlreadyExists):
        await at_root("b", "something else")
    assert (await append(database, user_id, conversation_id, "c")).path == ((1, 3),)
    third = await at_root("d")
    assert third.path == ((2, 1),)
    assert (await transcript.turn(user_id, third.reply.id)).path == ((2, 1),)
    assert await paths(database, user_id, conversation_id) == (
        [third.message.id, third.reply.id],
        list(range(1, 9)),
    )


async def test_erasing_a_message_with_its_replies_erases_all_of_them_and_stops_those_that_run(
    database: Database, user_id: UUID
) -> None:
    conversation_id, transcript = await new_conversation(database, user_id), Transcript(database)
    turn = await append(database, user_id, conversation_id, "a")
    await finish(transcript, user_id, turn, "one")
    again = await regenerate(database, user_id, turn)
    beside = await append(database, user_id, conversation_id, "b")
    conversations = Conversations(database)
    erased = await conversations.erase_message(user_id, turn.message.id, include_reply=True)
    assert erased.messages == 3
    everything, _ = await conversations.messages(user_id, conversation_id, Page(100), all_branches=True)
    assert [message.state for message in everything] == [MessageState.ERASED] * 3 + [
        MessageState.COMPLETE,
        MessageState.PENDING,
    ]
    assert await finish(transcript, user_id, again, "too late") is None
    [[row]] = await database.query(user_id, ("SELECT pending_replies FROM conversations", ()))
    assert row["pending_replies"] == 1
    assert await finish(transcript, user_id, beside, "in time") is not None


async def test_switching_leads_to_the_newest_message_at_or_below(database: Database, user_id: UUID) -> None:
    conversation_id, branches = await new_conversation(database, user_id), Conversations(database).branches
    first = await append(database, user_id, conversation_id, "a")
    b1 = await append(database, user_id, conversation_id, "b1")
    c1 = await append(database, user_id, conversation_id, "c1")
    c2 = await append(database, user_id, conversation_id, "c2", parent=b1.reply.id)
    b2 = await append(database, user_id, conversation_id, "b2", parent=first.reply.id)
    b2r = await regenerate(database, user_id, b2)

    async def switched(message_id: UUID) -> tuple[UUID | None, int]:
        conversation = await branches.switch(user_id, message_id)
        return conversation.head_id, conversation.revision

    revision = b2r.revision_before + 1
    assert await switched(first.message.id) == (b2r.reply.id, revision)
    assert await switched(b1.message.id) == (c2.reply.id, revision + 1)
    assert await switched(b1.reply.id) == (c2.reply.id, revision + 1)
    assert await switched(c1.message.id) == (c1.reply.id, revision + 2)
    assert (await paths(database, user_id, conversation_id))[0] == [
        each.id for turn in (first, b1, c1) for each in (turn.message, turn.reply)
    ]
    assert await switched(b2.reply.id) == (b2.reply.id, revision + 3)
    assert (await append(database, user_id, conversation_id, "d")).message.parent_id == b2.reply.id
    with pytest.raises(NotFound):
        await branches.switch(uuid4(), first.message.id)
    with pytest.raises(NotFound):
        await branches.switch(user_id, uuid4())


async def test_versions_of_listed_messages_are_told_beside_them(database: Database, user_id: UUID) -> None:
    conversation_id, conversations = await new_conversation(database, user_id), Conversations(database)
    first = await append(database, user_id, conversation_id, "a")

    async def versions(**fields: bool) -> list[tuple[UUID | None, tuple[UUID, ...]]]:
        listed, _ = await conversations.messages(user_id, conversation_id, Page(100), **fields)
        found = await conversations.branches.siblings(user_id, conversation_id, listed)
        return [(each.parent_id, each.message_ids) for each in found]

    assert await versions() == []
    b1 = await append(database, user_id, conversation_id, "b1")
    r2 = await regenerate(database, user_id, b1)
    b2 = await append(database, user_id, conversation_id, "b2", parent=first.reply.id)
    edits = (first.reply.id, (b1.message.id, b2.message.id))
    replies = (b1.message.id, (b1.reply.id, r2.reply.id))
    assert await versions() == [edits]
    assert await versions(all_branches=True) == [edits, replies]
    message = OutgoingMessage(conversation_id, "a2", (TextPart("Hello."),), at_root=True)
    root = await Transcript(database).append(user_id, message, tokens=1, actor=None, owner=OWNER)
    assert await versions() == [(None, (first.message.id, root.message.id))]
    await conversations.branches.switch(user_id, b1.reply.id)
    assert await versions() == [(None, (first.message.id, root.message.id)), edits, replies]
