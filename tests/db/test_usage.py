"""The ledger on a real PostgreSQL: what is reserved, refused and booked."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatrpc.db.branches import Branches
from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.processes import Processes
from chatrpc.db.transcript import Transcript
from chatrpc.db.usage import UsageLedger
from chatrpc.domain import (
    Accepted,
    DayUsage,
    OutgoingMessage,
    Quota,
    QuotaWindow,
    Regeneration,
    Reservation,
    Served,
    TextPart,
    Usage,
    UsageKind,
    WindowUsage,
)
from chatrpc.errors import Reason, ResourceExhausted
from tests.db.helpers import finish
from tests.db.test_transcript import new_conversation

OWNER = uuid4()
RESERVATION = Reservation(prompt_tokens=70, most_prompt_tokens=1_000, completion_tokens=30)


async def send(
    database: Database,
    user_id: UUID,
    conversation_id: UUID,
    quota: Quota,
    key: str | None = None,
    owner: UUID = OWNER,
) -> Accepted:
    message = OutgoingMessage(conversation_id, key or uuid4().hex, (TextPart("Hello."),))
    return await Transcript(database).append(
        user_id, message, tokens=3, actor=None, owner=owner, reservation=RESERVATION, quota=quota
    )


async def tried(database: Database, user_id: UUID, conversation_id: UUID, quota: Quota) -> Accepted | None:
    try:
        return await send(database, user_id, conversation_id, quota)
    except ResourceExhausted:
        return None


async def window(database: Database, user_id: UUID, of: QuotaWindow = QuotaWindow.DAY) -> WindowUsage:
    return await UsageLedger(database).window(user_id, of)


async def entries(database: Database, user_id: UUID) -> list[dict[str, object]]:
    [rows] = await database.query(user_id, ("SELECT * FROM usage_entries ORDER BY booked_at, id, attempt", ()))
    return rows


async def days(database: Database, user_id: UUID) -> list[DayUsage]:
    now = datetime.now(UTC)
    return await UsageLedger(database).days(user_id, now - timedelta(days=2), now + timedelta(days=2))


async def test_racing_sends_never_reserve_more_than_the_quota(database: Database, user_id: UUID) -> None:
    conversations = [await new_conversation(database, user_id) for _ in range(4)]
    quota = Quota(tokens=1_050)
    sent = await asyncio.gather(*(tried(database, user_id, each, quota) for each in conversations * 10))
    assert sum(each is not None for each in sent) == 10
    used = await window(database, user_id)
    assert (used.tokens, used.reserved_tokens, used.running_turns) == (0, 1_000, 10)


async def test_racing_sends_never_begin_more_turns_than_the_quota(database: Database, user_id: UUID) -> None:
    conversations = [await new_conversation(database, user_id) for _ in range(4)]
    sent = await asyncio.gather(*(tried(database, user_id, each, Quota(turns=7)) for each in conversations * 5))
    turns = [each for each in sent if each is not None]
    assert len(turns) == 7
    for turn in turns:
        await finish(Transcript(database), user_id, turn, "Hi.")
    with pytest.raises(ResourceExhausted, match="7 replies a day; 7 are finished and 0 running"):
        await send(database, user_id, conversations[0], Quota(turns=7))
    assert (await window(database, user_id)).turns == 7


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["send", "send", "finish", "die"]), max_size=14), st.integers(1, 9))
async def test_what_is_used_and_reserved_is_within_the_quota_whatever_happens(
    database: Database, steps: list[str], room: int
) -> None:
    user_id, quota = uuid4(), Quota(tokens=room * 100)
    transcript, running = Transcript(database), list[tuple[Accepted, int]]()
    conversation_id = await new_conversation(database, user_id)
    booked = 0
    for step in steps:
        if step == "send":
            turn = await tried(database, user_id, conversation_id, quota)
            room_left = room * 100 - booked - 100 * len(running)
            assert (turn is not None) == (room_left >= 100)
            if turn is not None:
                running.append((turn, 1))
        elif running and step == "finish":
            turn, attempt = running.pop(0)
            assert await finish(transcript, user_id, turn, "Hi.", attempt=attempt) is not None
            booked += 2
        elif running:
            turn, attempt = running.pop(0)
            assert await transcript.begin_attempt(user_id, turn.reply.id, uuid4()) == attempt + 1
            running.append((turn, attempt + 1))
            booked += 100
    used = await window(database, user_id)
    assert (used.tokens, used.reserved_tokens) == (booked, 100 * len(running))


async def test_a_message_over_the_quota_is_not_stored_and_its_refusal_tells_when_there_is_more(
    database: Database, user_id: UUID
) -> None:
    conversation_id = await new_conversation(database, user_id)
    quota = Quota(QuotaWindow.MONTH, tokens=150)
    first = await send(database, user_id, conversation_id, quota)
    with pytest.raises(ResourceExhausted, match=r"0 are used, 100 are reserved .* needs 100") as while_running:
        await send(database, user_id, conversation_id, quota)
    assert while_running.value.retry_after == 1.0
    await finish(Transcript(database), user_id, first, "Hi.")
    await send(database, user_id, conversation_id, quota)
    tight = Quota(QuotaWindow.MONTH, tokens=101)
    with pytest.raises(ResourceExhausted) as caught:
        await send(database, user_id, conversation_id, tight)
    assert caught.value.reason is Reason.QUOTA_EXCEEDED
    assert caught.value.metadata == {
        "subject": "user",
        "metric": "tokens",
        "limit": "101",
        "used": "2",
        "reserved": "100",
        "window": "month",
    }
    assert caught.value.retry_after is not None
    left = (await window(database, user_id, QuotaWindow.MONTH)).ends_at - datetime.now(UTC)
    assert caught.value.retry_after == pytest.approx(left.total_seconds(), abs=60)
    [rows] = await database.query(user_id, ("SELECT count(*) AS stored FROM messages", ()))
    assert rows[0]["stored"] == 4


async def test_a_message_that_no_window_has_room_for_is_told_so_and_no_time_to_come_again(
    database: Database, user_id: UUID
) -> None:
    conversation_id = await new_conversation(database, user_id)
    with pytest.raises(ResourceExhausted, match=r"needs 100 tokens, .* 99 a day in all. Lower its max_out") as caught:
        await send(database, user_id, conversation_id, Quota(tokens=99))
    assert (caught.value.retry_after, caught.value.metadata["metric"]) == (None, "tokens")


async def test_a_resend_of_an_accepted_message_is_never_refused(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    first = await send(database, user_id, conversation_id, Quota(tokens=100, turns=1), "key")
    for _ in range(2):
        again = await send(database, user_id, conversation_id, Quota(tokens=0, turns=0), "key")
        assert (again.duplicate, again.reply.id) == (True, first.reply.id)
        await finish(Transcript(database), user_id, first, "Hi.")
    assert len(await entries(database, user_id)) == 1


async def test_a_new_window_begins_with_nothing_used(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    for of, age in ((QuotaWindow.HOUR, "1 hour"), (QuotaWindow.DAY, "1 day"), (QuotaWindow.MONTH, "1 month")):
        quota = Quota(of, tokens=101)
        await finish(Transcript(database), user_id, await send(database, user_id, conversation_id, quota), "Hi.")
        assert await tried(database, user_id, conversation_id, quota) is None
        await database.query(user_id, ("UPDATE usage_hours SET hour = hour - %s::text::interval", (age,)))
        assert (await window(database, user_id, of)).tokens == 0
        await finish(Transcript(database), user_id, await send(database, user_id, conversation_id, quota), "Hi.")
        await database.query(user_id, ("UPDATE usage_hours SET hour = hour - interval '40 days'", ()))


async def test_a_reservation_grows_with_the_conversation_up_to_the_models_window(
    database: Database, user_id: UUID
) -> None:
    conversation_id = await new_conversation(database, user_id)
    for context_tokens, reserved in ((0, 100), (500, 600), (980, 1_030)):
        await database.query(user_id, ("UPDATE conversations SET context_tokens = %s", (context_tokens,)))
        turn = await send(database, user_id, conversation_id, Quota())
        assert (await window(database, user_id)).reserved_tokens == reserved
        await finish(Transcript(database), user_id, turn, "Hi.")
    assert [entry["reserved_tokens"] for entry in await entries(database, user_id)] == [100, 600, 1_030]


async def test_a_conversation_whose_model_takes_more_than_is_known_reserves_what_its_last_prompt_took(
    database: Database, user_id: UUID
) -> None:
    conversation_id = await new_conversation(database, user_id)
    turn = await send(database, user_id, conversation_id, Quota())
    await finish(Transcript(database), user_id, turn, "Hi.")
    await database.query(user_id, ("UPDATE conversations SET context_tokens = 5000", ()))
    await send(database, user_id, conversation_id, Quota())
    asked = Regeneration(conversation_id, turn.message.id, "again")
    await Transcript(database).regenerate(user_id, asked, owner=OWNER, reservation=RESERVATION)
    assert (await window(database, user_id)).reserved_tokens == 2 * 5_030


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
    with pytest.raises(ResourceExhausted, match="1 replies a day; 1 are finished and 0 running"):
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


async def test_a_fork_reserves_for_what_came_along(database: Database, user_id: UUID) -> None:
    conversation_id = await new_conversation(database, user_id)
    first = await send(database, user_id, conversation_id, Quota())
    await finish(Transcript(database), user_id, first, "A" * 400)
    last = await send(database, user_id, conversation_id, Quota())
    await finish(Transcript(database), user_id, last, "B" * 100)
    await database.query(user_id, ("UPDATE conversations SET context_tokens = 450", ()))
    for turn, reserved in ((first, 100 + 403), (last, 100 + 450)):
        fork = await Branches(database).fork(user_id, turn.reply.id, request_id=None)
        running = await send(database, user_id, fork.id, Quota())
        assert (await window(database, user_id)).reserved_tokens == reserved
        await finish(Transcript(database), user_id, running, "Hi.")


async def test_models_that_nobody_has_make_no_rows(database: Database, user_id: UUID) -> None:
    transcript, conversation_id = Transcript(database), await new_conversation(database, user_id)
    for number in range(3):
        turn = await send(database, user_id, conversation_id, Quota())
        served = Served(f"invented-{number}", Usage())
        await transcript.begin_attempt(user_id, turn.reply.id, OWNER, 1, served)
        await finish(transcript, user_id, turn, "Hi.", attempt=2)
    assert sorted((day.model, day.count) for day in await days(database, user_id)) == [("", 0), ("test", 3)]


async def test_a_reply_that_is_had_anew_is_within_the_quota_too(database: Database, user_id: UUID) -> None:
    transcript, conversation_id = Transcript(database), await new_conversation(database, user_id)
    turn = await send(database, user_id, conversation_id, Quota())
    await finish(transcript, user_id, turn, "Hi.")
    asked = Regeneration(conversation_id, turn.message.id, "again")
    with pytest.raises(ResourceExhausted, match="101 tokens a day; 2 are used"):
        await transcript.regenerate(user_id, asked, owner=OWNER, reservation=RESERVATION, quota=Quota(tokens=101))
    anew = await transcript.regenerate(user_id, asked, owner=OWNER, reservation=RESERVATION, quota=Quota(tokens=102))
    assert (await window(database, user_id)).reserved_tokens == 100
    again = await transcript.regenerate(user_id, asked, owner=OWNER, reservation=RESERVATION, quota=Quota(tokens=0))
    assert again.reply.id == anew.reply.id


async def test_a_ledger_shows_its_own_user_alone(database: Database, user_id: UUID) -> None:
    turn = await send(database, user_id, await new_conversation(database, user_id), Quota())
    await finish(Transcript(database), user_id, turn, "Hi.")
    stranger = uuid4()
    assert await days(database, stranger) == []
    assert (await window(database, stranger)).turns == 0
    [rows] = await database.query(stranger, ("SELECT * FROM usage_entries", ()))
    assert rows == []
