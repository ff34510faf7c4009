"""The ledger on a real PostgreSQL: what is booked."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.processes import Processes
from chatrpc.db.transcript import Transcript
from chatrpc.domain import (
    Quota,
    Served,
    Usage,
    UsageKind,
)
from chatrpc.errors import ResourceExhausted
from tests.db.helpers import finish
from tests.db.ledger import OWNER, days, entries, send, window
from tests.db.test_transcript import new_conversation


async def test_a_finished_attempt_is_booked_once(database: Database, user_id: UUID) -> None:
    transcript = Transcript(database)
    turn = await send(database, user_id, await new_conversation(database, user_id), Quota())
    assert await finish(transcript, user_id, turn, "Hi.") is not None
    assert await finish(transcript, user_id, turn, "Hi.") is None
    late = Served("other", Usage(900, 0, 90))
    await transcript.book_attempt(user_id, turn.reply.id, 1, turn.message.conversation_id, late)
    [entry] = await entries(database, user_id)
    assert (entry["model"], entry["prompt_tokens"], entry["completion_tokens"]) == ("test", 1, 1)
    [day] = await days(database, user_id)
    assert (day.kind, day.model, day.count, day.prompt_tokens) == (UsageKind.TURN, "test", 1, 1)


async def test_of_a_dead_processs_attempt_the_reservation_is_booked_as_an_estimate(
    database: Database, user_id: UUID
) -> None:
    transcript, living = Transcript(database), uuid4()
    async with database.unbound() as connection:
        await connection.execute("INSERT INTO server_processes VALUES (%s, now() + interval '1 minute')", (living,))
    others = [user_id, *(uuid4() for _ in range(3))]
    turns = {
        each: await send(database, each, await new_conversation(database, each), Quota(), owner=uuid4())
        for each in others
    }
    claims = await transcript.claim_abandoned(living, 10)
    assert {claim.user_id: (claim.reply_id, claim.attempt) for claim in claims} == {
        each: (turn.reply.id, 2) for each, turn in turns.items()
    }
    for each, turn in turns.items():
        await finish(transcript, each, turn, "Hi.", attempt=2)
        killed, finished = await entries(database, each)
        assert (killed["id"], killed["attempt"], killed["estimated"], killed["model"]) == (turn.reply.id, 1, True, None)
        assert (killed["prompt_tokens"], killed["completion_tokens"]) == (70, 30)
        assert (finished["attempt"], finished["estimated"], finished["prompt_tokens"]) == (2, False, 1)
        assert (await window(database, each)).turns == 1
        assert sum(day.estimated_tokens for day in await days(database, each)) == 100


async def test_of_its_own_attempt_a_process_tells_what_it_was_served(database: Database, user_id: UUID) -> None:
    transcript = Transcript(database)
    turn = await send(database, user_id, await new_conversation(database, user_id), Quota())
    served = Served("m", Usage(50, 20, 9))
    assert await transcript.begin_attempt(user_id, turn.reply.id, OWNER, 1, served) == 2
    assert await transcript.begin_attempt(user_id, turn.reply.id, OWNER) == 3
    first, second = await entries(database, user_id)
    assert (first["model"], first["prompt_tokens"], first["cached_tokens"], first["completion_tokens"]) == (
        "m",
        50,
        20,
        9,
    )
    assert (first["estimated"], second["estimated"], second["prompt_tokens"]) == (False, False, 0)


async def test_an_attempt_whose_beginning_was_not_heard_of_is_not_booked_again(
    database: Database, user_id: UUID
) -> None:
    transcript = Transcript(database)
    turn = await send(database, user_id, await new_conversation(database, user_id), Quota())
    served = Served("m", Usage(50, 20, 9))
    for attempt in (2, 3):
        assert await transcript.begin_attempt(user_id, turn.reply.id, OWNER, 1, served) == attempt
    booked = [(entry["attempt"], entry["prompt_tokens"]) for entry in await entries(database, user_id)]
    assert sorted(booked) == [(1, 50), (2, 0)]


async def test_a_reply_is_counted_once_also_where_its_tokens_were_told_before(
    database: Database, user_id: UUID
) -> None:
    transcript = Transcript(database)
    turn = await send(database, user_id, await new_conversation(database, user_id), Quota())
    told = Served("test", Usage(1, 0, 1))
    await transcript.book_attempt(user_id, turn.reply.id, 1, turn.message.conversation_id, told)
    await finish(transcript, user_id, turn, "Hi.")
    await finish(transcript, user_id, turn, "Hi.")
    used = await window(database, user_id)
    assert (used.turns, used.tokens) == (1, 2)


async def test_a_reply_whose_attempts_used_nothing_bears_nothing(database: Database, user_id: UUID) -> None:
    transcript = Transcript(database)
    turn = await send(database, user_id, await new_conversation(database, user_id), Quota())
    assert await transcript.begin_attempt(user_id, turn.reply.id, OWNER) == 2
    ended = await finish(transcript, user_id, turn, "Hi.", attempt=2, usage=None)
    assert ended is not None
    assert ended[0].usage == Usage()
    assert all(entry["prompt_tokens"] == 0 for entry in await entries(database, user_id))


async def test_a_process_with_a_new_lease_tells_what_its_attempt_under_the_old_one_was_served(
    database: Database, user_id: UUID
) -> None:
    transcript = Transcript(database)
    turn = await send(database, user_id, await new_conversation(database, user_id), Quota())
    assert await transcript.begin_attempt(user_id, turn.reply.id, uuid4(), 1, Served("m", Usage(50, 20, 9))) == 2
    [entry] = await entries(database, user_id)
    assert (entry["model"], entry["prompt_tokens"], entry["estimated"]) == ("m", 50, False)


@pytest.mark.parametrize("what", ["conversation", "message", "reply"])
@pytest.mark.parametrize("alive", [True, False])
async def test_a_turn_that_is_deleted_or_erased_while_it_runs_is_booked_and_counted(
    database: Database, user_id: UUID, what: str, alive: bool
) -> None:
    owner, conversation_id = uuid4(), await new_conversation(database, user_id)
    if alive:
        await Processes(database).acquire(owner, timedelta(minutes=1))
    turn = await send(database, user_id, conversation_id, Quota(turns=1), owner=owner)
    conversations = Conversations(database)
    if what == "conversation":
        await conversations.delete(user_id, conversation_id)
    else:
        message_id = turn.message.id if what == "message" else turn.reply.id
        await conversations.erase_message(user_id, message_id, include_reply=False)
    other = await new_conversation(database, user_id)
    with pytest.raises(ResourceExhausted, match="1 reply a day; finished: 1, running: 0"):
        await send(database, user_id, other, Quota(turns=1))
    if alive:
        # Its process tells as soon as it has found out.
        await Transcript(database).book_attempt(user_id, turn.reply.id, 1, conversation_id, Served("m", Usage(5, 0, 1)))
    booked = {entry["attempt"]: entry for entry in await entries(database, user_id)}
    tokens = {each: (entry["prompt_tokens"], entry["completion_tokens"]) for each, entry in booked.items()}
    assert tokens == {1: (5, 1) if alive else (70, 30), 2: (0, 0)}
    assert booked[1]["estimated"] is not alive
    assert (await window(database, user_id)).turns == 1


async def test_what_had_ended_before_it_was_deleted_or_erased_is_not_counted_again(
    database: Database, user_id: UUID
) -> None:
    conversation_id = await new_conversation(database, user_id)
    turn = await send(database, user_id, conversation_id, Quota())
    await finish(Transcript(database), user_id, turn, "Hi.")
    await Conversations(database).erase_message(user_id, turn.message.id, include_reply=True)
    await Conversations(database).delete(user_id, conversation_id)
    assert len(await entries(database, user_id)) == (await window(database, user_id)).turns == 1


async def test_deletions_and_takeovers_of_the_same_replies_do_not_wait_for_each_other_for_ever(
    database: Database, user_id: UUID
) -> None:
    conversations, transcript = Conversations(database), Transcript(database)
    living = [uuid4() for _ in range(3)]
    for owner in living:
        await Processes(database).acquire(owner, timedelta(minutes=1))
    for _ in range(4):
        users = [user_id, uuid4(), uuid4()]
        places = [(each, await new_conversation(database, each)) for each in users for _ in range(2)]
        for each, conversation_id in places:
            await send(database, each, conversation_id, Quota(), owner=uuid4())
        await asyncio.gather(
            *(transcript.claim_abandoned(owner, 10) for owner in living),
            *(conversations.delete(each, conversation_id) for each, conversation_id in reversed(places)),
        )
        for each in users[1:]:
            assert (await window(database, each)).turns == 2
            # Of the attempt that was dead, and of the one that was deleted, where there was one between.
            assert sum(entry["prompt_tokens"] == 70 for entry in await entries(database, each)) == 2


async def test_models_that_nobody_has_make_no_rows(database: Database, user_id: UUID) -> None:
    transcript, conversation_id = Transcript(database), await new_conversation(database, user_id)
    for number in range(3):
        turn = await send(database, user_id, conversation_id, Quota())
        served = Served(f"invented-{number}", Usage())
        await transcript.begin_attempt(user_id, turn.reply.id, OWNER, 1, served)
        await finish(transcript, user_id, turn, "Hi.", attempt=2)
    assert sorted((day.model, day.count) for day in await days(database, user_id)) == [("", 0), ("test", 3)]


async def test_the_rows_of_an_hour_are_bounded_whatever_models_are_named(database: Database, user_id: UUID) -> None:
    book = """
    SELECT book_usage(%s, gen_random_uuid(), 1, 'turn', NULL, 'invented-' || n %% 50, '{"prompt_tokens": 1}', 0, 1)
    FROM generate_series(0, 99) n
    """
    await database.query(user_id, (book, (user_id,)))
    told = {day.model: (day.count, day.prompt_tokens) for day in await days(database, user_id)}
    assert told == {f"invented-{number}": (2, 2) for number in range(32)} | {"": (36, 36)}
    assert len({entry["model"] for entry in await entries(database, user_id)}) == 50


async def test_a_ledger_shows_its_own_user_alone(database: Database, user_id: UUID) -> None:
    turn = await send(database, user_id, await new_conversation(database, user_id), Quota())
    await finish(Transcript(database), user_id, turn, "Hi.")
    stranger = uuid4()
    assert await days(database, stranger) == []
    assert (await window(database, stranger)).turns == 0
    [rows] = await database.query(stranger, ("SELECT * FROM usage_entries", ()))
    assert rows == []
