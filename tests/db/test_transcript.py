"""The transcript's append and finish, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import re
import secrets
from itertools import pairwise
from uuid import UUID, uuid4

import pytest

from chatrpc.db.branches import OF_MESSAGE
from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.transcript import UNLIMITED, Checkpoint, Transcript, TurnLimits
from chatrpc.db.turn_rows import TURN
from chatrpc.domain import Accepted, BusyPolicy, MessageState, OutgoingMessage, Page, TextPart, TurnSettings
from chatrpc.errors import AlreadyExists, ChatError, InvalidInput, NotFound, Reason
from tests.db.helpers import finish, said

OWNER = uuid4()


async def new_conversation(database: Database, user_id: UUID) -> UUID:
    conversations = Conversations(database)
    created = await conversations.create(user_id, title="", settings=TurnSettings(), labels={}, request_id=None)
    return created.id


async def append(
    database: Database, user_id: UUID, conversation_id: UUID, key: str, text: str = "Hello.", parent: UUID | None = None
) -> Accepted:
    message = OutgoingMessage(conversation_id, key, (TextPart(text),), parent_id=parent)
    return await Transcript(database).append(user_id, message, tokens=3, actor=None, owner=OWNER)


async def test_an_accepted_message_and_its_reply_take_two_numbers(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    first = await append(database, user_id, conversation_id, "a")
    second = await append(database, user_id, conversation_id, "b")
    assert (first.message.sequence, first.reply.sequence) == (1, 2)
    assert (second.message.sequence, second.reply.sequence) == (3, 4)
    assert second.message.parent_id == first.reply.id
    assert second.path == ((0, 3),)
    assert second.revision_before == first.revision_before + 1


async def test_a_resend_attaches_to_the_same_turn(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    first = await append(database, user_id, conversation_id, "a")
    again = await append(database, user_id, conversation_id, "a")
    assert again.duplicate
    assert again.message == first.message
    assert again.reply == first.reply
    assert again.path == first.path


async def test_a_resend_of_a_large_message_writes_nothing(database: Database, user_id: UUID) -> None:
    async def written() -> int:
        async with database.unbound() as connection:
            cursor = await connection.execute(
                "SELECT sum(pg_relation_size(reltoastrelid))::bigint AS bytes FROM pg_class "
                "WHERE relname LIKE 'messages%' AND reltoastrelid <> 0"
            )
            row = await cursor.fetchone()
        assert row is not None
        return int(row["bytes"])

    conversation_id = await new_conversation(database, user_id)
    text = secrets.token_hex(200_000)
    await append(database, user_id, conversation_id, "a", text)
    before = await written()
    assert before > 100_000
    for _ in range(3):
        assert (await append(database, user_id, conversation_id, "a", text)).duplicate
    with pytest.raises(AlreadyExists, match="'a' was used"):
        await append(database, user_id, conversation_id, "a", text[1:])
    assert await written() == before


@pytest.mark.parametrize("statement", [TURN, OF_MESSAGE])
async def test_what_belongs_to_a_message_is_found_without_reading_the_users_others(
    database: Database, user_id: UUID, statement: str
) -> None:
    """By the plan that a connection makes while there is nothing, and keeps."""
    prepared = f"PREPARE found (uuid, uuid) AS {statement}" % {"user": "$1", "reply": "$2", "message": "$2"}
    async with database.transaction(user_id) as connection:
        await connection.execute(prepared)
        await connection.execute(f"EXECUTE found ('{user_id}', '{user_id}')")
        for _ in range(20):
            accepted = await append(database, user_id, await new_conversation(database, user_id), "a")
        rows = await connection.execute(
            f"EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF, BUFFERS OFF) EXECUTE found ('{user_id}', '{accepted.reply.id}')"
        )
        plan = "\n".join(row["QUERY PLAN"] for row in await rows.fetchall())
        await connection.execute("DEALLOCATE found")
    assert re.findall(r"actual rows=1\b", plan), plan
    assert {int(number) for number in re.findall(r"rows=(\d+)", plan)} <= {0, 1}, plan
    assert "Rows Removed" not in plan, plan


async def test_a_key_used_for_other_text_is_refused(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    await append(database, user_id, conversation_id, "a", "one")
    with pytest.raises(AlreadyExists, match="'a' was used"):
        await append(database, user_id, conversation_id, "a", "two")


async def test_racing_sends_leave_no_gap_and_double_nothing(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    keys = [f"key-{number % 40}" for number in range(120)]
    accepted = await asyncio.gather(*(append(database, user_id, conversation_id, key, key) for key in keys))

    by_key: dict[str, set[UUID]] = {}
    for key, one in zip(keys, accepted, strict=True):
        by_key.setdefault(key, set()).add(one.message.id)
    assert all(len(ids) == 1 for ids in by_key.values())
    assert sum(not one.duplicate for one in accepted) == 40
    listed, _ = await Conversations(database).messages(user_id, conversation_id, Page(1000))
    assert [message.sequence for message in listed] == list(range(1, 81))
    assert all(message.parent_id == before.id for before, message in pairwise(listed))


async def test_a_resend_is_never_refused_and_a_refusal_leaves_nothing(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    first = await append(database, user_id, conversation_id, "a")
    transcript = Transcript(database)
    for policy, limits, refused in (
        (BusyPolicy.REJECT, UNLIMITED, Reason.CONVERSATION_BUSY),
        (BusyPolicy.QUEUE, TurnLimits(queue=0, pending=9), Reason.TOO_MANY_TURNS),
        (BusyPolicy.QUEUE, TurnLimits(queue=9, pending=1), Reason.TOO_MANY_TURNS),
    ):
        for parent in (None, first.reply.id):
            known, new = (
                OutgoingMessage(conversation_id, key, (TextPart("Hello."),), parent_id=parent, busy_policy=policy)
                for key in ("a", "b")
            )
            again = await transcript.append(user_id, known, tokens=3, actor=None, owner=OWNER, limits=limits)
            assert (again.duplicate, again.message.id) == (True, first.message.id)
            with pytest.raises(ChatError) as error:
                await transcript.append(user_id, new, tokens=3, actor=None, owner=OWNER, limits=limits)
            assert error.value.reason is refused
    second = await append(database, user_id, conversation_id, "b")
    assert (second.message.sequence, second.revision_before) == (3, first.revision_before + 1)
    assert (second.message.parent_id, second.parent_pending) == (first.reply.id, True)


async def test_racing_branches_leave_no_gap_and_are_different(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    first = await append(database, user_id, conversation_id, "a")
    parents = [first.reply.id, None] * 20
    accepted = await asyncio.gather(
        *(append(database, user_id, conversation_id, f"key-{n}", parent=parent) for n, parent in enumerate(parents))
    )
    assert sorted(one.message.sequence for one in accepted) == list(range(3, 83, 2))
    # The one that comes first goes on from the reply, wherever it was told to.
    beginners = [one for one in accepted if one.message.parent_id == first.reply.id]
    assert len({one.message.branch for one in beginners}) == len(beginners) >= 20
    places = {(one.message.branch, one.message.depth) for one in accepted}
    assert len(places) == len(accepted)


async def test_an_earlier_parent_starts_a_branch(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    first = await append(database, user_id, conversation_id, "a")
    await append(database, user_id, conversation_id, "b")
    edited = await append(database, user_id, conversation_id, "b2", parent=first.reply.id)
    assert edited.path == ((0, 2), (1, 3))
    assert (edited.message.sequence, edited.message.depth) == (5, 3)
    onward = await append(database, user_id, conversation_id, "c")
    assert onward.path == ((0, 2), (1, 5))
    third = await append(database, user_id, conversation_id, "d", parent=edited.reply.id)
    assert third.path == ((0, 2), (1, 4), (2, 5))

    active, _ = await Conversations(database).messages(user_id, conversation_id, Page(100))
    assert [m.client_message_id for m in active if m.client_message_id] == ["a", "b2", "d"]
    everything, _ = await Conversations(database).messages(user_id, conversation_id, Page(100), all_branches=True)
    assert [m.sequence for m in everything] == list(range(1, 11))


async def test_a_parent_must_be_a_reply_of_the_conversation(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    first = await append(database, user_id, conversation_id, "a")
    with pytest.raises(InvalidInput, match="must be a reply"):
        await append(database, user_id, conversation_id, "b", parent=first.message.id)
    other = await new_conversation(database, user_id)
    with pytest.raises(NotFound):
        await append(database, user_id, other, "b", parent=first.reply.id)


async def test_somebody_elses_conversation_does_not_exist(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    with pytest.raises(NotFound):
        await append(database, uuid4(), conversation_id, "a")


async def test_only_the_current_attempt_finishes(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    turn = await append(database, user_id, conversation_id, "a")
    transcript = Transcript(database)
    assert await transcript.begin_attempt(user_id, turn.reply.id, OWNER) == 2
    assert await finish(transcript, user_id, turn, "stale", attempt=1) is None
    stale = Checkpoint(user_id, turn.reply.id, 1, said("stale"), (5,))
    assert await transcript.checkpoint_replies([stale]) == {turn.reply.id}
    finished = await finish(transcript, user_id, turn, "fresh", attempt=2)
    assert finished is not None
    assert await finish(transcript, user_id, turn, "twice", attempt=2) is None
    stored = await transcript.turn(user_id, turn.reply.id)
    assert stored.reply == finished[0]
    assert stored.reply.text == "fresh"
    assert finished[1] == turn.revision_before + 1


async def test_checkpoints_of_several_users_are_stored_at_once(database: Database) -> None:
    transcript, checkpoints, turns = Transcript(database), [], []
    for number in range(3):
        user_id = uuid4()
        turn = await append(database, user_id, await new_conversation(database, user_id), "a")
        text = 'so "far"\n{}' * number
        checkpoints.append(Checkpoint(user_id, turn.reply.id, 1, said(text), tuple(range(number))))
        turns.append((user_id, turn, text))
    foreign = Checkpoint(uuid4(), turns[0][1].reply.id, 1, said("not mine"), ())
    assert await transcript.checkpoint_replies([*checkpoints, foreign]) == {foreign.reply_id}
    for user_id, turn, text in turns:
        stored = await transcript.turn(user_id, turn.reply.id)
        assert stored.reply.text == text
        assert stored.reply.state is MessageState.PENDING
