"""What is remembered from one conversation to another, and what is not: through Envoy, with the packaged model."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from uuid import uuid4

import grpc
import psycopg
import pytest
import pytest_asyncio
from chatapi.v1 import conversation_service_pb2 as pb
from chatapi.v1.chat_service_pb2 import MessageAccepted, SendMessageRequest
from chatapi.v1.context_report_pb2 import ContextReport
from chatapi.v1.conversation_pb2 import (
    CONVERSATION_MEMORY_PRIVATE,
    CONVERSATION_MEMORY_REMEMBERED,
    CONVERSATION_MEMORY_TEMPORARY,
    Conversation,
    ConversationMemory,
)
from chatapi.v1.message_pb2 import MESSAGE_STATE_ERASED, OutgoingMessage, Part, TextPart
from google.protobuf.field_mask_pb2 import FieldMask

from tests.e2e.stack import PATIENCE, SCRIPTS, Client, Dev, client, environment

FACT = "My sister Ines lives in Lisbon, near the river."
QUESTION = "Where does my sister Ines live?"


@pytest_asyncio.fixture
async def person(dev: Dev, token: str) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(dev.edge) as channel:
        yield client(channel, token)


async def conversation(person: Client, memory: ConversationMemory.ValueType = CONVERSATION_MEMORY_REMEMBERED) -> str:
    request = pb.CreateConversationRequest(conversation=Conversation(memory=memory))
    return (await person.conversations.CreateConversation(request, metadata=person.metadata)).conversation.id


def parts(text: str) -> list[Part]:
    return [Part(text=TextPart(text=text))]


async def say(person: Client, conversation_id: str, text: str) -> MessageAccepted:
    """Say something and wait for the end of the answer."""
    message = OutgoingMessage(conversation_id=conversation_id, client_message_id=str(uuid4()), parts=parts(text))
    call = person.chat.SendMessage(SendMessageRequest(message=message), metadata=person.metadata)
    async with asyncio.timeout(PATIENCE):
        first, *_ = [event async for event in call]
    return first.accepted


async def remembered(dev: Dev, *conversation_ids: str) -> None:
    """Wait until the background work of conversations is done."""
    due = "SELECT 1 FROM memory_tasks WHERE conversation_id = ANY(%s::uuid[]) AND due_at IS NOT NULL"
    async with await psycopg.AsyncConnection.connect(dev.database_url, autocommit=True) as connection:
        async with asyncio.timeout(PATIENCE):
            while await (await connection.execute(due, (list(conversation_ids),))).fetchone() is not None:
                await asyncio.sleep(0.05)


async def preview(person: Client, conversation_id: str) -> ContextReport:
    request = pb.PreviewContextRequest(conversation_id=conversation_id, parts=parts(QUESTION))
    return (await person.conversations.PreviewContext(request, metadata=person.metadata)).report


async def found(person: Client, conversation_id: str) -> list[str]:
    return [passage.text for passage in (await preview(person, conversation_id)).retrieved]


async def remember(person: Client, conversation_id: str, memory: ConversationMemory.ValueType) -> None:
    request = pb.UpdateConversationRequest(
        conversation=Conversation(id=conversation_id, memory=memory), update_mask=FieldMask(paths=["memory"])
    )
    await person.conversations.UpdateConversation(request, metadata=person.metadata)


async def test_a_private_conversation_is_found_from_nowhere_else_and_finds_the_others(dev: Dev, person: Client) -> None:
    telling, asking = await conversation(person), await conversation(person, CONVERSATION_MEMORY_PRIVATE)
    await say(person, telling, FACT)
    await remembered(dev, telling)
    assert FACT in await found(person, asking)
    await remember(person, telling, CONVERSATION_MEMORY_PRIVATE)
    assert await found(person, asking) == []
    await remember(person, telling, CONVERSATION_MEMORY_REMEMBERED)
    assert FACT in await found(person, asking)


async def test_a_temporary_conversation_neither_finds_nor_is_found(dev: Dev, person: Client) -> None:
    temporary, lasting = await conversation(person, CONVERSATION_MEMORY_TEMPORARY), await conversation(person)
    await say(person, temporary, FACT)
    await remembered(dev, temporary)
    assert await found(person, lasting) == []
    await say(person, lasting, FACT)
    await remembered(dev, lasting)
    assert await found(person, temporary) == []
    assert FACT in await found(person, await conversation(person))


async def test_what_is_erased_is_found_no_more_and_the_account_of_it_says_so(
    dev: Dev, person: Client, token: str
) -> None:
    telling, asking = await conversation(person), await conversation(person)
    told = await say(person, telling, FACT)
    await remembered(dev, telling)
    answer = await say(person, asking, QUESTION)
    before = explained(dev, token, answer.reply_id)
    assert FACT in before
    request = pb.EraseMessageRequest(message_id=told.message.id, include_reply=True)
    receipt = await person.conversations.EraseMessage(request, metadata=person.metadata)
    assert (receipt.messages, receipt.vectors >= 1, receipt.passages >= 1) == (2, True, True)
    after = explained(dev, token, answer.reply_id)
    assert FACT not in after
    assert "(erased since)" in after
    assert FACT not in " ".join(await found(person, asking))
    listing = pb.ListMessagesRequest(conversation_id=telling)
    listed = await person.conversations.ListMessages(listing, metadata=person.metadata)
    assert {message.state for message in listed.messages} == {MESSAGE_STATE_ERASED}


@pytest.mark.parametrize("as_json", [False, True])
async def test_what_would_be_said_is_explained(dev: Dev, person: Client, token: str, as_json: bool) -> None:
    telling, asking = await conversation(person), await conversation(person)
    await say(person, telling, FACT)
    await remembered(dev, telling)
    options = ("--json",) if as_json else ()
    told = explained(dev, token, *options, "--conversation", asking, QUESTION)
    assert FACT in told
    assert ('"retrieved"' in told) == as_json


def explained(dev: Dev, token: str, *arguments: str) -> str:
    done = subprocess.run(
        [SCRIPTS / "chatrpc", "explain", "--endpoint", dev.endpoint, "--token", token, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
