"""ConversationService over the wire and a real database."""

from __future__ import annotations

import grpc
import pytest
from chatapi.v1 import chat_service_pb2 as chat_pb
from chatapi.v1 import context_report_pb2
from chatapi.v1 import conversation_service_pb2 as pb
from chatapi.v1.conversation_pb2 import Conversation
from chatapi.v1.message_pb2 import MESSAGE_STATE_CANCELLED, Part, Sampling, TextPart, TurnSettings
from google.protobuf.field_mask_pb2 import FieldMask

from tests.rpc.stage import Metadata, Stage, Stream, failure, new_id, outgoing, rest, signed_in, told

SETTINGS = TurnSettings(
    system_instruction="Be brief.", model="large", sampling=Sampling(temperature=0.5, max_output_tokens=100)
)


@pytest.fixture
def somebody() -> Metadata:
    """A user of this test alone, for lists."""
    return signed_in(sub=new_id())


async def created(stage: Stage, metadata: Metadata, **fields) -> Conversation:
    request = pb.CreateConversationRequest(conversation=Conversation(**fields))
    return (await stage.conversations.CreateConversation(request, metadata=metadata)).conversation


async def updated(stage: Stage, metadata: Metadata, conversation: Conversation, *paths: str, **fields) -> Conversation:
    request = pb.UpdateConversationRequest(conversation=conversation, update_mask=FieldMask(paths=paths), **fields)
    return (await stage.conversations.UpdateConversation(request, metadata=metadata)).conversation


async def replied(stage: Stage, conversation: str, text: str, metadata: Metadata) -> chat_pb.MessageAccepted:
    """A turn from its message to the end of its reply."""
    request = chat_pb.SendMessageRequest(message=outgoing(conversation, text))
    call = stage.chat.SendMessage(request, metadata=metadata)
    accepted = (await call.read()).accepted
    speaker = await stage.model.asked()
    speaker.say(f"re: {text}")
    speaker.finish()
    await rest(call)
    return accepted


async def test_a_conversation_is_created_and_read(stage: Stage, somebody: Metadata) -> None:
    conversation = await created(stage, somebody, id=new_id(), title="Trip", settings=SETTINGS, labels={"team": "a"})
    assert (conversation.title, conversation.settings, dict(conversation.labels)) == ("Trip", SETTINGS, {"team": "a"})
    read = await stage.conversations.GetConversation(
        pb.GetConversationRequest(conversation_id=conversation.id), metadata=somebody
    )
    assert read.conversation == conversation


async def test_a_repeated_request_id_creates_once(stage: Stage, somebody: Metadata) -> None:
    request = pb.CreateConversationRequest(conversation=Conversation(title="Trip"), request_id="r-1")
    first, second = [await stage.conversations.CreateConversation(request, metadata=somebody) for _ in range(2)]
    assert first == second
    request.conversation.title = "Other"
    error = told(await failure(stage.conversations.CreateConversation(request, metadata=somebody)))
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_a_conversation_of_somebody_else_is_not_found(stage: Stage, somebody: Metadata) -> None:
    mine = await stage.conversation(somebody)
    stub, other = stage.conversations, signed_in(sub="mallory")
    for call in (
        stub.GetConversation(pb.GetConversationRequest(conversation_id=mine), metadata=other),
        stub.DeleteConversation(pb.DeleteConversationRequest(conversation_id=mine), metadata=other),
        stub.ListMessages(pb.ListMessagesRequest(conversation_id=mine), metadata=other),
        stub.UpdateConversation(
            pb.UpdateConversationRequest(conversation=Conversation(id=mine), update_mask=FieldMask(paths=["title"])),
            metadata=other,
        ),
        stub.PreviewContext(
            pb.PreviewContextRequest(conversation_id=mine, parts=[Part(text=TextPart(text="hi"))]), metadata=other
        ),
    ):
        error = told(await failure(call))
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "CONVERSATION_NOT_FOUND")


