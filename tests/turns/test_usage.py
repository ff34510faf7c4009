"""However an attempt at a reply ends, what it used is booked; and a turn over the quota asks no model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.transcript import Claim, Transcript
from chatrpc.domain import Accepted, MessageState, Quota, Sampling, TurnSettings
from chatrpc.errors import Reason, ResourceExhausted, Unavailable
from chatrpc.ports import Vectors
from chatrpc.turns.events import Completed, ContextBuilt, Delta
from chatrpc.turns.in_vain import MOST, InVain
from tests.db.ledger import send
from tests.db.test_transcript import new_conversation
from tests.support.embedder import WordEmbedder
from tests.support.provider import Answer, Fault, Provider
from tests.turns.conftest import Process, running
from tests.turns.test_several_processes import die, rest, take

PATIENCE = 20.0


async def entries(database: Database, user_id: UUID) -> list[dict[str, Any]]:
    [rows] = await database.query(user_id, ("SELECT * FROM usage_entries ORDER BY booked_at, id, attempt", ()))
    return rows


async def test_the_providers_count_is_booked_with_what_came_from_its_cache(
    process: Process, database: Database, user_id: UUID, provider: Provider
) -> None:
    counted = {"prompt_tokens": 40, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 32}}
    provider.script(Answer(deltas=("Hello",), usage=counted))
    accepted, _ = await process.said("Hi.")
    [entry] = await entries(database, user_id)
    assert (entry["id"], entry["attempt"], entry["kind"]) == (accepted.reply.id, 1, "turn")
    assert (entry["conversation_id"], entry["model"]) == (process.conversation_id, "test-model")
    assert (entry["prompt_tokens"], entry["cached_tokens"], entry["completion_tokens"]) == (40, 32, 5)
    assert (entry["estimated"], entry["embedding_tokens"] > 0) == (False, True)
    assert entry["reserved_tokens"] > 2_000
    [rows] = await database.query(user_id, ("SELECT context_tokens FROM conversations", ()))
    assert rows[0]["context_tokens"] > 0


async def test_what_fails_before_its_first_token_used_nothing(
    process: Process, database: Database, user_id: UUID, provider: Provider
) -> None:
    thought = {"choices": [{"index": 0, "delta": {"reasoning_content": "Let me see."}}]}
    provider.script(
        Answer(status=500),
        Answer(deltas=("half",), fault=Fault.CUT),
        Answer(deltas=(), first_chunks=(thought,), fault=Fault.CUT),
    )
    for _ in range(3):
        await process.said("Hi.")
    nothing, cut, thinking = await entries(database, user_id)
    assert (nothing["prompt_tokens"], nothing["completion_tokens"], nothing["estimated"]) == (0, 0, False)
    assert (cut["prompt_tokens"] > 0, cut["completion_tokens"] > 0, cut["estimated"]) == (True, True, True)
    assert (thinking["prompt_tokens"] > 0, thinking["completion_tokens"], thinking["estimated"]) == (True, 0, True)


async def test_a_stopped_reply_is_booked_with_what_it_has(
    process: Process, database: Database, user_id: UUID, provider: Provider
) -> None:
    provider.script(Answer(deltas=("so far",), fault=Fault.STALL))
    accepted, events = await process.send("Hi.")
    await take(events, 2)
    await process.turns.cancel(process.caller, accepted.reply.id)
    ended = [event async for event in events][-1].event
    assert isinstance(ended, Completed)
    [entry] = await entries(database, user_id)
    assert entry["estimated"]
    assert ended.message.usage is not None
    assert entry["prompt_tokens"] == ended.message.usage.prompt_tokens > 0
    assert entry["completion_tokens"] == ended.message.usage.completion_tokens > 0


@pytest.mark.parametrize("interrupt", [False, True])
async def test_an_attempt_that_dies_with_its_process_is_booked_from_its_reservation(
    database: Database, user_id: UUID, conversation_id: UUID, provider: Provider, interrupt: bool
) -> None:
    provider.script(Answer(deltas=("so far",), fault=Fault.STALL), Answer(deltas=("anew",)))
    limited = TurnSettings(sampling=Sampling(max_output_tokens=50))
    async with (
        running(database, provider, user_id, conversation_id) as one,
        running(database, provider, user_id, conversation_id, interrupt=interrupt) as other,
    ):
        accepted, events = await one.send("Hi.", settings=limited)
        assert [type(each.event) for each in await take(events, 2)] == [ContextBuilt, Delta]
        await checkpointed(database, user_id)
        await die(one)
        assert await other.takeover.sweep() == 1
        ended = (await other.followed(accepted.reply.id))[-1].event
        assert isinstance(ended, Completed)
        killed, last = await entries(database, user_id)
        assert (killed["attempt"], killed["estimated"], killed["completion_tokens"]) == (1, True, 50)
        assert killed["prompt_tokens"] + 50 == killed["reserved_tokens"]
        assert ended.message.usage is not None
        assert last["attempt"] == 2
        assert last["estimated"] is False
        if interrupt:
            assert (last["prompt_tokens"], last["completion_tokens"]) == (0, 0)
            assert ended.message.state is MessageState.CANCELLED
            assert ended.message.usage.estimated
            assert ended.message.usage.prompt_tokens == killed["prompt_tokens"]
        else:
            assert last["prompt_tokens"] == ended.message.usage.prompt_tokens > 0


async def test_a_reply_that_is_ended_bears_what_the_attempt_that_wrote_it_used(
    database: Database, user_id: UUID, conversation_id: UUID, provider: Provider
) -> None:
    provider.script(Answer(deltas=("so far",), fault=Fault.STALL))
    async with (
        running(database, provider, user_id, conversation_id) as one,
        running(database, provider, user_id, conversation_id) as other,
    ):
        accepted, events = await one.send("Hi.")
        await take(events, 2)
        await checkpointed(database, user_id)
        await die(one)
        transcript, owner = other.turns._parts.transcript, other.lease.process_id
        # The second attempt is over before it has asked the model.
        for attempt in (2, 3):
            assert await transcript.begin_attempt(user_id, accepted.reply.id, owner) == attempt
        await other.turns.take_over(Claim(user_id, accepted.reply.id, 3), interrupt=True)
        ended = (await other.followed(accepted.reply.id))[-1].event
        assert isinstance(ended, Completed)
        usage = ended.message.usage
        assert usage is not None
        booked = [(each["prompt_tokens"], each["completion_tokens"]) for each in await entries(database, user_id)]
        assert sorted(booked) == [(0, 0), (0, 0), (usage.prompt_tokens, usage.completion_tokens)]
        assert usage.estimated


async def checkpointed(database: Database, user_id: UUID) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            unsaved = "SELECT count(*) AS left FROM messages WHERE state = 'pending' AND parts = '[]'"
            [rows] = await database.query(user_id, (unsaved, ()))
            if not rows[0]["left"]:
                return
            await asyncio.sleep(0.02)


async def test_an_attempt_that_may_not_finish_is_booked_all_the_same(
    process: Process, database: Database, user_id: UUID, provider: Provider
) -> None:
    provider.script(Answer(deltas=("so far",), fault=Fault.STALL))
    _, events = await process.send("Hi.")
    await take(events, 2)
    await Conversations(database).delete(user_id, process.conversation_id)
    with pytest.raises(Unavailable):
        await rest(events)
    await process.takeover.sweep()
    # The deletion has counted the turn.
    deleted, entry = await entries(database, user_id)
    assert (deleted["attempt"], deleted["prompt_tokens"], deleted["completion_tokens"]) == (2, 0, 0)
    assert (entry["attempt"], entry["estimated"], entry["completion_tokens"] > 0) == (1, True, True)


async def test_what_a_server_could_not_finish_is_booked_before_it_stops(
    process: Process, database: Database, user_id: UUID, provider: Provider
) -> None:
    provider.script(Answer(deltas=("so far",), fault=Fault.STALL))
    _, events = await process.send("Hi.")
    await take(events, 2)
    await Conversations(database).delete(user_id, process.conversation_id)
    with pytest.raises(Unavailable):
        await rest(events)
    await process.turns.drain(0.0)
    booked = {entry["attempt"]: entry["completion_tokens"] > 0 for entry in await entries(database, user_id)}
    assert booked == {1: True, 2: False}


async def test_an_attempt_that_lost_its_lease_is_booked_once_by_its_own_process(
    process: Process, database: Database, user_id: UUID, provider: Provider
) -> None:
    provider.script(Answer(deltas=("told",), fault=Fault.STALL))
    accepted, events = await process.send("Hi.")
    await take(events, 2)
    process.turns.abandon()
    with pytest.raises(Unavailable):
        await take(events, 1)
    await process.takeover.sweep()
    await process.followed(accepted.reply.id)
    left, finished = await entries(database, user_id)
    assert (left["attempt"], left["model"], left["prompt_tokens"] < left["reserved_tokens"]) == (1, "test-model", True)
    assert finished["attempt"] == 2


async def test_a_reader_who_comes_back_and_the_sweep_begin_one_attempt_between_them(
    process: Process, database: Database, user_id: UUID, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.script(Answer(deltas=("told",), fault=Fault.STALL), Answer(deltas=("anew",)))
    accepted, events = await process.send("Hi.")
    await take(events, 2)
    process.turns.abandon()
    with pytest.raises(Unavailable):
        await take(events, 1)
    asked, answer, begin = asyncio.Event(), asyncio.Event(), Transcript.begin_attempt

    async def held_up(*args: Any) -> int | None:
        asked.set()
        await answer.wait()
        return await begin(*args)

    monkeypatch.setattr(Transcript, "begin_attempt", held_up)
    reading = asyncio.create_task(process.followed(accepted.reply.id))
    await asked.wait()
    sweeping = asyncio.create_task(process.takeover.sweep())
    # As far as it comes by itself.
    for _ in range(20):
        await asyncio.sleep(0)
    answer.set()
    await sweeping
    assert (await reading)[-1].attempt == 2
    assert [each["prompt_tokens"] > 0 for each in await entries(database, user_id)] == [True, True]


async def test_a_reply_that_cannot_be_begun_keeps_no_other_from_being_taken_over(
    process: Process, database: Database, user_id: UUID, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.script(Answer(deltas=("told",), fault=Fault.STALL))
    _, events = await process.send("Hi.")
    await take(events, 2)
    process.turns.abandon()
    with pytest.raises(Unavailable):
        await take(events, 1)
    dead = await send(database, user_id, await new_conversation(database, user_id), Quota(), owner=uuid4())

    async def fault(*_: object) -> None:
        raise ValueError("a fault of ours")

    monkeypatch.setattr(Transcript, "begin_attempt", fault)
    assert await process.takeover.sweep() == 1
    assert (await process.followed(dead.reply.id))[-1].attempt == 2


async def test_a_turn_over_the_quota_asks_no_model(
    process: Process, database: Database, user_id: UUID, provider: Provider
) -> None:
    process.caller = replace(process.caller, quota=Quota(tokens=10))
    with pytest.raises(ResourceExhausted) as caught:
        await process.send("Hi.")
    assert caught.value.reason is Reason.QUOTA_EXCEEDED
    assert provider.requests == []
    assert await entries(database, user_id) == []


async def test_what_comes_to_nothing_is_embedded_once_and_then_no_more(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    embed, append = WordEmbedder.embed, Transcript.append

    async def noted_embed(embedder: WordEmbedder, texts: Sequence[str]) -> Vectors:
        steps.append("embed")
        return await embed(embedder, texts)

    async def noted_append(transcript: Transcript, *args: Any, **kwargs: Any) -> Accepted:
        try:
            return await append(transcript, *args, **kwargs)
        finally:
            steps.append("answer")

    monkeypatch.setattr(WordEmbedder, "embed", noted_embed)
    monkeypatch.setattr(Transcript, "append", noted_append)

    async def done(times: int, key: str | None = None) -> list[str]:
        steps.clear()
        for _ in range(times):
            with suppress(ResourceExhausted):
                await process.said("Hi.", key)
        return list(steps)

    rich = process.caller
    process.caller = replace(rich, quota=Quota(tokens=10))
    assert await done(3) == ["embed", "answer", "answer", "answer"]
    process.caller = rich
    assert await done(2, "once") == ["answer", "embed", "embed", "answer"]
    # The second was a resend, and so is this.
    assert await done(1, "once") == ["answer"]
    assert await done(1) == ["answer", "embed"]
    assert await done(1) == ["embed", "answer"]


def test_so_many_users_are_kept_in_mind() -> None:
    in_vain, users = InVain(), [uuid4() for _ in range(MOST + 1)]
    for user in (*users[:MOST], users[0], users[MOST]):
        in_vain.note(user, vain=True)
    assert [user in in_vain for user in (*users[:3], users[MOST])] == [True, False, True, True]
    in_vain.note(users[0], vain=False)
    assert users[0] not in in_vain


async def test_a_whole_turn_costs_four_round_trips_with_its_ledger(
    process: Process, database: Database, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await process.said("Hi.")
    trips: list[str] = []
    call, rows, query = database.call, database.rows, database.query

    async def counted_call(statement: str, params: Any) -> Any:
        trips.append(statement)
        return await call(statement, params)

    async def counted_rows(statement: str, params: Any) -> Any:
        trips.append(statement)
        return await rows(statement, params)

    async def counted_query(user_id: UUID, *statements: Any) -> Any:
        trips.append(statements[0][0])
        return await query(user_id, *statements)

    monkeypatch.setattr(database, "call", counted_call)
    monkeypatch.setattr(database, "rows", counted_rows)
    monkeypatch.setattr(database, "query", counted_query)
    provider.script(Answer(deltas=tuple(f"word {number} " for number in range(50))))
    process.caller = replace(process.caller, quota=Quota(tokens=10**9, turns=10**6))
    _, events = await process.said("And again.")
    deltas = sum(isinstance(event.event, Delta) for event in events)
    turn = [trip for trip in trips if "checkpoint_replies" not in trip]
    assert deltas == 50
    # Accepting, searching and finishing; a turn without a ledger, a log and checkpoints has no fewer.
    assert [next(name for name in ("append_message", "search", "finish_reply") if name in trip) for trip in turn] == [
        "append_message",
        "search",
        "finish_reply",
    ]
