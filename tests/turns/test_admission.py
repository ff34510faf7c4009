"""Who is admitted, who waits, and who is refused."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.domain import Page
from chatrpc.errors import NotFound, Reason, Unavailable
from chatrpc.turns.admission import COME_BACK, LEAST, STRETCH, TRICKLE, Admission, Slot
from chatrpc.turns.busyness import TimeBudget, busy_seconds
from chatrpc.turns.events import Completed
from tests.support.provider import Answer, Fault, Provider
from tests.turns.conftest import running

# Seconds after which a test that waits has failed.
PATIENCE = 20.0

TARGET = 0.03


class Thread:
    """A thread that is as busy as a test likes."""

    def __init__(self, share: float = 0.0) -> None:
        self._share = share
        self._since = time.monotonic()
        self._busy = 0.0

    def becomes(self, share: float) -> None:
        self._busy, self._since, self._share = self(), time.monotonic(), share

    def __call__(self) -> float:
        return self._busy + (time.monotonic() - self._since) * self._share


async def entered(admission: Admission, number: int) -> list[Slot]:
    async with asyncio.timeout(PATIENCE):
        return [await admission.enter() for _ in range(number)]


async def overload(admission: Admission) -> list[Slot]:
    """Take all slots, and wait until somebody in line is refused."""
    slots: list[Slot] = []
    async with asyncio.timeout(PATIENCE):
        with suppress(Unavailable):
            while True:
                slots.append(await admission.enter())
    return slots


async def until_admitted(enter: Callable[[], Awaitable[Slot]]) -> Slot:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await enter()
            except Unavailable:
                await asyncio.sleep(0.01)


async def test_without_a_target_everybody_is_admitted_at_once() -> None:
    admission = Admission(0.0, 1, Thread(1.0))
    slots = [await admission.enter() for _ in range(1_000)]
    assert not admission.refuses()
    slots[0].leave()


async def test_a_burst_waits_and_nobody_is_refused() -> None:
    admission = Admission(PATIENCE, 2, Thread(1.0))
    first, second = await entered(admission, 2)
    waiting = [asyncio.create_task(admission.enter()) for _ in range(50)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    first.leave()
    slots = [second]
    # One after the other gets the slot that another has left, in the order in which they came.
    for task in waiting:
        slots.append(await asyncio.wait_for(task, PATIENCE))
        slots.pop(0).leave()


async def test_in_line_before_a_busy_loop_one_is_refused_with_a_time_to_come_again() -> None:
    admission = Admission(TARGET, 1, Thread(1.0))
    await entered(admission, 1)
    with pytest.raises(Unavailable) as caught:
        await asyncio.wait_for(admission.enter(), PATIENCE)
    assert caught.value.reason is Reason.SERVER_OVERLOADED
    assert COME_BACK[0] <= caught.value.retry_after <= COME_BACK[1]


async def test_the_log_says_of_an_overload_once_in_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    admission = Admission(TARGET, 1, Thread(1.0))
    await overload(admission)
    for _ in range(100):
        admission.refuses()
    assert capsys.readouterr().out.count("overloaded") == 1


async def test_those_who_are_refused_do_not_come_back_together() -> None:
    admission = Admission(TARGET, 1, Thread(1.0))
    await entered(admission, 1)
    refused = await asyncio.gather(*(admission.enter() for _ in range(20)), return_exceptions=True)
    assert len({error.retry_after for error in refused if isinstance(error, Unavailable)}) > 10


async def test_once_overloaded_nobody_waits_and_room_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatrpc.turns.admission.CALM", PATIENCE)
    thread = Thread(1.0)
    admission = Admission(TARGET, 1, thread)
    [slot] = await overload(admission)
    assert admission.refuses()
    refused = asyncio.create_task(admission.enter())
    await asyncio.sleep(0)
    assert isinstance(refused.exception(), Unavailable)
    thread.becomes(0.0)
    slot.leave()
    async with asyncio.timeout(PATIENCE):
        while admission.refuses():
            await asyncio.sleep(0.001)
    taken = asyncio.create_task(admission.enter())
    await asyncio.sleep(0)
    taken.result().leave()


async def test_while_the_loop_is_overdrawn_no_turn_is_begun_though_slots_are_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatrpc.turns.admission.TRICKLE", math.inf)
    admission = Admission(TARGET, 8, Thread(1.0))
    for slot in await overload(admission):
        slot.leave()
    with pytest.raises(Unavailable):
        await admission.enter()


async def test_now_and_then_a_turn_is_begun_however_busy_the_loop_is() -> None:
    admission = Admission(TARGET, 8, Thread(1.0))
    for _ in range(3):
        for slot in await overload(admission):
            slot.leave()
        (await until_admitted(admission.enter)).leave()


async def test_turns_that_hold_their_slots_for_long_do_not_keep_all_others_out() -> None:
    admission = Admission(TARGET, 2, Thread(1.0))
    held = await overload(admission)
    for _ in range(3):
        held.append(await until_admitted(admission.enter))
    assert len(held) > 2


async def test_resends_do_not_keep_turns_out() -> None:
    admission = Admission(TARGET, 2, Thread(1.0))

    async def resend() -> None:
        while True:
            (await admission.enter(always=True)).leave()
            await asyncio.sleep(TRICKLE / 10)

    resending = asyncio.create_task(resend())
    try:
        for _ in range(3):
            await overload(admission)
            await until_admitted(admission.enter)
    finally:
        resending.cancel()


async def test_slots_that_a_slow_embedder_made_go_again() -> None:
    thread = Thread()
    admission = Admission(TARGET, 2, thread)
    for slot in await overload(admission):
        slot.leave()
    # Whoever finds a slot free does not wait; three who do are more than there usually are.
    async with asyncio.timeout(PATIENCE):
        while True:
            await asyncio.sleep(0.05)
            entering = [asyncio.create_task(admission.enter()) for _ in range(3)]
            await asyncio.sleep(0)
            begun = [task for task in entering if task.done()]
            for task in entering:
                if task.done():
                    task.result().leave()
                else:
                    task.cancel()
            if len(begun) == 2:
                break


async def test_a_resend_is_never_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatrpc.turns.admission.CALM", PATIENCE)
    monkeypatch.setattr("chatrpc.turns.admission.STRETCH", 1)
    admission = Admission(TARGET, 1, Thread())
    [slot] = await overload(admission)
    again = await admission.enter(always=True)
    # It counts all the same: the slot that it holds is nobody else's.
    slot.leave()
    assert admission.refuses()
    again.leave()
    assert not admission.refuses()


async def test_an_overdrawn_loop_takes_slots_away_down_to_two_and_an_idle_one_gives_them_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thread = Thread(1.0)
    admission = Admission(TARGET, 8, thread)
    monkeypatch.setattr("chatrpc.turns.admission.DECREASE", 0.0)
    monkeypatch.setattr("chatrpc.turns.admission.INCREASE", 0.0)
    for slot in await overload(admission):
        slot.leave()
    thread.becomes(0.0)
    slots = [await until_admitted(admission.enter) for _ in range(LEAST)]
    with pytest.raises(Unavailable):
        await admission.enter()
    monkeypatch.setattr("chatrpc.turns.admission.INCREASE", 12.0)
    while len(slots) < 8:
        slots.append(await until_admitted(admission.enter))


async def test_turns_that_wait_for_something_else_than_the_loop_get_more_slots_but_not_without_end() -> None:
    admission = Admission(TARGET, 2, Thread(0.1))
    assert len(await overload(admission)) == 2 * STRETCH


async def test_a_slot_given_to_somebody_who_has_left_is_not_lost() -> None:
    admission = Admission(PATIENCE, 1, Thread())
    [slot] = await entered(admission, 1)
    gone, given, last = (asyncio.create_task(admission.enter()) for _ in range(3))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    slot.leave()
    # The slot is given already when this one is cancelled.
    given.cancel()
    await asyncio.wait([given])
    (await asyncio.wait_for(last, PATIENCE)).leave()


async def test_a_slot_left_twice_is_left_once() -> None:
    admission = Admission(TARGET, 1, Thread(1.0))
    first, second = await entered(admission, 1) + [await admission.enter(always=True)]
    first.leave()
    first.leave()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(admission.enter(), PATIENCE)
    second.leave()


@given(st.lists(st.sampled_from(["enter", "leave", "cancel", "resend"]), max_size=60), st.integers(1, 4))
async def test_no_more_slots_are_held_than_there_are(steps: list[str], slots: int) -> None:
    admission = Admission(PATIENCE, slots, Thread())
    tasks: list[asyncio.Task[Slot]] = []
    held: list[Slot] = []
    extra: list[Slot] = []
    for step in steps:
        match step:
            case "enter":
                tasks.append(asyncio.create_task(admission.enter()))
            case "resend":
                extra.append(await admission.enter(always=True))
            case "leave" if held or extra:
                (held or extra).pop().leave()
            case "cancel" if tasks:
                tasks.pop(0).cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        held += [task.result() for task in tasks if task.done() and not task.cancelled()]
        tasks = [task for task in tasks if not task.done()]
        assert len(held) <= slots
        # Nobody stands in line while a slot is free.
        assert not tasks or len(held) + len(extra) >= slots
    for slot in (*held, *extra):
        slot.leave()
    for task in asyncio.as_completed(tasks, timeout=PATIENCE):
        (await task).leave()


async def test_who_waits_behind_somebody_who_has_left_is_refused_at_a_time_of_his_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatrpc.turns.admission.TRICKLE", math.inf)
    admission = Admission(10 * TARGET, 1, Thread(1.0))
    await entered(admission, 1)
    gone = asyncio.create_task(admission.enter())
    await asyncio.sleep(5 * TARGET)
    gone.cancel()
    came = time.monotonic()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(admission.enter(), PATIENCE)
    assert time.monotonic() - came > 9 * TARGET


@given(st.lists(st.tuples(st.floats(0.002, 1.0), st.floats(0.0, 1.0)), max_size=50))
def test_a_budget_is_overdrawn_by_what_is_used_beyond_the_share_and_what_was_saved_up(
    spans: list[tuple[float, float]],
) -> None:
    used = now = 0.0
    budget = TimeBudget(0.5, 0.1, 0.2, lambda: used)
    assert not budget.overdrawn(now)
    balance = 0.1
    for seconds, share in spans:
        now, used = now + seconds, used + seconds * share
        balance = max(-0.2, min(0.1, balance + (0.5 - share) * seconds))
        if abs(balance) > 1e-9:
            assert budget.overdrawn(now) is (balance < 0)


def test_a_thread_at_work_is_busy_and_one_that_sleeps_is_not() -> None:
    began, before = time.monotonic(), busy_seconds()
    while time.monotonic() - began < 0.05:
        pass
    worked = busy_seconds() - before
    assert worked > 0
    time.sleep(0.05)
    assert busy_seconds() - before - worked < worked


async def test_turns_hold_their_slots_only_while_the_server_works_for_them(
    database: Database, provider: Provider, user_id: UUID, conversation_id: UUID
) -> None:
    admission = Admission(PATIENCE, 1, Thread())
    async with (
        running(database, provider, user_id, conversation_id, admission=admission) as process,
        asyncio.timeout(PATIENCE),
    ):
        provider.script(Answer(fault=Fault.STALL))
        # The first waits for the model, those behind it for the first, and a resend is no turn at all.
        for key in ("first", "second", "third", "third"):
            await process.send("Hi", key)
        process.conversation_id = uuid4()
        with pytest.raises(NotFound):
            await process.send("Hi")
        (await admission.enter()).leave()


async def test_an_overloaded_process_refuses_turns_before_it_does_anything_and_takes_resends(
    database: Database, provider: Provider, user_id: UUID, conversation_id: UUID
) -> None:
    admission = Admission(TARGET, 1, Thread(1.0))
    async with running(database, provider, user_id, conversation_id, admission=admission) as process:
        provider.script(Answer(fault=Fault.STALL))
        accepted, _ = await process.send("Hi", "key")
        await provider.received()
        await overload(admission)
        with pytest.raises(Unavailable) as caught:
            await process.send("Hi", "another")
        assert caught.value.reason is Reason.SERVER_OVERLOADED
        listed, _ = await Conversations(database).messages(user_id, conversation_id, Page(10))
        assert len(listed) == 2
        again, _ = await process.send("Hi", "key")
        assert (again.duplicate, again.reply.id) == (True, accepted.reply.id)
        assert await process.turns.cancel(process.caller, accepted.reply.id)
        assert isinstance((await process.followed(accepted.reply.id))[-1].event, Completed)
