"""What is refused before it reaches a servicer, and how it is named."""

from __future__ import annotations

from uuid import UUID

import pytest
from chatapi.v1.chat_service_pb2 import CancelReplyRequest, ChatRequest, Ping, SendMessageRequest
from chatapi.v1.conversation_pb2 import Conversation
from chatapi.v1.conversation_service_pb2 import CreateConversationRequest, ListConversationsRequest
from chatapi.v1.message_pb2 import OutgoingMessage, Part, Sampling, TextPart, TurnSettings
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from chatrpc.errors import InvalidInput, Reason, ResourceExhausted
from chatrpc.rpc.status import InvalidRequest
from chatrpc.rpc.validation import Unreadable, checked, deserializer

ID = str(UUID(int=7))


def outgoing(*texts: str, **fields) -> OutgoingMessage:
    return OutgoingMessage(
        **{"conversation_id": ID, "client_message_id": "m"} | fields,
        parts=[Part(text=TextPart(text=text)) for text in texts],
    )


def fields_refused(request) -> list[str]:
    with pytest.raises(InvalidRequest) as error:
        checked(request)
    assert error.value.field in error.value.message
    return [violation.field for violation in error.value.violations]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (SendMessageRequest(message=outgoing("")), "message.parts[0].text.text"),
        (SendMessageRequest(message=outgoing("ok", "x" * 32769)), "message.parts[1].text.text"),
        (SendMessageRequest(message=outgoing()), "message.parts"),
        (SendMessageRequest(message=outgoing("ok", conversation_id="no uuid")), "message.conversation_id"),
        (SendMessageRequest(message=outgoing("ok", client_message_id="")), "message.client_message_id"),
        (SendMessageRequest(message=outgoing("ok", parent_id="p")), "message.parent_id"),
        (SendMessageRequest(message=outgoing("ok", coalesce_window=Duration(seconds=2))), "message.coalesce_window"),
        (SendMessageRequest(), "message"),
        (
            SendMessageRequest(message=outgoing("ok", settings=TurnSettings(memory_scope=99))),
            "message.settings.memory_scope",
        ),
        (
            SendMessageRequest(message=outgoing("ok", settings=TurnSettings(retrieval_mode=99))),
            "message.settings.retrieval_mode",
        ),
        (
            SendMessageRequest(message=outgoing("ok", settings=TurnSettings(sampling=Sampling(top_p=0)))),
            "message.settings.sampling.top_p",
        ),
        (ChatRequest(send=outgoing("")), "send.parts[0].text.text"),
        (ChatRequest(), "event"),
        (CancelReplyRequest(reply_id="r"), "reply_id"),
        (
            CreateConversationRequest(conversation=Conversation(labels={"a": "x" * 257})),
            'conversation.labels["a"]',
        ),
        (ListConversationsRequest(page_size=1001), "page_size"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_violation_names_the_field(request_, field: str) -> None:
    assert fields_refused(request_) == [field]


def test_all_violations_are_told_at_once() -> None:
    request = SendMessageRequest(message=outgoing("", "", client_message_id=""))
    assert fields_refused(request) == [
        "message.client_message_id",
        "message.parts[0].text.text",
        "message.parts[1].text.text",
    ]


def test_a_good_request_passes_unchanged() -> None:
    request = SendMessageRequest(message=outgoing("hello"))
    assert checked(request) is request


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (SendMessageRequest(message=outgoing("fine", "a\0b")), "message.parts[1].text.text"),
        (SendMessageRequest(message=outgoing("ok", client_message_id="\0")), "message.client_message_id"),
        (
            CreateConversationRequest(conversation=Conversation(title="a\0", labels={"a": "\0"})),
            "conversation.title conversation.labels",
        ),
    ],
)
def test_the_null_character_is_refused_because_it_cannot_be_stored(request_, field: str) -> None:
    assert fields_refused(request_) == field.split()


def test_zero_bytes_that_are_no_characters_pass() -> None:
    request = ChatRequest(ping=Ping())
    assert b"\0" in request.SerializeToString()
    assert checked(request) is request
    drawn = outgoing("ok", settings=TurnSettings(sampling=Sampling(temperature=0.0)))
    assert checked(SendMessageRequest(message=drawn)).message.settings.sampling.temperature == 0


def test_invalid_utf_8_is_told_with_the_request_id() -> None:
    text = b"\xff\xfe"
    part = b"\x0a" + bytes([len(text) + 2]) + b"\x0a" + bytes([len(text)]) + text
    send = b"\x1a" + bytes([len(part)]) + part
    raw = ChatRequest(request_id="r-1").SerializeToString() + b"\x12" + bytes([len(send)]) + send
    unreadable = deserializer(ChatRequest.FromString, 1000)(raw)
    assert isinstance(unreadable, Unreadable)
    assert unreadable.request_id == "r-1"
    with pytest.raises(InvalidInput) as error:
        checked(unreadable)
    assert "UTF-8" in error.value.message


def test_a_request_that_is_too_large_is_told_with_the_request_id() -> None:
    raw = ChatRequest(request_id="r-2", send=outgoing("x" * 2000)).SerializeToString()
    unreadable = deserializer(ChatRequest.FromString, 1000)(raw)
    assert unreadable.request_id == "r-2"
    with pytest.raises(ResourceExhausted) as error:
        checked(unreadable)
    assert error.value.reason is Reason.MESSAGE_TOO_LARGE
    assert isinstance(deserializer(ChatRequest.FromString, len(raw))(raw), ChatRequest)


@given(st.binary(max_size=200))
def test_no_bytes_whatever_raise_in_the_deserializer(raw: bytes) -> None:
    result = deserializer(ChatRequest.FromString, 100)(raw)
    assert isinstance(result, ChatRequest | Unreadable)
