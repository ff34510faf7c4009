"""Quotas on a real PostgreSQL: what is reserved, and what is refused."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatrpc.db.branches import Branches
from chatrpc.db.engine import Database
from chatrpc.db.transcript import Transcript
from chatrpc.domain import (
    Accepted,
    Quota,
    QuotaWindow,
    Regeneration,
)
from chatrpc.errors import Reason, ResourceExhausted
from tests.db.helpers import finish
from tests.db.ledger import OWNER, RESERVATION, entries, send, tried, window
from tests.db.test_transcript import new_conversation


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
    with pytest.raises(ResourceExhausted, match="7 replies a day; finished: 7, running: 0"):
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
