"""AccountService and quotas over the wire and a real database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import grpc
import pytest
from chatapi.v1 import account_service_pb2 as pb
from chatapi.v1 import chat_service_pb2 as chat_pb
from chatapi.v1 import conversation_service_pb2 as conversation_pb
from google.protobuf.timestamp_pb2 import Timestamp

from tests.rpc.stage import Metadata, Stage, failure, new_id, outgoing, rest, signed_in, told


async def usage(stage: Stage, metadata: Metadata, **fields: Timestamp) -> pb.GetUsageResponse:
    return await stage.account.GetUsage(pb.GetUsageRequest(**fields), metadata=metadata)


async def replied(stage: Stage, conversation: str, metadata: Metadata) -> None:
    call = stage.chat.SendMessage(chat_pb.SendMessageRequest(message=outgoing(conversation)), metadata=metadata)
    speaker = await stage.model.asked()
    speaker.finish()
    await rest(call)


def stamp(moment: datetime) -> Timestamp:
    stamped = Timestamp()
    stamped.FromDatetime(moment)
    return stamped


async def test_usage_is_told_by_day_with_the_quota_of_the_token(stage: Stage) -> None:
    me = signed_in(sub=new_id(), chatrpc_quota={"tokens": 10**8, "turns": 2, "window": "month"})
    conversation = await stage.conversation(me)
    await replied(stage, conversation, me)
    call = stage.chat.SendMessage(chat_pb.SendMessageRequest(message=outgoing(conversation)), metadata=me)
    speaker = await stage.model.asked()
    answer = await usage(stage, me)
    quota = answer.quota
    assert (quota.window, quota.token_limit, quota.turn_limit) == (pb.QUOTA_WINDOW_MONTH, 10**8, 2)
    assert (quota.used_tokens, quota.used_turns, quota.running_turns) == (15, 1, 1)
    assert quota.reserved_tokens > 900_000
    assert quota.start_time.ToDatetime().day == quota.reset_time.ToDatetime().day == 1
    [day] = answer.days
    assert (day.kind, day.model, day.count) == (pb.USAGE_KIND_TURN, "staged", 1)
    assert (day.prompt_tokens, day.completion_tokens, day.estimated_tokens) == (10, 5, 0)
    speaker.finish()
    await rest(call)
    assert (await usage(stage, me)).quota.reserved_tokens == 0


async def test_a_message_over_the_quota_is_refused_with_the_limit_and_the_time_to_come_again(stage: Stage) -> None:
    me = new_id()
    conversation = await stage.conversation(signed_in(sub=me))
    message = outgoing(conversation)
    await replied(stage, conversation, signed_in(sub=me))
    limited = signed_in(sub=me, chatrpc_quota='{"turns": 1}')
    call = stage.chat.SendMessage(chat_pb.SendMessageRequest(message=message), metadata=limited)
    problem = told(await failure(call))
    assert (problem.code, problem.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert (problem.quota, problem.metadata["metric"], problem.metadata["limit"]) == ("user", "turns", "1")
    assert problem.retry_after is not None
    assert 0 < problem.retry_after <= 86_400
    listed = await stage.conversations.ListMessages(
        conversation_pb.ListMessagesRequest(conversation_id=conversation), metadata=limited
    )
    assert len(listed.messages) == 2


async def test_a_service_books_to_the_user_whom_it_acts_for_within_its_tokens_quota(stage: Stage) -> None:
    user = new_id()
    service = signed_in(sub="service", scope="chat.act_as", chatrpc_quota={"turns": 1})
    acting = (*service, ("x-chatrpc-on-behalf-of", user))
    conversation = await stage.conversation(acting)
    await replied(stage, conversation, acting)
    assert (await usage(stage, signed_in(sub=user))).quota.used_turns == 1
    assert (await usage(stage, service)).quota.used_turns == 0
    other = (*service, ("x-chatrpc-on-behalf-of", new_id()))
    await replied(stage, await stage.conversation(other), other)
    call = stage.chat.SendMessage(chat_pb.SendMessageRequest(message=outgoing(conversation)), metadata=acting)
    assert told(await failure(call)).reason == "QUOTA_EXCEEDED"


async def test_usage_outlives_its_conversation(stage: Stage) -> None:
    me = signed_in(sub=new_id())
    conversation = await stage.conversation(me)
    await replied(stage, conversation, me)
    request = conversation_pb.DeleteConversationRequest(conversation_id=conversation)
    await stage.conversations.DeleteConversation(request, metadata=me)
    assert (await usage(stage, me)).days[0].prompt_tokens == 10


async def test_days_before_and_after_are_left_out(stage: Stage) -> None:
    me, now = signed_in(sub=new_id()), datetime.now(UTC)
    await replied(stage, await stage.conversation(me), me)
    early, late = stamp(now - timedelta(days=3)), stamp(now + timedelta(days=3))
    assert len((await usage(stage, me, start_time=early, end_time=late)).days) == 1
    assert len((await usage(stage, me, start_time=early, end_time=stamp(now - timedelta(days=2)))).days) == 0
    assert len((await usage(stage, me, start_time=stamp(now + timedelta(days=2)), end_time=late)).days) == 0


@pytest.mark.parametrize(
    ("start", "end", "field"),
    [
        (datetime(2026, 3, 2, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC), "end_time"),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC), "start_time"),
    ],
)
async def test_a_range_is_bounded(stage: Stage, start: datetime, end: datetime, field: str) -> None:
    call = stage.account.GetUsage(
        pb.GetUsageRequest(start_time=stamp(start), end_time=stamp(end)), metadata=signed_in()
    )
    problem = told(await failure(call))
    assert (problem.code, problem.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


@pytest.mark.parametrize("claim", ["much", {"tokens": -1}, {"turns": "many"}, {"window": "year"}, 7])
async def test_a_token_with_a_malformed_quota_is_refused(stage: Stage, claim: object) -> None:
    call = stage.account.GetUsage(pb.GetUsageRequest(), metadata=signed_in(chatrpc_quota=claim))
    problem = told(await failure(call))
    assert (problem.code, problem.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
    assert "chatrpc_quota" in problem.message
