"""Bad input at both doors: a typed error that names the field or the thing, and nothing is lost."""

from __future__ import annotations

from uuid import uuid4

import grpc
import psycopg
import pytest
from chatapi.v1 import chat_service_pb2 as chat_pb
from chatapi.v1 import conversation_service_pb2 as conversation_pb
from chatapi.v1.message_pb2 import OutgoingMessage, Part, TextPart, TurnSettings
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, ResourceInfo
from grpc_status import rpc_status

from chatrpc.dev.issuer import ISSUER
from chatrpc.rpc.identity import user_id_of
from tests.e2e.stack import Client, Dev, client


def outgoing(conversation_id: str, text: str = "Hello.", key: str = "key", **fields: object) -> OutgoingMessage:
    parts = [Part(text=TextPart(text=text))]
    return OutgoingMessage(conversation_id=conversation_id, client_message_id=key, parts=parts, **fields)


async def send(person: Client, message: OutgoingMessage) -> list[chat_pb.SendMessageResponse]:
    call = person.chat.SendMessage(chat_pb.SendMessageRequest(message=message), metadata=person.metadata)
    try:
        return [response async for response in call]
    finally:
        call.cancel()


class Refused:
    """A call's error, taken apart."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code()
        self.bad_request, self.info, self.resource = BadRequest(), ErrorInfo(), ResourceInfo()
        status = rpc_status.from_call(error)
        for detail in status.details if status is not None else ():
            for message in (self.bad_request, self.info, self.resource):
                if detail.Is(message.DESCRIPTOR):
                    detail.Unpack(message)

    @property
    def fields(self) -> list[str]:
        return [violation.field for violation in self.bad_request.field_violations]


async def refused(call: object) -> Refused:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return Refused(caught.value)


async def test_empty_text(person: Client) -> None:
    error = await refused(send(person, outgoing(await person.conversation(), "")))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.fields == ["message.parts[0].text.text"]


async def test_text_of_a_megabyte(person: Client) -> None:
    error = await refused(send(person, outgoing(await person.conversation(), "x" * 1_000_000)))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.fields == ["message.parts[0].text.text"]
    error = await refused(send(person, outgoing(await person.conversation(), "x" * 1_500_000)))
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.info.reason == "MESSAGE_TOO_LARGE"


async def test_invalid_utf_8(person: Client, door: str) -> None:
    request = chat_pb.SendMessageRequest(message=outgoing(await person.conversation(), "XXXX")).SerializeToString()
    async with grpc.aio.insecure_channel(door) as channel:
        call = channel.unary_stream("/chatapi.v1.ChatService/SendMessage")(
            request.replace(b"XXXX", b"\xff\xfe\xfd\xfc"), metadata=person.metadata
        )
        error = await refused(call.read())
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.info.reason == "INVALID_FIELD"


async def test_an_unknown_conversation(person: Client) -> None:
    unknown = str(uuid4())
    error = await refused(send(person, outgoing(unknown)))
    assert error.code is grpc.StatusCode.NOT_FOUND
    assert (error.info.reason, error.info.metadata["id"]) == ("CONVERSATION_NOT_FOUND", unknown)
    assert error.resource.resource_name == unknown


async def test_a_conversation_of_somebody_else_does_not_exist(person: Client, dev: Dev, door: str) -> None:
    conversation_id = await person.conversation()
    told = await send(person, outgoing(conversation_id))
    reply_id = told[0].accepted.reply_id
    async with grpc.aio.insecure_channel(door) as channel:
        mallory = client(channel, dev.token_of(f"mallory-{uuid4().hex}"))
        services = mallory.conversations
        calls = [
            send(mallory, outgoing(conversation_id, key="other")),
            mallory.chat.ResumeReply(chat_pb.ResumeReplyRequest(reply_id=reply_id), metadata=mallory.metadata).read(),
            mallory.chat.CancelReply(chat_pb.CancelReplyRequest(reply_id=reply_id), metadata=mallory.metadata),
            services.GetContextReport(
                conversation_pb.GetContextReportRequest(reply_id=reply_id), metadata=mallory.metadata
            ),
            *(
                method(request(conversation_id=conversation_id), metadata=mallory.metadata)
                for method, request in (
                    (services.GetConversation, conversation_pb.GetConversationRequest),
                    (services.DeleteConversation, conversation_pb.DeleteConversationRequest),
                    (services.ListMessages, conversation_pb.ListMessagesRequest),
                )
            ),
            services.PreviewContext(
                conversation_pb.PreviewContextRequest(
                    conversation_id=conversation_id, parts=[Part(text=TextPart(text="Hi."))]
                ),
                metadata=mallory.metadata,
            ),
        ]
        for call in calls:
            assert (await refused(call)).code is grpc.StatusCode.NOT_FOUND
    assert len((await listed(person, conversation_id)).messages) == 2


async def listed(person: Client, conversation_id: str) -> conversation_pb.ListMessagesResponse:
    return await person.conversations.ListMessages(
        conversation_pb.ListMessagesRequest(conversation_id=conversation_id), metadata=person.metadata
    )


async def test_a_key_used_for_other_text(person: Client) -> None:
    conversation_id = await person.conversation()
    first = await send(person, outgoing(conversation_id, "one"))
    error = await refused(send(person, outgoing(conversation_id, "two")))
    assert error.code is grpc.StatusCode.ALREADY_EXISTS
    assert (error.info.reason, error.info.metadata["id"]) == ("CLIENT_MESSAGE_ID_REUSED", "key")
    again = await send(person, outgoing(conversation_id, "one"))
    assert again[0].accepted.duplicate
    assert again[1:] == first[1:]
    assert len((await listed(person, conversation_id)).messages) == 2


async def test_resuming_what_is_not_there(person: Client) -> None:
    told = await send(person, outgoing(await person.conversation()))
    reply = told[-1].reply

    def resume(**fields: object) -> object:
        return person.chat.ResumeReply(chat_pb.ResumeReplyRequest(**fields), metadata=person.metadata).read()

    assert (await refused(resume(reply_id=str(uuid4())))).info.reason == "REPLY_NOT_FOUND"
    beyond = await refused(resume(reply_id=reply.reply_id, attempt=1, after_sequence=reply.sequence + 1))
    assert beyond.code is grpc.StatusCode.OUT_OF_RANGE
    assert beyond.info.reason == "SEQUENCE_OUT_OF_RANGE"
    assert (await refused(resume(reply_id="no-uuid"))).fields == ["reply_id"]


async def test_unknown_enum_values(person: Client) -> None:
    message = outgoing(await person.conversation(), settings=TurnSettings(memory_scope=77))
    error = await refused(send(person, message))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.fields == ["message.settings.memory_scope"]


async def test_a_foreign_page_token(person: Client) -> None:
    for token in ("nonsense", "AAAA"):
        request = conversation_pb.ListConversationsRequest(page_token=token)
        error = await refused(person.conversations.ListConversations(request, metadata=person.metadata))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.fields == ["page_token"]


async def test_a_bad_request_on_a_chat_stream_ends_only_itself(person: Client) -> None:
    conversation_id = await person.conversation()
    call = person.chat.Chat(metadata=person.metadata)
    await call.write(chat_pb.ChatRequest(request_id="bad", send=outgoing(conversation_id, "")))
    await call.write(chat_pb.ChatRequest(request_id="unknown", send=outgoing(str(uuid4()))))
    await call.write(chat_pb.ChatRequest(request_id="good", send=outgoing(conversation_id)))
    await call.done_writing()
    responses = [response async for response in call]
    rejected = {r.rejected.request_id: r.rejected.status.code for r in responses if r.HasField("rejected")}
    assert rejected == {
        "bad": grpc.StatusCode.INVALID_ARGUMENT.value[0],
        "unknown": grpc.StatusCode.NOT_FOUND.value[0],
    }
    assert [r.accepted.request_id for r in responses if r.HasField("accepted")] == ["good"]
    assert responses[-1].reply.WhichOneof("event") == "completed"


@pytest.mark.parametrize("token", ["", "nonsense"])
async def test_no_valid_token(door: str, token: str) -> None:
    async with grpc.aio.insecure_channel(door) as channel:
        nobody = client(channel, token)
        error = await refused(nobody.conversation())
        assert error.code is grpc.StatusCode.UNAUTHENTICATED


async def test_an_expired_token(door: str, dev: Dev) -> None:
    async with grpc.aio.insecure_channel(door) as channel:
        error = await refused(client(channel, dev.token_of("alice", ttl=-100)).conversation())
        assert error.code is grpc.StatusCode.UNAUTHENTICATED


async def test_acting_for_a_user_needs_the_scope(door: str, dev: Dev) -> None:
    bob = f"bob-{uuid4().hex}"
    async with grpc.aio.insecure_channel(door) as channel:
        without = client(channel, dev.token_of("service"), x_chatrpc_on_behalf_of=bob)
        error = await refused(without.conversation())
        assert error.code is grpc.StatusCode.PERMISSION_DENIED
        assert error.info.reason == "SCOPE_MISSING"
        service = client(channel, dev.token_of("service", scopes=("chat.act_as",)), x_chatrpc_on_behalf_of=bob)
        conversation_id = await service.conversation()
        await send(service, outgoing(conversation_id))
        himself = client(channel, dev.token_of(bob))
        assert [m.actor for m in (await listed(himself, conversation_id)).messages] == ["service", ""]


async def test_spoofed_identity_headers_have_no_effect(door: str, dev: Dev, person: Client) -> None:
    conversation_id = await person.conversation()
    async with grpc.aio.insecure_channel(door) as channel:
        spoofs = {"x_user_id": "x", "x_user_sub": "x", "x_token_sub": "x", "x_token_exp": "9999999999"}
        mallory = client(channel, dev.token_of("mallory"), **spoofs)
        error = await refused(listed(mallory, conversation_id))
        assert error.code is grpc.StatusCode.NOT_FOUND


async def test_ten_thousand_conversations_are_listed_by_page(dev: Dev) -> None:
    subject = f"hoarder-{uuid4().hex}"
    async with await psycopg.AsyncConnection.connect(dev.database_url) as connection:
        made = await connection.execute(
            "INSERT INTO conversations (user_id, id, title, settings, labels) "
            "SELECT %s, gen_random_uuid(), 'Title ' || n, '{}', '{}' FROM generate_series(1, 10000) n RETURNING id",
            (user_id_of(ISSUER, subject),),
        )
        expected = {str(conversation_id) for (conversation_id,) in await made.fetchall()}
    async with grpc.aio.insecure_channel(dev.edge) as channel:
        hoarder = client(channel, dev.token_of(subject))
        seen: list[str] = []
        page_token = ""
        while True:
            page = await hoarder.conversations.ListConversations(
                conversation_pb.ListConversationsRequest(page_size=1000, page_token=page_token),
                metadata=hoarder.metadata,
            )
            seen += [conversation.id for conversation in page.conversations]
            page_token = page.next_page_token
            if not page_token:
                break
    assert len(seen) == 10_000
    assert set(seen) == expected