async def test_a_list_is_paged_and_filtered(stage: Stage, somebody: Metadata) -> None:
    for number in range(5):
        await created(stage, somebody, title=f"Trip {number}", labels={"even": str(number % 2 == 0)})

    async def titles(**fields) -> list[str]:
        found, request = [], pb.ListConversationsRequest(page_size=2, **fields)
        while True:
            page = await stage.conversations.ListConversations(request, metadata=somebody)
            assert len(page.conversations) <= 2
            found += [conversation.title for conversation in page.conversations]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    assert await titles() == ["Trip 4", "Trip 3", "Trip 2", "Trip 1", "Trip 0"]
    assert await titles(title_contains="trip 3") == ["Trip 3"]
    assert await titles(labels={"even": "True"}) == ["Trip 4", "Trip 2", "Trip 0"]


async def test_a_foreign_page_token_is_refused(stage: Stage, somebody: Metadata) -> None:
    for _ in range(2):
        await stage.conversation(somebody)
    page = await stage.conversations.ListConversations(pb.ListConversationsRequest(page_size=1), metadata=somebody)
    assert page.next_page_token
    request = pb.ListConversationsRequest(page_size=1, title_contains="x", page_token=page.next_page_token)
    error = told(await failure(stage.conversations.ListConversations(request, metadata=somebody)))
    assert (error.code, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["title"], {"title": "New"}),
        (["labels"], {"labels": {"b": "2"}}),
        (["settings"], {"settings": TurnSettings(model="small", sampling=Sampling(top_p=0.9))}),
        (["settings.model"], {"settings": {"model": "small"}}),
        (["settings.system_instruction"], {"settings": {"system_instruction": ""}}),
        (["settings.sampling"], {"settings": {"sampling": Sampling(top_p=0.9)}}),
        (
            ["settings.sampling.top_p", "settings.model"],
            {
                "settings": {
                    "model": "small",
                    "sampling": Sampling(temperature=0.5, max_output_tokens=100, top_p=0.9),
                }
            },
        ),
        # An absent field that is named is taken away, not set to zero.
        (["settings.sampling.temperature"], {"settings": {"sampling": Sampling(max_output_tokens=100)}}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
async def test_only_named_fields_change(stage: Stage, somebody: Metadata, paths: list[str], expected: dict) -> None:
    before = await created(stage, somebody, title="Old", settings=SETTINGS, labels={"a": "1"})
    asked = Conversation(
        id=before.id,
        title="New",
        labels={"b": "2"},
        settings=TurnSettings(model="small", sampling=Sampling(top_p=0.9)),
    )
    settings = TurnSettings()
    settings.CopyFrom(SETTINGS)
    wanted = expected.get("settings", {})
    if isinstance(wanted, TurnSettings):
        settings = wanted
    else:
        for name, value in wanted.items():
            if isinstance(value, Sampling):
                settings.sampling.CopyFrom(value)
            else:
                setattr(settings, name, value)
    after = await updated(stage, somebody, asked, *paths)
    assert after.title == expected.get("title", "Old")
    assert dict(after.labels) == expected.get("labels", {"a": "1"})
    assert after.settings == settings
    assert after.revision > before.revision


@pytest.mark.parametrize("paths", [[], ["id"], ["revision"], ["settings.nothing"], ["title", "head_message_id"], ["*"]])
async def test_a_mask_of_other_fields_is_refused(stage: Stage, somebody: Metadata, paths: list[str]) -> None:
    request = pb.UpdateConversationRequest(conversation=Conversation(id=new_id()), update_mask=FieldMask(paths=paths))
    error = told(await failure(stage.conversations.UpdateConversation(request, metadata=somebody)))
    assert (error.code, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["update_mask"])


async def test_an_update_must_name_the_conversation(stage: Stage, somebody: Metadata) -> None:
    request = pb.UpdateConversationRequest(conversation=Conversation(title="x"), update_mask=FieldMask(paths=["title"]))
    error = told(await failure(stage.conversations.UpdateConversation(request, metadata=somebody)))
    assert error.fields == ["conversation.id"]


@pytest.mark.parametrize("path", ["title", "settings.model"])
async def test_an_update_of_an_old_revision_is_aborted(stage: Stage, somebody: Metadata, path: str) -> None:
    conversation = await created(stage, somebody, title="Old")
    conversation = await updated(stage, somebody, conversation, "title")
    await updated(stage, somebody, conversation, "title", expected_revision=conversation.revision)
    request = pb.UpdateConversationRequest(
        conversation=conversation, update_mask=FieldMask(paths=[path]), expected_revision=conversation.revision
    )
    error = told(await failure(stage.conversations.UpdateConversation(request, metadata=somebody)))
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "REVISION_CONFLICT")


