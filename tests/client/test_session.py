"""Turns survive what happens to the streams below them."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from chatapi.v1 import chat_service_pb2 as pb
from chatapi.v1.message_pb2 import MESSAGE_STATE_CANCELLED, MESSAGE_STATE_FAILED, Message, ToolResult
from grpc import StatusCode

from chatrpc.client import CallError, RetryPolicy, Turn, text_message
from tests.client.scripted import (
    CONVERSATION,
    PATIENCE,
    REPLY,
    Line,
    call_of_a_tool,
    completed,
    delta,
    report,
    restarted,
    staged,
    status,
)

OTHER = "0190a0e2-0000-7000-8000-000000000002"


def hello(text: str = "hello") -> pb.OutgoingMessage:
    return text_message(CONVERSATION, text)


async def rest(turn: Turn) -> list[tuple[int, int]]:
    return [(event.attempt, event.sequence) async for event in turn]


async def whole(line: Line) -> None:
    await line.accept(await line.hear("send"))
    await line.tell(report(model="scripted"), delta(2, "Hel"), delta(3, "lo."), completed(4, "Hello."))
    await line.closed()


async def test_a_turn_tells_all_its_events_and_keeps_what_they_said() -> None:
    async with staged(whole) as stage, stage.client.chat() as session:
        message = hello()
        turn = await session.send(message)
        assert turn.accepted is not None
        assert turn.accepted.message.client_message_id == message.client_message_id
        assert await rest(turn) == [(1, 1), (1, 2), (1, 3), (1, 4)]
        assert turn.text == "Hello."
        assert turn.report is not None
        assert turn.report.model == "scripted"
        assert (await turn.reply()).parts[0].text.text == "Hello."
    assert stage.retries == []


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.INTERNAL, StatusCode.UNKNOWN])
async def test_a_cut_stream_is_resumed_after_the_last_event_seen(code: StatusCode) -> None:
    async def first(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.tell(report(), delta(2, "Hel"))
        await line.end(code)

    async def second(line: Line) -> None:
        resume = (await line.hear("resume")).resume
        assert (resume.reply_id, resume.attempt, resume.after_sequence) == (REPLY, 1, 2)
        # Told again by mistake, or to another reader: it is not shown twice.
        await line.tell(delta(2, "Hel"), delta(3, "lo."), completed(4))
        await line.closed()

    async with staged(first, second) as stage, stage.client.chat() as session:
        turn = await session.send(hello())
        assert await rest(turn) == [(1, 1), (1, 2), (1, 3), (1, 4)]
        assert turn.text == "Hello."


async def test_a_stream_that_the_server_ends_without_an_error_is_resumed_too() -> None:
    async def first(line: Line) -> None:
        await line.accept(await line.hear("send"))

    async def second(line: Line) -> None:
        resume = (await line.hear("resume")).resume
        assert (resume.attempt, resume.after_sequence) == (0, 0)
        await line.tell(completed(1))
        await line.closed()

    async with staged(first, second) as stage, stage.client.chat() as session:
        turn = await session.send(hello())
        assert await rest(turn) == [(1, 1)]


async def test_a_message_that_was_not_accepted_is_sent_again_with_the_same_key() -> None:
    keys = []

    async def cut(line: Line) -> None:
        keys.append((await line.hear("send")).send)
        await line.end()

    async def accepting(line: Line) -> None:
        request = await line.hear("send")
        keys.append(request.send)
        await line.accept(request, duplicate=True)
        await line.tell(completed(1))
        await line.closed()

    async with staged(cut, cut, accepting) as stage, stage.client.chat() as session:
        turn = await session.send(hello())
        await turn.reply()
    assert turn.accepted is not None
    assert turn.accepted.duplicate
    assert len(keys) == 3
    assert keys[0] == keys[1] == keys[2]


async def test_a_restart_discards_what_was_shown() -> None:
    async def first(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.tell(report(model="one"), delta(2, "It is Mon"))
        await line.end()

    async def second(line: Line) -> None:
        await line.hear("resume")
        await line.tell(restarted(), report(2, 2, model="two"), delta(3, "Tuesday.", 2), completed(4, attempt=2))
        await line.closed()

    async with staged(first, second) as stage, stage.client.chat() as session:
        turn = await session.send(hello())
        kinds = [event.WhichOneof("event") async for event in turn]
        assert kinds == ["context_report", "delta", "restarted", "context_report", "delta", "completed"]
        assert turn.text == "Tuesday."
        assert turn.report is not None
        assert turn.report.model == "two"


async def test_a_resume_after_a_restart_names_the_new_attempt() -> None:
    async def first(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.tell(report(), restarted(), delta(2, "new", 2))
        await line.end()

    async def second(line: Line) -> None:
        resume = (await line.hear("resume")).resume
        assert (resume.attempt, resume.after_sequence) == (2, 2)
        await line.tell(completed(3, attempt=2))
        await line.closed()

    async with staged(first, second) as stage, stage.client.chat() as session:
        turn = await session.send(hello())
        assert await rest(turn) == [(1, 1), (2, 1), (2, 2), (2, 3)]


async def test_events_of_unknown_kinds_are_passed_on_and_counted() -> None:
    async def first(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.tell(report(), pb.ReplyEvent(reply_id=REPLY, attempt=1, sequence=2))
        await line.say()
        await line.end()

    async def second(line: Line) -> None:
        assert (await line.hear("resume")).resume.after_sequence == 2
        await line.tell(completed(3))
        await line.closed()

    async with staged(first, second) as stage, stage.client.chat() as session:
        turn = await session.send(hello())
        assert await rest(turn) == [(1, 1), (1, 2), (1, 3)]


async def test_a_send_refused_for_a_while_is_repeated_no_sooner_than_the_server_asks() -> None:
    async def script(line: Line) -> None:
        refused = await line.hear("send")
        unavailable = status(StatusCode.UNAVAILABLE, "Away.", "DATABASE_UNAVAILABLE", retry_after=0.06)
        await line.reject(refused, unavailable)
        request = await line.hear("send")
        assert request.send == refused.send
        assert request.request_id != refused.request_id
        await line.accept(request)
        await line.tell(completed(1))
        await line.closed()

    async with staged(script) as stage, stage.client.chat() as session:
        await (await session.send(hello())).reply()
        assert [error.reason for error, _ in stage.retries] == ["DATABASE_UNAVAILABLE"]
        assert stage.delays[0] >= 0.06


async def test_a_reply_that_another_process_holds_is_asked_for_again() -> None:
    async def script(line: Line) -> None:
        held = await line.hear("resume")
        await line.reject(held, status(StatusCode.UNAVAILABLE, "Held.", "REPLY_HELD_ELSEWHERE", retry_after=0.01))
        await line.hear("resume")
        await line.tell(delta(3, "more"), completed(4))
        await line.closed()

    async with staged(script) as stage, stage.client.chat() as session:
        turn = session.resume(REPLY, 1, 2)
        assert await rest(turn) == [(1, 3), (1, 4)]


async def test_a_send_refused_for_good_tells_reason_field_and_remedy() -> None:
    async def script(line: Line) -> None:
        refusal = status(StatusCode.INVALID_ARGUMENT, "parts: say at least one.", "INVALID_FIELD", field="send.parts")
        await line.reject(await line.hear("send"), refusal)
        # The stream lives on.
        await line.accept(await line.hear("send"))
        await line.tell(completed(1))
        await line.closed()

    async with staged(script) as stage, stage.client.chat() as session:
        with pytest.raises(CallError) as caught:
            await session.send(hello())
        assert caught.value.code is StatusCode.INVALID_ARGUMENT
        assert caught.value.reason == "INVALID_FIELD"
        assert caught.value.field == "send.parts"
        assert caught.value.message == "parts: say at least one."
        await (await session.send(hello())).reply()
        assert stage.chat.opened == 1


async def test_a_failed_reply_raises_and_keeps_what_is_stored() -> None:
    async def script(line: Line) -> None:
        await line.accept(await line.hear("send"))
        failed = pb.ReplyFailed(
            status=status(StatusCode.UNAVAILABLE, "The language model is away.", "MODEL_UNAVAILABLE", retry_after=1),
            message=Message(id=REPLY, state=MESSAGE_STATE_FAILED),
        )
        await line.tell(pb.ReplyEvent(reply_id=REPLY, attempt=1, sequence=1, failed=failed))
        await line.closed()

    async with staged(script) as stage, stage.client.chat() as session:
        turn = await session.send(hello())
        with pytest.raises(CallError, match="MODEL_UNAVAILABLE: The language model is away"):
            await turn.reply()
        assert turn.message is not None
        assert turn.message.state == MESSAGE_STATE_FAILED
        assert stage.retries == []


async def test_while_a_server_drains_running_turns_stay_and_new_ones_go_elsewhere() -> None:
    other_told = asyncio.Event()

    async def draining(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.go_away()
        await line.tell(delta(1, "first half, "))
        await other_told.wait()
        await line.tell(delta(2, "second half"), completed(3))
        await line.closed()

    async def fresh(line: Line) -> None:
        await line.accept(await line.hear("send"), OTHER)
        await line.tell(completed(1, reply_id=OTHER))
        await line.closed()

    async with staged(draining, fresh) as stage, stage.client.chat() as session:
        running = await session.send(hello("one"))
        await anext(running)
        other = await session.send(hello("two"))
        await other.reply()
        other_told.set()
        await running.reply()
        assert running.text == "first half, second half"
        assert stage.retries == []


async def test_what_a_draining_server_leaves_is_resumed_elsewhere() -> None:
    async def draining(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.tell(delta(1, "one "))
        await line.go_away()
        await line.end_with(status(StatusCode.UNAVAILABLE, "Stopped.", "SERVER_DRAINING", retry_after=0.01))

    async def fresh(line: Line) -> None:
        assert (await line.hear("resume")).resume.after_sequence == 1
        await line.tell(delta(2, "two"), completed(3))
        await line.closed()

    async with staged(draining, fresh) as stage, stage.client.chat() as session:
        turn = await session.send(hello())
        await turn.reply()
        assert turn.text == "one two"


async def test_an_idle_stream_that_is_to_end_is_left_at_once() -> None:
    left = asyncio.Event()

    async def draining(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.tell(completed(1))
        await line.go_away()
        try:
            await line.closed()
        finally:
            left.set()

    async with staged(draining) as stage, stage.client.chat() as session:
        await (await session.send(hello())).reply()
        await left.wait()


async def test_a_fixed_token_is_used_to_its_end_and_then_its_expiry_is_told() -> None:
    async def script(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.go_away(pb.GoingAway.REASON_TOKEN_EXPIRING)
        await line.tell(delta(1, "the notice was heard"))
        await line.accept(await line.hear("send"), OTHER)
        await line.end_with(status(StatusCode.UNAUTHENTICATED, "Expired.", "TOKEN_EXPIRED"))

    async with staged(script) as stage, stage.client.chat() as session:
        first = await session.send(hello("one"))
        await anext(first)
        second = await session.send(hello("two"))
        for turn in (first, second):
            with pytest.raises(CallError, match="TOKEN_EXPIRED"):
                await turn.reply()
        assert stage.retries == []


async def test_a_renewed_token_carries_a_turn_over_the_old_ones_expiry() -> None:
    tokens = ["old", "new"]
    seen = []

    async def token() -> str:
        return tokens[0]

    async def old(line: Line) -> None:
        seen.append(line.metadata["authorization"])
        await line.accept(await line.hear("send"))
        await line.go_away(pb.GoingAway.REASON_TOKEN_EXPIRING)
        await line.end_with(status(StatusCode.UNAUTHENTICATED, "Expired.", "TOKEN_EXPIRED"))

    async def new(line: Line) -> None:
        seen.append(line.metadata["authorization"])
        await line.hear("resume")
        await line.tell(completed(1))
        await line.closed()

    async with staged(old, new, token=token) as stage, stage.client.chat() as session:
        turn = await session.send(hello())
        tokens.pop(0)
        await turn.reply()
    assert seen == ["Bearer old", "Bearer new"]


async def test_a_token_source_without_a_new_token_is_not_asked_in_circles() -> None:
    async def token() -> str:
        return "refused"

    async def script(line: Line) -> None:
        await line.hear("send")
        await line.end_with(status(StatusCode.UNAUTHENTICATED, "Invalid.", "TOKEN_INVALID"))

    async with staged(script, token=token) as stage, stage.client.chat() as session:
        with pytest.raises(CallError, match="TOKEN_INVALID"):
            await session.send(hello())


async def test_a_reply_is_stopped_over_the_stream_that_tells_it() -> None:
    async def script(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.go_away()
        await line.tell(delta(1, "a"))
        request = await line.hear("cancel")
        assert request.cancel.reply_id == REPLY
        await line.say(cancelled=pb.CancelReplyResponse(reply_id=REPLY, stopped=True))
        await line.tell(completed(2, "a", state=MESSAGE_STATE_CANCELLED))
        await line.closed()

    async with staged(script) as stage, stage.client.chat() as session:
        turn = await session.send(hello())
        await anext(turn)
        assert await turn.cancel() is True
        assert (await turn.reply()).state == MESSAGE_STATE_CANCELLED


async def test_a_stop_that_a_cut_swallowed_is_said_again() -> None:
    async def first(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.hear("cancel")
        await line.end()

    async def second(line: Line) -> None:
        kinds = {(await line.hear_any()).WhichOneof("event") for _ in range(2)}
        assert kinds == {"resume", "cancel"}
        await line.say(cancelled=pb.CancelReplyResponse(reply_id=REPLY, stopped=False))
        await line.tell(completed(1))
        await line.closed()

    async with staged(first, second) as stage, stage.client.chat() as session:
        turn = await session.send(hello())
        stopped, _ = await asyncio.gather(turn.cancel(), turn.reply())
        assert stopped is False


async def test_results_that_a_cut_swallowed_are_submitted_again() -> None:
    async def first(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.tell(call_of_a_tool(1, "call-1"))
        await line.hear("tool_results")
        await line.end()

    async def second(line: Line) -> None:
        heard = [await line.hear_any() for _ in range(2)]
        [submitted] = [each.tool_results for each in heard if each.HasField("tool_results")]
        assert (submitted.reply_id, [each.call_id for each in submitted.results]) == (REPLY, ["call-1"])
        await line.say(submitted=pb.SubmitToolResultsResponse(reply_id=REPLY))
        await line.tell(completed(2))
        await line.closed()

    async with staged(first, second) as stage, stage.client.chat() as session:
        turn = await session.send(hello())
        call = (await anext(turn)).tool_call
        await asyncio.gather(turn.submit(ToolResult(call_id=call.id, content="Rain.")), turn.reply())


async def test_results_submitted_at_once_each_hear_their_own_answer() -> None:
    async def script(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.hear("tool_results")
        await line.say(submitted=pb.SubmitToolResultsResponse(reply_id=REPLY))
        late = await line.hear("tool_results")
        await line.reject(late, status(StatusCode.FAILED_PRECONDITION, "Nothing waits.", "TOOL_CALL_NOT_PENDING"))
        await line.closed()

    async with staged(script) as stage, stage.client.chat() as session:
        turn = await session.send(hello())
        taken, refused = await asyncio.gather(
            turn.submit(ToolResult(call_id="call-1")), turn.submit(ToolResult(call_id="call-2")), return_exceptions=True
        )
        assert taken is None
        assert isinstance(refused, CallError)
        assert refused.reason == "TOOL_CALL_NOT_PENDING"


async def test_stopping_an_unknown_reply_is_refused() -> None:
    async def script(line: Line) -> None:
        request = await line.hear("cancel")
        await line.reject(request, status(StatusCode.NOT_FOUND, "No such reply.", "REPLY_NOT_FOUND"))
        await line.closed()

    async with staged(script) as stage, stage.client.chat() as session:
        with pytest.raises(CallError, match="REPLY_NOT_FOUND"):
            await session.resume(REPLY).cancel()


async def test_turns_share_a_stream_and_none_holds_up_another() -> None:
    async def script(line: Line) -> None:
        slow, quick = await line.hear("send"), await line.hear("send")
        # The answers come in another order than the requests.
        await line.accept(quick, OTHER)
        await line.accept(slow)
        await line.tell(*(delta(number, "x") for number in range(1, 1001)))
        await line.tell(delta(1, "quick", reply_id=OTHER), completed(2, reply_id=OTHER), completed(1001))
        await line.closed()

    async with staged(script) as stage, stage.client.chat() as session:
        slow, quick = await asyncio.gather(session.send(hello("one")), session.send(hello("two")))
        if slow.reply_id != REPLY:
            slow, quick = quick, slow
        await quick.reply()
        assert quick.text == "quick"
        await slow.reply()
        assert slow.text == "x" * 1000
        assert stage.chat.opened == 1


async def test_two_readers_of_one_reply_see_each_event_once() -> None:
    async def script(line: Line) -> None:
        await line.hear("resume")
        await line.hear("resume")
        events = [delta(1, "a"), delta(2, "b"), completed(3)]
        # The server tells the reply twice, once for each request.
        await line.tell(events[0], events[1], events[0], events[2], events[1], events[2])
        await line.closed()

    async with staged(script) as stage, stage.client.chat() as session:
        turns = session.resume(REPLY), session.resume(REPLY)
        await asyncio.gather(*(turn.reply() for turn in turns))
        assert [turn.text for turn in turns] == ["ab", "ab"]


async def test_a_reader_that_leaves_a_turn_leaves_the_stream_to_the_others() -> None:
    left = asyncio.Event()

    async def script(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.tell(delta(1, "a"))
        await left.wait()
        await line.tell(delta(2, "unheard"))
        await line.accept(await line.hear("send"), OTHER)
        await line.tell(completed(1, reply_id=OTHER))
        await line.closed()

    async with staged(script) as stage, stage.client.chat() as session:
        turn = await session.send(hello("one"))
        await anext(turn)
        await turn.aclose()
        left.set()
        await (await session.send(hello("two"))).reply()


async def test_a_send_that_its_caller_gives_up_does_not_disturb_other_turns() -> None:
    heard = asyncio.Event()
    given_up = asyncio.Event()

    async def script(line: Line) -> None:
        await line.accept(await line.hear("send"))
        late = await line.hear("send")
        heard.set()
        await given_up.wait()
        await line.accept(late, OTHER)
        await line.tell(delta(1, "unheard", reply_id=OTHER), delta(1, "told"), completed(2))
        await line.closed()

    async with staged(script) as stage, stage.client.chat() as session:
        turn = await session.send(hello("one"))
        sending = asyncio.create_task(session.send(hello("two")))
        await heard.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        given_up.set()
        await turn.reply()
        assert turn.text == "told"
        assert stage.chat.opened == 1


async def test_a_request_too_large_to_be_read_does_not_end_running_turns() -> None:
    async def first(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.tell(delta(1, "a"))
        await line.hear("send")
        await line.end(StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max")

    async def second(line: Line) -> None:
        await line.hear("resume")
        await line.tell(completed(2))
        await line.closed()

    async with staged(first, second) as stage, stage.client.chat() as session:
        turn = await session.send(hello())
        with pytest.raises(CallError) as caught:
            await session.send(hello("too large"))
        assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
        await turn.reply()


async def test_a_client_gives_up_after_as_many_tries_as_its_policy_says() -> None:
    async def cut(line: Line) -> None:
        await line.hear("send")
        await line.end()

    policy = RetryPolicy(tries=4, first_delay=0.002, longest_delay=0.01)
    async with staged(cut, cut, cut, cut, retry=policy) as stage, stage.client.chat() as session:
        with pytest.raises(CallError) as caught:
            await session.send(hello())
        assert caught.value.temporary
        assert stage.chat.opened == 4
        assert len(stage.retries) == 3


async def test_each_step_forward_gives_a_turn_all_its_tries_again() -> None:
    def step(kind: str, *events: pb.ReplyEvent):
        async def script(line: Line) -> None:
            request = await line.hear(kind)
            if kind == "send":
                await line.accept(request)
            await line.tell(*events)
            await line.end()

        return script

    scripts = [
        step("send"),
        *(step("resume", delta(number, "x")) for number in range(1, 6)),
        step("resume", completed(6)),
    ]
    policy = RetryPolicy(tries=2, first_delay=0.002, longest_delay=0.01)
    async with staged(*scripts, retry=policy) as stage, stage.client.chat() as session:
        turn = await session.send(hello())
        await turn.reply()
        assert turn.text == "xxxxx"


async def test_the_end_of_a_session_ends_its_call() -> None:
    ended = asyncio.Event()

    async def script(line: Line) -> None:
        await line.accept(await line.hear("send"))
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            ended.set()

    async with staged(script) as stage:
        async with stage.client.chat() as session:
            turn = await session.send(hello())
        await ended.wait()
        with pytest.raises(RuntimeError, match="closed"):
            await turn.reply()


async def test_a_service_names_the_user_it_acts_for_on_every_stream() -> None:
    async def script(line: Line) -> None:
        assert line.metadata["x-chatrpc-on-behalf-of"] == "alice"
        assert line.metadata["authorization"] == "Bearer service"
        await line.accept(await line.hear("send"))
        await line.tell(completed(1))
        await line.closed()

    async with staged(script, token="service", on_behalf_of="alice") as stage, stage.client.chat() as session:
        await (await session.send(hello())).reply()


def test_a_message_gets_a_key_of_its_own_unless_it_is_given_one() -> None:
    key = str(uuid4())
    assert text_message(CONVERSATION, "a", key).client_message_id == key
    assert hello().client_message_id != hello().client_message_id


async def test_a_stream_that_was_idle_for_too_long_is_followed_by_another() -> None:
    ended = asyncio.Event()

    async def idle(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.tell(completed(1))
        await line.go_away(pb.GoingAway.REASON_IDLE)
        ended.set()

    async def fresh(line: Line) -> None:
        await line.accept(await line.hear("send"), OTHER)
        await line.tell(completed(1, reply_id=OTHER))
        await line.closed()

    async with staged(idle, fresh) as stage, stage.client.chat() as session:
        await (await session.send(hello("one"))).reply()
        await ended.wait()
        assert (await session.send(hello("two"))).reply_id == OTHER
        assert stage.chat.opened == 2