async def test_messages_are_listed_in_order_page_by_page(stage: Stage, somebody: Metadata) -> None:
    conversation = await stage.conversation(somebody)
    for text in ("one", "two"):
        await replied(stage, conversation, text, somebody)
    request, texts = pb.ListMessagesRequest(conversation_id=conversation, page_size=3), []
    while True:
        page = await stage.conversations.ListMessages(request, metadata=somebody)
        texts += [message.parts[0].text.text for message in page.messages]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert texts == ["one", "re: one", "two", "re: two"]
    newest = pb.ListMessagesRequest(conversation_id=conversation, page_size=1, newest_first=True)
    page = await stage.conversations.ListMessages(newest, metadata=somebody)
    assert [message.parts[0].text.text for message in page.messages] == ["re: two"]


async def test_a_reply_keeps_the_report_of_its_context(stage: Stage, somebody: Metadata) -> None:
    conversation = await stage.conversation(somebody)
    accepted = await replied(stage, conversation, "hello", somebody)
    request = pb.GetContextReportRequest(reply_id=accepted.reply_id)
    report = (await stage.conversations.GetContextReport(request, metadata=somebody)).report
    assert report.query_message_id == accepted.message.id
    assert [verbatim.message_id for verbatim in report.verbatim] == [accepted.message.id]
    unknown = pb.GetContextReportRequest(reply_id=new_id())
    error = told(await failure(stage.conversations.GetContextReport(unknown, metadata=somebody)))
    assert error.reason == "CONTEXT_REPORT_NOT_FOUND"


async def test_a_preview_shows_the_prompt_and_stores_nothing(stage: Stage, somebody: Metadata) -> None:
    conversation = await stage.conversation(somebody)
    accepted = await replied(stage, conversation, "hello", somebody)
    request = pb.PreviewContextRequest(
        conversation_id=conversation,
        parts=[Part(text=TextPart(text="and now?"))],
        settings=TurnSettings(system_instruction="Be brief."),
    )
    preview = await stage.conversations.PreviewContext(request, metadata=somebody)
    assert preview.report.query_message_id == ""
    assert [verbatim.message_id for verbatim in preview.report.verbatim] == [
        accepted.message.id,
        accepted.reply_id,
        "",
    ]
    assert "Be brief." in preview.prompt[0].content
    assert preview.prompt[0].section == context_report_pb2.PROMPT_SECTION_SYSTEM
    assert "and now?" in preview.prompt[-1].content
    listed = pb.ListMessagesRequest(conversation_id=conversation)
    assert len((await stage.conversations.ListMessages(listed, metadata=somebody)).messages) == 2


async def test_a_deleted_conversation_is_counted_and_gone_and_its_reply_stopped(
    stage: Stage, somebody: Metadata
) -> None:
    conversation = await stage.conversation(somebody)
    await replied(stage, conversation, "hello", somebody)
    async with Stream(stage, somebody) as stream:
        await stream.say(send=outgoing(conversation, "and?"))
        await stream.hear_kind("accepted")
        await stage.model.asked()
        request = pb.DeleteConversationRequest(conversation_id=conversation)
        receipt = await stage.conversations.DeleteConversation(request, metadata=somebody)
        assert receipt.messages == 4
        # The race of the reply's end with the deletion has two ends, and both are ends.
        while True:
            said = await stream.hear()
            if said.WhichOneof("event") == "rejected":
                break
            if said.reply.WhichOneof("event") == "completed":
                assert said.reply.completed.message.state == MESSAGE_STATE_CANCELLED
                break
    get = pb.GetConversationRequest(conversation_id=conversation)
    assert told(await failure(stage.conversations.GetConversation(get, metadata=somebody))).code is (
        grpc.StatusCode.NOT_FOUND
    )
